"""What the training of a classifier and the pre-training of an encoder do before the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator
from huggingface_hub.errors import StrictDataclassError
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..data.corpus import Corpus, fingerprint_of
from ..data.labelled import Example, LabelledTokens, collect_labels, encode_examples, open_labelled
from ..data.shards import Shard
from ..data.tables import ReadOptions
from ..data.tokens import Tokens
from ..errors import ScratchError
from ..evaluation.classification import label_names_of
from ..hub.model_directory import kind_of_model
from ..hub.opening import load_model
from ..models.configuration_scratch_encoder import PRESETS, ScratchEncoderConfig
from ..models.configuration_scratch_gpt import ScratchGPTConfig
from ..models.modeling_scratch_encoder import ScratchEncoderForMaskedLM, ScratchEncoderForSequenceClassification
from ..models.modeling_scratch_gpt import ScratchGPTForSequenceClassification
from ..terminal import SafeConsole
from ..tokenization.training import Template, space_of_characters
from .data_setup import ReadExamples, open_parts, read_examples
from .encoder_arguments import ClassifierModelArguments, EncoderModelArguments, LabelledArguments
from .engine.startup import build_tokenizer, chosen_dropouts


def open_examples(data: LabelledArguments, seed: int) -> tuple[Corpus[Example], Corpus[Example] | None]:
    """The texts to train on and, where there is a split or a dataset of its own for that, those to validate on."""
    if data.num_texts < 1:
        raise ScratchError(f"num_texts is {data.num_texts}, want at least 1")

    def open_one(dataset: str, options: ReadOptions, validation: bool) -> Corpus[Example]:
        built_in = dataset == "languages"
        columns = {} if built_in else {"text_column": data.text_column, "label_column": data.label_column}
        count = max(2, data.num_texts // 4) if validation else data.num_texts
        return open_labelled(dataset, options, num_texts=count, seed=seed, **columns)

    return open_parts(data, data.max_texts, open_one)


def read_labelled(
    data: LabelledArguments, corpora: tuple[Corpus[Example], Corpus[Example] | None]
) -> tuple[ReadExamples[Example], list[str]]:
    """The examples of each split and the names of the labels, which `--label_names` may give.

    Raises:
        ScratchError: nothing is left for a split, or there is one label only.
    """
    found = read_examples(
        corpora,
        {"validation": data.validation_fraction},
        data.split_seed,
        key=lambda example: example[0],
        row=lambda example: {"text": example[0], "label": example[1]},
        texts=lambda example: example[:1],
        label=lambda example: example[1],
    )
    source = corpora[0]
    examples = [example for part in found.parts.values() for example in part]
    names = collect_labels(examples, source.label_names, source.name)
    if data.label_names is None or source.label_names is not None:
        return found, names
    if len(data.label_names) != len(names) or len(set(data.label_names)) != len(names):
        raise ScratchError(
            f"label_names are {', '.join(data.label_names)}, want a name for each of the labels {', '.join(names)}"
        )
    named = dict(zip(names, data.label_names, strict=True))
    for part in found.parts.values():
        part[:] = [(text, named[label]) for text, label in part]
    for counts in (found.summary.labels, found.summary.validation_labels):
        assert counts is not None
        for label in list(counts):
            counts[named[label]] = counts.pop(label)
    return found, list(data.label_names)


def build_label_tokenizer(data: LabelledArguments, train: list[Example], context_length: int, encoder: bool) -> Any:
    """The tokenizer of a fresh classifier, trained on the training texts unless it is named."""
    texts = [text for text, _ in train]
    template: Template = "encoder" if encoder else "causal"
    return build_tokenizer(
        data.tokenizer, data.vocab_size, lambda: iter(texts), fingerprint_of(*texts), context_length, template
    )


def build_config(args: EncoderModelArguments, vocab_size: int, ids: dict[str, int | None], **more: Any) -> Any:
    """The config of a fresh model.

    Raises:
        ScratchError: an unknown preset, or settings that break its rules.
    """
    encoder, layers = args.preset in PRESETS, args.num_hidden_layers
    if layers is None:
        layers = PRESETS.get(args.preset, {}).get("num_hidden_layers", 2)
    chosen: dict[str, Any] = {"intermediate_size": args.intermediate_size, **chosen_dropouts(args)}
    if encoder:
        chosen |= {n: getattr(args, n, None) for n in ("classifier_dropout", "classifier_pooling", "ngram_sizes")}
    try:
        if not isinstance(args, ClassifierModelArguments):
            if not encoder:
                raise ValueError(f"unknown preset {args.preset!r}: choose one of {', '.join(PRESETS)}")
            if layers == 0:
                raise ValueError("num_hidden_layers is 0, want at least 1: nothing else sees what a mask stands among")
        if not encoder and getattr(args, "ngram_sizes", None):
            raise ValueError(f"ngram_sizes are given for {args.preset!r}: they are of preset 'fasttext'")
        if not encoder and args.preset not in ScratchGPTConfig.presets:
            known = ", ".join([*PRESETS, *ScratchGPTConfig.presets])
            raise ValueError(f"unknown preset {args.preset!r}: choose one of {known}")
        return (ScratchEncoderConfig if encoder else ScratchGPTConfig).from_preset(
            args.preset,
            vocab_size=vocab_size,
            max_position_embeddings=args.context_length,
            hidden_size=args.hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=args.num_attention_heads,
            **ids,
            **{name: value for name, value in chosen.items() if value is not None},
            **more,
        )
    except (ValueError, StrictDataclassError) as error:
        raise ScratchError(str(error).split("ValueError: ")[-1]) from error


def ids_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    """The special tokens that a config knows."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def label_fields(names: Sequence[str]) -> dict[str, Any]:
    """The names of the labels, as a config has them."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def build_classifier(args: ClassifierModelArguments, tokenizer: PreTrainedTokenizerFast, names: list[str]) -> Any:
    """A fresh classifier in float32."""
    more = label_fields(names)
    if args.preset in PRESETS:
        more["boundary_token_id"] = space_of_characters(tokenizer)
    config = build_config(args, len(tokenizer), ids_of(tokenizer), **more)
    encoder = config.model_type == ScratchEncoderConfig.model_type
    return (ScratchEncoderForSequenceClassification if encoder else ScratchGPTForSequenceClassification)(config)


def known_labels(name: str, trust_remote_code: bool) -> list[str] | None:
    """The labels that a checkpoint was trained to tell apart; None where it is no classifier yet."""
    model = load_model(name, trust_remote_code)
    return label_names_of(model) if kind_of_model(model.config) == "classifier" else None


def load_classifier(name: str, args: ClassifierModelArguments, names: list[str] | None) -> PreTrainedModel:
    """A classifier from a checkpoint: one, or a model that reads or writes, with a fresh head for labels `names`."""
    chosen = chosen_dropouts(args)
    chosen |= {n: getattr(args, n) for n in ("classifier_dropout", "classifier_pooling")}
    fields = {name: value for name, value in chosen.items() if value is not None}
    return load_model(name, args.trust_remote_code, "classifier", **fields, **(label_fields(names) if names else {}))


def build_masked_model(args: EncoderModelArguments, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A fresh encoder with the masked-LM head, in float32."""
    return ScratchEncoderForMaskedLM(build_config(args, len(tokenizer), ids_of(tokenizer)))


