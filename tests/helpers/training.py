"""Training runs and trainers of tiny models, and their output."""

import json

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from helpers.models import tiny_encoder
from helpers.processes import PRETRAIN, PROJECT, TINY_RUN, run_here, run_python
from scratch_gpt import (
    ScratchEncoderForMaskedLM,
    train_tokenizer,
)
from scratch_gpt.data.batching.token_lists import Tokens
from scratch_gpt.data.batching.token_shards import Shard
from scratch_gpt.hub.model_directory import ModelDirectory
from scratch_gpt.train.arguments.training import TrainingArguments
from scratch_gpt.train.engine.trainer import Trainer
from scratch_gpt.train.optim.optimizers import build_optimizers
from scratch_gpt.train.tasks.language_modeling.arguments import PretrainingArguments
from scratch_gpt.train.tasks.language_modeling.task import LanguageModeling
from scratch_gpt.train.tasks.masked_lm.task import MaskedLanguageModeling


def pretrain(folder, text, *arguments: str, check: bool = True, **environment: str):
    """Pre-train a tiny model; with `environment`, in a subprocess with these variables."""
    options = ("--output_dir", str(folder), "--dataset", str(text), *TINY_RUN, *arguments)
    if environment:
        return run_python(PRETRAIN, *options, cwd=PROJECT, check=check, **environment)
    return run_here(PRETRAIN, *options, check=check)


def metrics(folder) -> list[dict]:
    """The rows of `metrics.jsonl` of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder) -> dict[str, torch.Tensor]:
    """The weights of a model directory."""
    return load_file(folder / "model.safetensors")


def make_trainer(folder, model, batch_size=2, optimizers=None, lengths=(9, 16, 10, 11, 15, 9, 16, 12), **settings):
    """Build a trainer of language modelling on the CPU."""
    args = PretrainingArguments(output_dir=str(folder), batch_size=batch_size, **{**SETTINGS, **settings})
    accelerator, tokenizer = Accelerator(cpu=True), train_tokenizer(["a b c d"], "char")
    shards = {"train": shard_of(lengths), "validation": shard_of(lengths[:3])}
    task = LanguageModeling(accelerator, shards, tokenizer, ROW, batch_size, seed=1)
    folder.mkdir()
    directory = ModelDirectory(model, tokenizer, "", lambda: "a card")
    return Trainer(accelerator, model, optimizers or build_optimizers(model, args), task, args, directory, folder)


def trainer_with(folder, factors, **settings):
    """Build a trainer whose n-th evaluation has its metrics multiplied by the n-th of `factors`; without factors,
    validation scores no token."""
    tokenizer = train_tokenizer(["a b c d"], "char", template="encoder")
    model = tiny_encoder(ScratchEncoderForMaskedLM, "bert", vocab_size=len(tokenizer))
    texts, nothing = Tokens.of([tokenizer("a b c d")["input_ids"]] * 8), Tokens.of([[1, 2]])
    accelerator = Accelerator(cpu=True)
    validation = texts if factors else nothing
    known = accelerator, texts, validation, tokenizer, 32
    task = ScoresAtTimes(*known, mask_probability=0.5, seed=0, factors=factors or [1.0] * 9)
    folder.mkdir()
    common = {"max_steps": 6, "eval_every": 2, "warmup_steps": 0}
    args = TrainingArguments(output_dir=str(folder), **{**common, **settings})
    directory = ModelDirectory(model, tokenizer, "", lambda: "a card")
    return Trainer(accelerator, model, build_optimizers(model, args), task, args, directory, folder)


class ScoresAtTimes(MaskedLanguageModeling):
    """Masked language modelling whose n-th evaluation has its metrics multiplied by the n-th of `factors`."""

    def __init__(self, *args, factors, **kwargs):
        super().__init__(*args, **kwargs)
        self.factors = list(factors)

    def evaluate(self, model):
        factor = self.factors.pop(0)
        return {name: value * factor for name, value in super().evaluate(model).items()}


ROW = 16


SETTINGS = {"warmup_steps": 0, "schedule": "constant", "max_grad_norm": 0.0, "precision": "fp32", "compile": "off"}


def shard_of(lengths) -> Shard:
    """Documents of random tokens with these lengths."""
    tokens = np.random.default_rng(0).integers(5, 99, sum(lengths)).astype(np.uint16)
    return Shard(tokens, np.cumsum(lengths), len(tokens), len(tokens))
