"""Train a text classifier: an encoder or a GPT with a classification head.

    scratch-gpt train classification                             # built in: German or English?
    scratch-gpt train classification --dataset reviews.tsv --label_names negative positive
    scratch-gpt train classification --init_from runs/encoder --dataset reviews.tsv

The output directory contains weights, config, tokenizer, model code, card, loss plot and confusion matrix:

    pipeline("text-classification", "runs/classifier", trust_remote_code=True)
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast

from ....data.batching.encoding import LabelledTokens
from ....data.readers.labelled import Example, check_labels
from ....errors import ScratchError
from ....evaluation.classification import report_classifier
from ....evaluation.positions import position_limit
from ....hub import loading
from ....models.configuration_scratch_encoder import PRESETS
from ...engine.recipe import DataPreview, Job, Recipe
from ...engine.startup import start
from ...performance.attention_choice import choose_attention
from .. import common
from ..common import ReadExamples
from ..context import MAX_TUNING_LENGTH, note_length
from ..encoder_model import build_config, max_length, new_context_length, note_fewer_positions
from . import build
from .arguments import ARGUMENTS, ClassifierModelArguments, ClassifierTrainingArguments, LabelledArguments
from .card import CARD
from .task import Classification
from .token_weights import count_token_weights


def prepare(
    data: LabelledArguments,
    model_args: ClassifierModelArguments,
    args: ClassifierTrainingArguments,
    resume_from: Path | None,
) -> Job:
    """Prepare a run; see `Recipe.prepare`.

    Args:
        data: data arguments.
        model_args: model arguments.
        args: training arguments.
        resume_from: checkpoint to resume from, or None.
    """
    origin = resume_from or model_args.init_from
    found, names = _read(data, model_args, args, origin)
    accelerator = start(args, model_args, resume_from)
    with accelerator.main_process_first():
        tokenizer = _load_or_train_tokenizer(data, model_args, found, origin)
        model = _load_or_build_model(model_args, tokenizer, names, origin, accelerator)
    encoded = _encode(accelerator, found, names, model, tokenizer, model_args, origin is None, args.tokens_per_batch)
    return _make_job(accelerator, model, tokenizer, encoded, found, names, data, model_args, args)


def _read(
    data: LabelledArguments,
    model_args: ClassifierModelArguments,
    args: ClassifierTrainingArguments,
    origin: str | Path | None,
) -> tuple[ReadExamples[Example], list[str]]:
    """Check the settings of a new model, then read the texts of each split and the names of the labels, in order: those
    of the checkpoint, if it is a classifier."""
    if origin is None:
        build_config(model_args, vocab_size=8, ids={})
    found, names = build.read_labelled(data, build.open_examples(data, args.seed))
    common.check_same_data(found.summary.fingerprint, args)
    known = None if origin is None else build.known_labels(str(origin), model_args.trust_remote_code)
    if known is not None:
        check_labels([example for part in found.parts.values() for example in part], known, found.summary.name)
    train = found.parts["train"]
    if len({label for _, label in train}) < 2:
        raise ScratchError(
            f"{found.summary.name} has too few texts: the {len(train):,} training texts have only one label"
        )
    return found, known or names


def _load_or_train_tokenizer(
    data: LabelledArguments,
    model_args: ClassifierModelArguments,
    found: ReadExamples[Example],
    origin: str | Path | None,
) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the checkpoint, that of `--tokenizer`, or a new one."""
    if origin is not None:
        trust = model_args.trust_remote_code
        opened = loading.open_tokenizer(str(origin), trust_remote_code=trust, needs_end=False, report=common.note)
        if opened.pad_token_id is None:
            raise ScratchError(
                f"the tokenizer of {origin} has no padding token, and no token to pad with: set its pad_token"
            )
        return opened
    encoder = model_args.preset in PRESETS
    tokenizer: PreTrainedTokenizerFast = build.build_label_tokenizer(
        data, found.parts["train"], new_context_length(model_args), encoder
    )
    return tokenizer


