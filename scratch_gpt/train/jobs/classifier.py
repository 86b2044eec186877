"""Classifiers, of encoders and GPTs."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from ...data.labelled import Example, check_labels
from ...errors import ScratchError
from ...evaluation.classification import report_classifier
from ...hub import opening
from ...models.configuration_scratch_encoder import PRESETS
from .. import encoder_setup
from ..classification import Classification
from ..data_setup import ReadExamples, check_same_data, report_data, unknown_share
from ..encoder_arguments import (
    ClassifierModelArguments,
    ClassifierTrainingArguments,
    LabelledArguments,
)
from ..engine import startup
from ..engine.run import Job
from ..engine.task import check_sharding
from ..performance.attention_choice import choose_attention
from ..token_weights import count_token_weights

TYPES = (LabelledArguments, ClassifierModelArguments, ClassifierTrainingArguments)


def read(data: LabelledArguments, seed: int) -> tuple[ReadExamples[Example], list[str]]:
    """The texts of each split with their labels, and the names of the labels in order."""
    return encoder_setup.read_labelled(data, encoder_setup.open_examples(data, seed))


def prepare(
    data: LabelledArguments,
    model_args: ClassifierModelArguments,
    args: ClassifierTrainingArguments,
    resume_from: Path | None,
) -> Job:
    """Read the data, and build or open the model; what can't be trained is refused before anything is written."""
    origin = resume_from or model_args.init_from
    if origin is None:
        encoder_setup.build_config(model_args, vocab_size=8, ids={})
    found, names = read(data, args.seed)
    check_same_data(found.summary.fingerprint, args)
    train_examples, validation_examples = found.parts["train"], found.parts["validation"]

    accelerator = startup.start(args)
    check_sharding(Classification, accelerator)
    with accelerator.main_process_first():
        known = None
        if origin is not None:
            known = encoder_setup.known_labels(str(origin), model_args.trust_remote_code)
        if known is not None:
            check_labels([*train_examples, *validation_examples], known, found.summary.name)
            names = known
        if len({label for _, label in train_examples}) < 2:
            raise ScratchError(
                f"{found.summary.name} has too few texts: the {len(train_examples):,} to train on have one label only"
            )
        if origin is not None:
            model = encoder_setup.load_classifier(str(origin), model_args, None if known else names)
            tokenizer = opening.open_tokenizer(str(origin), trust_remote_code=model_args.trust_remote_code)
        else:
            tokenizer = encoder_setup.build_label_tokenizer(
                data, train_examples, model_args.context_length, model_args.preset in PRESETS
            )
            model = encoder_setup.build_classifier(model_args, tokenizer, names)
    opening.check_vocabulary(tokenizer, model.config.vocab_size)
    longest = min(model_args.context_length, model.config.max_position_embeddings)
    choose_attention(model, accelerator.device, longest)
    encode = partial(
        encoder_setup.encode, names=names, tokenizer=tokenizer, max_length=longest, accelerator=accelerator
    )
    train, validation = encode(train_examples, split="training"), encode(validation_examples, split="validation")
    found.summary.unknown_share = unknown_share(tokenizer, train.tokens.ids)
    report_data(found.summary, accelerator.is_main_process)
    if origin is None and getattr(model.config, "token_weights", False):
        mute = [token for token in (tokenizer.pad_token_id, tokenizer.mask_token_id) if token is not None]
        count_token_weights(model.model, train, mute)
    task = Classification(
        accelerator,
        train,
        validation,
        names,
        tokenizer,
        args.tokens_per_batch,
        args.seed,
        args.class_weights == "balanced",
        args.label_smoothing,
        args.word_dropout,
    )

    counts = Counter(label for _, label in [*train_examples, *validation_examples])
    style = type(model).__name__ if model_args.init_from else model_args.preset
    name = found.summary.name
    facts = {
        "task": "text-classification",
        "title": f"{style} on {name}",
        "style": style,
        "dataset": name,
        "license": "apache-2.0" if found.summary.built_in else data.dataset_license,
        "prompt": validation_examples[0][0],
        "context_length": model.config.max_position_embeddings,
        "labels": {name: counts[name] for name in names},
        "data": found.summary.record(),
        "train": {"texts": len(train), "tokens": len(train.tokens.ids), "long": train.long},
        "validation": {"texts": len(validation), "tokens": len(validation.tokens.ids), "long": validation.long},
    }

    def report(folder: Path) -> None:
        report_classifier(folder, validation_examples, model_args.trust_remote_code)

    return Job(accelerator, model, tokenizer, task, args, facts, report)