def encode(
    examples: list[Example],
    names: list[str],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    accelerator: Accelerator,
    split: str,
) -> LabelledTokens:
    """Tokenise texts, with a progress bar, and say how many were too long."""
    main = accelerator.is_main_process
    with tqdm(
        total=len(examples), desc=f"tokenising {split}", unit=" texts", leave=False, disable=not main or None
    ) as bar:
        encoded = encode_examples(examples, names, tokenizer, max_length, bar.update)
    if encoded.long and main:
        SafeConsole(stderr=True).print(f"{encoded.long:,} {split} texts of over {max_length} tokens were cut")
    return encoded


def rows_of_documents(shard: Shard, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Tokens:
    """Documents as rows of at most `max_length` tokens, `<bos>` and `<eos>` included; a longer one goes on in the next
    row.

    Raises:
        ScratchError: there is no text in any.
    """
    bos, eos = np.uint32(tokenizer.bos_token_id), np.uint32(tokenizer.eos_token_id)
    room, rows, begin = max_length - 2, [], 0
    for end in shard.ends.tolist():
        document = np.asarray(shard.tokens[begin:end])
        begin = end
        if len(document) and document[-1] == eos:  # that closes it
            document = document[:-1]
        rows += [np.concatenate(([bos], document[i : i + room], [eos])) for i in range(0, len(document), room)]
    if not rows:
        raise ScratchError("there is no text to guess the words of: every document is empty")
    return Tokens(np.concatenate(rows).astype(np.uint32), np.cumsum([len(row) for row in rows], dtype=np.int64))