def _load_or_build_model(
    model_args: ClassifierModelArguments,
    tokenizer: PreTrainedTokenizerFast,
    names: list[str],
    origin: str | Path | None,
    accelerator: Accelerator,
) -> Any:
    """Return the model of the checkpoint, with a new head if it is not a classifier, or a new model."""
    if origin is not None:
        model: Any = build.load_classifier(origin, model_args, names)
    else:
        model = build.build_classifier(model_args, tokenizer, names)
    loading.check_vocabulary(tokenizer, model.config.vocab_size)
    loading.match_padding(model, tokenizer)
    note_fewer_positions(model_args, model)
    return model


def _encode(
    accelerator: Accelerator,
    found: ReadExamples[Example],
    names: list[str],
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    model_args: ClassifierModelArguments,
    is_new: bool,
    tokens_per_batch: int,
) -> dict[str, LabelledTokens]:
    """Tokenise the texts of each split; a new fastText model then gets its token weights."""
    to_tokens = partial(
        build.encode,
        names=names,
        tokenizer=tokenizer,
        max_length=max_length(model_args, model, MAX_TUNING_LENGTH),
        accelerator=accelerator,
    )
    encoded = {
        "train": to_tokens(found.parts["train"], split="training"),
        "validation": to_tokens(found.parts["validation"], split="validation"),
    }
    found.summary.unknown_share = common.unknown_share(tokenizer, encoded["train"].tokens.ids)
    common.report_data(found.summary, accelerator.is_main_process)
    if is_new and getattr(model.config, "token_weights", False):
        ignored = [token for token in (tokenizer.pad_token_id, tokenizer.mask_token_id) if token is not None]
        count_token_weights(model.model, encoded["train"], ignored)
    choose_attention(model, accelerator.device, max(int(part.tokens.lengths.max()) for part in encoded.values()))
    if model_args.init_from is not None and model_args.context_length is None:
        _note_length(encoded, model, model_args, tokens_per_batch)
    return encoded


def _note_length(
    encoded: dict[str, LabelledTokens], model: Any, model_args: ClassifierModelArguments, tokens_per_batch: int
) -> None:
    """Print the default maximum length, and the memory that the longest batch takes."""
    longest = max(int(part.tokens.lengths.max()) for part in encoded.values())
    limit = max_length(model_args, model, MAX_TUNING_LENGTH)
    chosen = f"texts of up to {limit:,} tokens are not truncated, and the longest has {longest:,}"
    note_length(chosen, model.config, max(longest, tokens_per_batch))


def _make_job(
    accelerator: Accelerator,
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    encoded: dict[str, LabelledTokens],
    found: ReadExamples[Example],
    names: list[str],
    data: LabelledArguments,
    model_args: ClassifierModelArguments,
    args: ClassifierTrainingArguments,
) -> Job:
    """Build the job from the results of the previous steps."""
    task = Classification(
        accelerator,
        encoded["train"],
        encoded["validation"],
        names,
        tokenizer,
        args.tokens_per_batch,
        args.seed,
        args.class_weights == "balanced",
        args.label_smoothing,
        args.word_dropout,
    )
    validation_examples = found.parts["validation"]
    counts = Counter(label for _, label in [*found.parts["train"], *validation_examples])
    style = type(model).__name__ if model_args.init_from else model_args.preset
    facts = common.run_facts(
        style,
        found.summary,
        data.dataset_license,
        prompt=validation_examples[0][0],
        context_length=position_limit(model.config) or max_length(model_args, model, MAX_TUNING_LENGTH),
        labels={name: counts[name] for name in names},
        **{
            split: {"texts": len(part), "tokens": len(part.tokens.ids), "long": part.num_too_long}
            for split, part in encoded.items()
        },
    )

    def report(folder: Path) -> None:
        report_classifier(folder, validation_examples, model_args.trust_remote_code)

    return Job(accelerator, model, tokenizer, task, args, facts, report)


def _read_preview(data: LabelledArguments, seed: int) -> ReadExamples[Example]:
    """Read the texts of each split, for `scratch-gpt data`."""
    return build.read_labelled(data, build.open_examples(data, seed))[0]


PREVIEW = DataPreview(common.preview_of(_read_preview), "encoder")
RECIPE = Recipe("classification", ARGUMENTS, prepare, CARD, PREVIEW)
