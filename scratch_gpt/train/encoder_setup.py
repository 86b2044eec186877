"""What the training of a classifier and the pre-training of an encoder do before the loop."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from accelerate import Accelerator
from huggingface_hub.errors import StrictDataclassError
from rich.console import Console
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..data.labelled import (
    Example,
    LabelledSource,
    LabelledTokens,
    check_labels,
    collect_labels,
    encode_examples,
    open_labelled,
    split_examples,
    validation_split_of,
)
from ..data.pairs import fingerprint_of
from ..data.shards import is_validation
from ..data.sources import Source
from ..data.tokens import Tokens
from ..errors import ScratchError
from ..evaluation.classification import label_names_of
from ..hub.model_directory import kind_of_model
from ..hub.opening import load_model
from ..models.configuration_scratch_encoder import PRESETS, ScratchEncoderConfig
from ..models.configuration_scratch_gpt import ScratchGPTConfig
from ..models.modeling_scratch_encoder import ScratchEncoderForMaskedLM, ScratchEncoderForSequenceClassification
from ..models.modeling_scratch_gpt import ScratchGPTForSequenceClassification
from ..tokenization.training import Template, encode_batch, space_of_characters
from .encoder_arguments import ClassifierModelArguments, EncoderModelArguments, LabelledArguments
from .setup import build_tokenizer, chosen_dropouts

BATCH_TEXTS = 256


def open_examples(data: LabelledArguments, seed: int) -> tuple[LabelledSource, LabelledSource]:
    """The texts to train on and those to validate on; the same source twice, where a share is to be held out."""
    if not 0 < data.validation_fraction < 1:
        raise ScratchError(f"validation_fraction is {data.validation_fraction}, want a share between 0 and 1")
    for name in ("num_texts", "max_texts"):
        if (number := getattr(data, name)) is not None and number < 1:
            raise ScratchError(f"{name} is {number}, want at least 1")
    options: dict[str, Any] = {"text_column": data.text_column, "label_column": data.label_column}
    options |= {"config": data.dataset_config, "num_texts": data.num_texts, "seed": seed}
    train = open_labelled(data.dataset, split=data.dataset_split, max_rows=data.max_texts, **options)
    split = data.validation_split or validation_split_of(data.dataset)
    if data.validation_dataset is not None:
        return train, open_labelled(data.validation_dataset, split=split or "validation", **options)
    if split is None:
        return train, train
    if split == data.dataset_split:
        raise ScratchError(f"validation_split is {split!r}, which is trained on: name another")
    options["num_texts"] = max(2, data.num_texts // 4)
    return train, open_labelled(data.dataset, split=split, **options)


def read_examples(
    data: LabelledArguments, train: LabelledSource, validation: LabelledSource, known: list[str] | None = None
) -> tuple[list[Example], list[Example], list[str]]:
    """The examples of both sources, or of the two parts of one, and the names of the labels.

    Args:
        known: the labels of the model, where it is trained already.

    Raises:
        ScratchError: one of them is empty, there is one label only, or labels that are not known.
    """
    if train is validation:
        parts = split_examples(train, data.validation_fraction)
    else:
        parts = list(train.read()), list(validation.read())
    found = collect_labels([*parts[0], *parts[1]], train.label_names, train.name)
    if data.label_names is not None and train.label_names is None:
        if len(data.label_names) != len(found) or len(set(data.label_names)) != len(found):
            raise ScratchError(
                f"label_names are {', '.join(data.label_names)}, want a name for each of the labels {', '.join(found)}"
            )
        named = dict(zip(found, data.label_names, strict=True))
        for part in parts:
            part[:] = [(text, named[label]) for text, label in part]
        found = list(data.label_names)
    if known is not None:
        check_labels([*parts[0], *parts[1]], known, train.name)
    if not parts[0] or not parts[1]:
        raise ScratchError(
            f"{train.name} has too few texts: {len(parts[0])} to train on, {len(parts[1])} to validate on"
        )
    return *parts, known or found


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
        Console(stderr=True).print(f"{encoded.long:,} {split} texts of over {max_length} tokens were cut")
    return encoded


def encode_documents(
    source: Source,
    validation: Source | None,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    fraction: float,
    accelerator: Accelerator,
) -> dict[str, Tokens]:
    """Documents to rows of at most `max_length` tokens, special ones included: a longer one goes on in the next row.

    Every so-many-th document is held out or, where there are few, every so-many-th row.

    Raises:
        ScratchError: there is no text in one of the splits.
    """
    rows: dict[str, list[list[int]]] = {"train": [], "validation": []}
    for split, texts in (("train", source), ("validation", validation)):
        if texts is not None:
            rows[split] = _rows(texts, tokenizer, max_length, accelerator)
    if validation is None:
        everything, rows["train"] = rows["train"], []
        for number, row in enumerate(everything):
            rows["validation" if is_validation(number, fraction) else "train"].append(row)
    for split, found in rows.items():
        if not found:
            raise ScratchError(f"{source.name} has too little text: nothing is left for {split}")
    return {split: Tokens.of(found) for split, found in rows.items()}


def _rows(source: Source, tokenizer: PreTrainedTokenizerFast, max_length: int, accelerator: Accelerator) -> list:
    start, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    room, rows, documents = max_length - 2, [], source.documents()
    with tqdm(
        total=source.expected_characters(),
        desc=f"tokenising {source.name}",
        unit=" characters",
        unit_scale=True,
        leave=False,
        disable=not accelerator.is_main_process or None,
    ) as bar:
        while texts := list(islice(documents, BATCH_TEXTS)):
            for ids in encode_batch(tokenizer, texts):
                rows += [start + ids[i : i + room] + end for i in range(0, len(ids), room)]
            bar.update(sum(map(len, texts)))
    return rows
