"""Data and model of classification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ....data.batching.encoding import LabelledTokens, encode_examples
from ....data.readers.corpus import Corpus, fingerprint_of
from ....data.readers.labelled import Example, collect_labels, open_labelled
from ....data.readers.tables import ReadOptions
from ....errors import ScratchError
from ....evaluation.classification import label_names_of
from ....hub.loading import open_config
from ....hub.model_directory import kind_of_model
from ....models.configuration_scratch_encoder import PRESETS, ScratchEncoderConfig
from ....models.modeling_scratch_encoder import ScratchEncoderForSequenceClassification
from ....models.modeling_scratch_gpt import ScratchGPTForSequenceClassification
from ....terminal import SafeConsole
from ....tokenization.special_tokens import special_id_fields
from ....tokenization.training import Template, space_of_characters
from ..common import ReadExamples, build_tokenizer, dropout_fields, open_parts, read_examples
from ..encoder_model import build_config
from ..initial_model import load_initial_model
from .arguments import ClassifierModelArguments, LabelledArguments


def open_examples(data: LabelledArguments, seed: int) -> tuple[Corpus[Example], Corpus[Example] | None]:
    """Open the training texts and, if there is a separate split or dataset for it, the validation texts."""

    def open_one(dataset: str, options: ReadOptions, validation: bool) -> Corpus[Example]:
        built_in = dataset == "languages"
        columns = {} if built_in else {"text_column": data.text_column, "label_column": data.label_column}
        count = max(2, data.num_texts // 4) if validation else data.num_texts
        return open_labelled(dataset, options, num_texts=count, seed=seed, **columns)

    return open_parts(data, data.max_texts, open_one)


def read_labelled(
    data: LabelledArguments, corpora: tuple[Corpus[Example], Corpus[Example] | None]
) -> tuple[ReadExamples[Example], list[str]]:
    """Read the examples of each split and the names of the labels, which `--label_names` can give.

    Raises:
        ScratchError: a split is empty, there is only one label, or `--label_names` does not match the labels.
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
            f"label_names are {', '.join(data.label_names)}, want one name for each of the labels {', '.join(names)}"
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
    """Train the tokenizer of a new classifier on the training texts, or open the one that `--tokenizer` names.

    Args:
        data: data arguments.
        train: training examples.
        context_length: maximum length of a text in tokens.
        encoder: whether the model is an encoder, not a GPT.
    """
    texts = [text for text, _ in train]
    template: Template = "encoder" if encoder else "causal"
    return build_tokenizer(
        data.tokenizer, data.vocab_size, lambda: iter(texts), fingerprint_of(*texts), context_length, template
    )


def label_fields(names: Sequence[str]) -> dict[str, Any]:
    """The config fields with the names of the labels."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def build_classifier(args: ClassifierModelArguments, tokenizer: PreTrainedTokenizerFast, names: list[str]) -> Any:
    """Build a new classifier in float32."""
    more = label_fields(names)
    if args.preset in PRESETS:
        more["boundary_token_id"] = space_of_characters(tokenizer)
    config = build_config(args, len(tokenizer), special_id_fields(tokenizer), **more)
    encoder = config.model_type == ScratchEncoderConfig.model_type
    return (ScratchEncoderForSequenceClassification if encoder else ScratchGPTForSequenceClassification)(config)


def known_labels(name: str, trust_remote_code: bool) -> list[str] | None:
    """The labels of a checkpoint, from its config; None if it is not a classifier."""
    config = open_config(name, trust_remote_code)
    return label_names_of(config) if kind_of_model(config) == "classifier" else None


def load_classifier(name: str | Path, args: ClassifierModelArguments, names: list[str]) -> PreTrainedModel:
    """Load a classifier from the checkpoint of a classifier, or of an encoder or GPT, which then gets a new head.

    Args:
        name: directory or Hub id.
        args: model arguments: dropout and pooling, and `init_from`, unless `name` is the checkpoint of a resumed run.
        names: names of the labels, in order.
    """
    resumed = name != args.init_from
    chosen = dropout_fields(args)
    chosen |= {n: getattr(args, n) for n in ("classifier_dropout", "classifier_pooling")}
    fields = {name: value for name, value in chosen.items() if value is not None}
    return load_initial_model(name, args.trust_remote_code, "classifier", resumed, **fields, **label_fields(names))


def encode(
    examples: list[Example],
    names: list[str],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    accelerator: Accelerator,
    split: str,
) -> LabelledTokens:
    """Tokenise texts, with a progress bar, and report how many were truncated.

    Args:
        examples: texts and labels.
        names: names of the labels, in order.
        tokenizer: tokenizer of the model.
        max_length: maximum length of a text in tokens.
        accelerator: the processes; the main one reports.
        split: name of the split, for the report.
    """
    main = accelerator.is_main_process
    with tqdm(
        total=len(examples), desc=f"tokenising {split}", unit=" texts", leave=False, disable=not main or None
    ) as bar:
        encoded = encode_examples(examples, names, tokenizer, max_length, bar.update)
    if encoded.num_too_long and main:
        SafeConsole(stderr=True).print(
            f"{encoded.num_too_long:,} {split} texts of over {max_length} tokens were truncated"
        )
    return encoded
