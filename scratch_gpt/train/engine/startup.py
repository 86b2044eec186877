"""What every training run does before the loop: check, open, prepare."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, InitProcessGroupKwargs, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from huggingface_hub.errors import StrictDataclassError
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from ...data.shards import Shard, cache_directory, make_cache, prepare_texts
from ...data.sources import Source, open_source
from ...data.summary import DataSummary, summarise_texts
from ...data.tables import ReadOptions
from ...errors import ScratchError
from ...hardware import chooses_bf16, keep_memory, use_all_cores
from ...hub.opening import open_tokenizer
from ...models.configuration_scratch_bigram import ScratchBigramConfig
from ...models.configuration_scratch_gpt import ScratchGPTConfig
from ...models.modeling_scratch_bigram import ScratchBigramForCausalLM
from ...models.modeling_scratch_gpt import ScratchGPTForCausalLM
from ...tokenization.training import BUILDERS, Template, train_tokenizer
from ..arguments.training import DataArguments, ModelArguments, TrainingArguments
from ..data_setup import open_parts
from .run_directory import check_run_directory

DEFAULT_CONTEXT_LENGTH = 256
LONGEST_WAIT = timedelta(hours=6)  # of the other processes, while the first one prepares the data
TOKENIZER_FORMAT = 1  # of trained tokenizers in the cache: a change of how they are trained needs another
DROPOUTS = ("embedding_dropout", "attention_dropout", "residual_dropout")


def check_output_dir(args: TrainingArguments) -> None:
    """Refuse a folder that holds another run, or links through which a run would write elsewhere.

    Raises:
        ScratchError: it holds a run and this is not a resume, or it can't be used (see `check_run_directory`).
    """
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ScratchError(f"output_dir {folder} is a file: name a folder")
    held = [name for name in ("run.yaml", "config.json", "checkpoints") if (folder / name).exists()]
    check_run_directory(folder)
    if held and not args.resume:
        raise ScratchError(f"output_dir {folder} holds another run ({', '.join(held)}): name another, or --resume it")


def start_processes() -> PartialState:
    """Join the processes of the run; the `Accelerator` that `start` makes later is on top of it."""
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=LONGEST_WAIT)


def start(args: TrainingArguments) -> Accelerator:
    """Processes, precision, threads, trackers and seed."""
    logging.disable_progress_bar()
    if args.tracker and args.tracker not in [tracker.value for tracker in get_available_trackers()]:
        raise ScratchError(f"{args.tracker} is not installed: pip install 'scratch_gpt[{args.tracker}]'")
    try:
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # unasked, it does not join processes that have no accelerator
            mixed_precision="bf16" if chooses_bf16(args.precision) else "no",
            log_with=args.tracker,
            project_dir=args.output_dir if args.tracker else None,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
        )
    except (ValueError, RuntimeError) as error:
        raise ScratchError(f"precision {args.precision} can't be had here: {error}") from error
    if args.optimizer == "muon" and accelerator.distributed_type == DistributedType.FSDP:
        raise ScratchError("muon needs whole matrices, which FSDP cuts up: use --optimizer adamw, or data parallelism")
    use_all_cores(args.num_threads)
    keep_memory()
    set_seed(args.seed, device_specific=True)
    return accelerator


def make_output_dir(args: TrainingArguments) -> Path:
    """The folder of the run.

    Raises:
        ScratchError: it can't be made.
    """
    folder = Path(args.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScratchError(f"output_dir {folder} can't be made: {error.strerror}") from error
    return folder


def open_sources(args: DataArguments, seed: int) -> tuple[Source, Source | None]:
    """The texts to train on and, where there is a split or a dataset of its own for that, those to validate on."""

    def open_one(dataset: str, options: ReadOptions, validation: bool) -> Source:
        own = {"text_column": args.text_column} if dataset != "stories" else {}
        return open_source(dataset, options, num_stories=args.num_stories, seed=seed + validation, **own)

    return open_parts(args, args.max_documents, open_one)


def build_tokenizer(
    name: str,
    vocab_size: int | None,
    documents: Callable[[], Iterable[str]],
    fingerprint: str,
    max_length: int,
    template: Template = "causal",
) -> PreTrainedTokenizerFast:
    """Train a tokenizer of the kind `name` on `documents`, or open the one of that name. Trained ones are cached by
    the fingerprint of the documents."""
    if name not in BUILDERS:
        return open_tokenizer(name)
    settings = json.dumps([TOKENIZER_FORMAT, name, vocab_size, fingerprint, max_length, template])
    entry = cache_directory() / "tokenizers" / hashlib.sha256(settings.encode()).hexdigest()[:32]
    if not (entry / "tokenizer_config.json").exists():
        tokenizer = train_tokenizer(documents(), name, vocab_size, template, model_max_length=max_length)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory(prefix=f"{entry.name}.", dir=make_cache("tokenizers")) as beside:
            tokenizer.save_pretrained(beside)
            shutil.rmtree(entry, ignore_errors=True)
            shutil.copytree(beside, beside + ".whole")
            os.replace(beside + ".whole", entry)
    return open_tokenizer(str(entry))


def prepare_shards(
    accelerator: Accelerator,
    source: Source,
    validation: Source | None,
    tokenizer: PreTrainedTokenizerFast,
    args: DataArguments,
) -> tuple[dict[str, Shard], DataSummary]:
    """Tokenise on the first process, with a progress bar; the others find the result in the cache."""
    bar = tqdm(
        total=source.expected_characters(),
        desc=f"tokenising {source.name}",
        unit=" characters",
        unit_scale=True,
        leave=False,
        disable=not accelerator.is_main_process or None,
    )
    with accelerator.main_process_first(), bar:
        shards, reading = prepare_texts(
            source, tokenizer, args.validation_fraction, validation, bar.update, seed=args.split_seed
        )
    summary = summarise_texts(source, validation, reading)
    summary.unknown_share = shards["train"].unknown / max(1, len(shards["train"].tokens))
    summary.samples = [reading.prompt]
    return shards, summary


def build_config(args: ModelArguments, vocab_size: int, context_length: int, ids: dict[str, int | None]) -> Any:
    """The config of a fresh model.

    Raises:
        ScratchError: an unknown preset, or settings that break its rules.
    """
    shared: dict[str, Any] = {"vocab_size": vocab_size, "max_position_embeddings": context_length, **ids}
    try:
        if args.preset == "bigram":
            return ScratchBigramConfig(**shared)
        chosen = {
            **{name: getattr(args, name) for name in ("num_key_value_heads", "intermediate_size")},
            **chosen_dropouts(args),
            "tie_word_embeddings": args.tie_word_embeddings,
        }
        return ScratchGPTConfig.from_preset(
            args.preset,
            **shared,
            hidden_size=args.hidden_size,
            num_hidden_layers=args.num_hidden_layers,
            num_attention_heads=args.num_attention_heads,
            **{name: value for name, value in chosen.items() if value is not None},
        )
    except (ValueError, StrictDataclassError) as error:
        reason = str(error).split("ValueError: ")[-1]
        raise ScratchError(reason.replace("choose one of gpt2", "choose one of bigram, gpt2")) from error


def chosen_dropouts(args: Any) -> dict[str, Any]:
    """The fields of a config for what --dropout and --attention_dropout say, as far as they say something.

    Raises:
        ScratchError: one is no share.
    """
    given = {name: getattr(args, name, None) for name in ("dropout", "attention_dropout")}
    if wrong := [f"{name} is {share}" for name, share in given.items() if share is not None and not 0 <= share <= 1]:
        raise ScratchError(f"{'; '.join(wrong)}: want a share from 0 to 1")
    chosen = dict.fromkeys(DROPOUTS, args.dropout)
    if getattr(args, "attention_dropout", None) is not None:
        chosen["attention_dropout"] = args.attention_dropout
    return {name: share for name, share in chosen.items() if share is not None}


def build_model(config: Any) -> PreTrainedModel:
    """A fresh model in float32."""
    return (ScratchBigramForCausalLM if config.model_type == "scratch_bigram" else ScratchGPTForCausalLM)(config)


def check_init_from(data: Any, args: Any) -> None:
    """Raise ScratchError where --init_from stands beside settings that the checkpoint has already decided.

    Args:
        data, args: what to train on, and what to train; any of their dataclasses.
    """
    free = {"init_from", "trust_remote_code", "context_length", "dropout", "attention_dropout", "label_smoothing"}
    free |= {"classifier_dropout", "classifier_pooling", "lora_rank", "lora_alpha", "lora_targets"}
    given = [f.name for f in fields(args) if f.name not in free and getattr(args, f.name) != f.default]
    decided = {"vocab_size", "separate_vocabularies"} | (set() if isinstance(data, DataArguments) else {"tokenizer"})
    given += [f.name for f in fields(data) if f.name in decided and getattr(data, f.name) != f.default]
    if given:
        raise ScratchError(f"--init_from brings a model as it is: leave out {', '.join(f'--{name}' for name in given)}")


def check_context(config: Any, shards: dict[str, Shard], context_length: int) -> None:
    """Raise ScratchError where context, model and text do not fit together."""
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and context_length > most:
        raise ScratchError(f"context_length is {context_length}, the model takes at most {most} tokens")
    if context_length < 1:
        raise ScratchError(f"context_length is {context_length}, want at least 1")
    tokens = len(shards["train"].tokens)
    if tokens < context_length:
        raise ScratchError(
            f"the train text has {tokens} tokens, shorter than context_length {context_length}: give more text or a "
            "smaller context_length"
        )
