"""The sections of `gpu.py`. Each is a generator of rows: `name`, metrics and, of a check, whether it is `good`."""

from __future__ import annotations

import copy
import importlib.util
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import training_speed
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.nn import functional as F

import scratch_gpt
from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM
from scratch_gpt.evaluation.language_modeling import sum_of_losses
from scratch_gpt.train import train
from scratch_gpt.train.cost_estimate.accelerators import accelerator_of
from scratch_gpt.train.cost_estimate.this_machine import flops_per_token
from scratch_gpt.train.engine.sharding import shard
from scratch_gpt.train.optim.optimizers import build_optimizers
from scratch_gpt.train.performance.compile_blocks import can_compile, compile_blocks
from scratch_gpt.train.tasks.language_modeling.arguments import PretrainingArguments
from scratch_gpt.train.verify_run import verify_run

Row = dict[str, Any]
# layers, width, heads, context, rows, vocabulary: 124M parameters as GPT-2, or a model for a try on the CPU
SHAPES = {"gpu": (12, 768, 12, 1024, 16, 50304), "dry_run": (2, 32, 2, 32, 2, 65)}
# Error of a fast path in bfloat16, relative to that of eager attention in bfloat16, both against float32
TOLERANCE = 2.0


@dataclass(frozen=True)
class Setting:
    """Where and on what a section runs.

    Attributes:
        dry: whether to try the sections out on the CPU with a tiny model.
    """

    dry: bool

    @property
    def device(self) -> torch.device:
        """The GPU, or the CPU in a dry run."""
        return torch.device("cpu" if self.dry else "cuda")

    @property
    def shape(self) -> str:
        """Name of the shape in `SHAPES`."""
        return "dry_run" if self.dry else "gpu"

    def model(self, style: str) -> ScratchGPTForCausalLM:
        """A new model of a style, in training mode; without dropout, so that paths can be compared."""
        layers, width, heads, context, _, vocabulary = SHAPES[self.shape]
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        off = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), 0.0)
        torch.manual_seed(0)
        config = ScratchGPTConfig.from_preset(
            style, vocab_size=vocabulary, max_position_embeddings=max(context, self.packed), **sizes, **off
        )
        model: Any = ScratchGPTForCausalLM(config)
        return model.to(self.device).train()

    def batch(self, rows: int) -> dict[str, torch.Tensor]:
        """Random tokens with labels."""
        *_, context, _, vocabulary = SHAPES[self.shape]
        tokens = torch.randint(3, vocabulary, (rows, context), generator=torch.Generator().manual_seed(0))
        labels = F.pad(tokens[:, 1:], (0, 1), value=-100)
        return {"input_ids": tokens.to(self.device), "labels": labels.to(self.device)}

    @property
    def packed(self) -> int:
        """Length in tokens of a row of packed documents."""
        return 64 if self.dry else 8192

    def autocast(self, enabled: bool = True) -> Any:
        """Context that computes in bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if not self.dry:
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        """Free what is not used, and measure the peak of memory from here on."""
        if not self.dry:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        """The peak of allocated memory in GB; None on the CPU."""
        return None if self.dry else torch.cuda.max_memory_allocated() / 1e9

    def seconds(self, action: Callable[[], Any], budget: float) -> float:
        """Median duration of an action in seconds, after warm-up, of as many as fit into the budget, at least two."""
        for _ in range(2):
            action()
        times: list[float] = []
        while len(times) < 2 or sum(times) < (0.2 if self.dry else budget):
            self.synchronize()
            started = time.perf_counter()
            action()
            self.synchronize()
            times.append(time.perf_counter() - started)
        return statistics.median(times)


def device(setting: Setting) -> Iterator[Row]:
    """What the machine is."""
    if setting.dry:
        yield {"name": "CPU, a dry run: no figure here is a result", "threads": torch.get_num_threads()}
        return
    properties = torch.cuda.get_device_properties(0)
    known = accelerator_of(properties.name)
    peak = None if known is None else known.flops / 1e12
    yield {"name": properties.name, "memory_gb": properties.total_memory / 1e9, "peak_tflops": peak}


def gradients(setting: Setting, model: Any, bf16: bool, whole_logits: bool = False) -> tuple[float, torch.Tensor]:
    """The mean loss of a batch, and all gradients in one vector."""
    batch = setting.batch(2)
    scored = int((batch["labels"] != -100).sum())
    with setting.autocast(bf16):
        if whole_logits:
            logits = model(batch["input_ids"], use_cache=False).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten())
        else:
            loss = sum_of_losses(model, batch) / scored
    loss.backward()
    parts = [p.grad.flatten().float() for p in model.parameters() if p.grad is not None]
    return float(loss), torch.cat(parts)


def parity(setting: Setting) -> Iterator[Row]:
    """Loss and gradients of each path in bfloat16 against eager attention in float32; a fast path may be off by at most
    twice as much as eager attention in bfloat16."""
    paths: list[tuple[str, str, bool, bool]] = [
        ("eager", "eager", False, False),
        ("whole logits", "eager", False, True),
    ]
    paths += [("sdpa", "sdpa", False, False)]
    if not setting.dry:  # flex attention has no backward pass on a CPU, and compilation takes long there
        paths += [("flex", "flex_attention", False, False)]
        paths += [("compiled", "sdpa", True, False)] * can_compile("cuda")
    for style in ("llama",) if setting.dry else ("gpt2", "llama", "nanochat"):
        original = setting.model(style)
        reference = copy.deepcopy(original)
        reference.set_attn_implementation("eager")
        loss, expected = gradients(setting, reference, bf16=False)
        allowed = None
        for name, attention, compiled, whole_logits in paths:
            model = copy.deepcopy(original)
            model.set_attn_implementation(attention)
            compile_blocks(model, "on" if compiled else "off", 0, fixed_shape=True)
            found, vector = gradients(setting, model, True, whole_logits)
            error = float((vector - expected).norm() / expected.norm())
            allowed = TOLERANCE * error if allowed is None else allowed
            row = {"name": f"{style} {name}", "loss_error": abs(found - loss) / loss, "gradient_error": error}
            yield {**row, "good": error <= allowed}


def training(setting: Setting) -> Iterator[Row]:
    """Tokens per second, share of the peak and memory of a training step in bfloat16 with fused AdamW."""
    *_, context, rows, _ = SHAPES[setting.shape]
    training_speed.SHAPES.update(SHAPES)
    flops = flops_per_token(setting.model("gpt2").config, context)
    known = None if setting.dry else accelerator_of(torch.cuda.get_device_name(0))
    compiles = not setting.dry and can_compile("cuda")
    names = ["transformers gpt2", "ours gpt2"] + ["ours gpt2 compiled", "ours llama compiled"] * compiles
    names += ["nanoGPT compiled"] * ("NANOGPT" in os.environ and compiles)
    for name in names:
        setting.reset_peak()
        step = training_step(setting, name)
        seconds = setting.seconds(step, budget=6)
        speed = rows * context / seconds
        share = None if known is None else speed * flops / known.flops
        yield {"name": name, "tokens_per_second": speed, "share_of_peak": share, "peak_memory_gb": setting.peak()}
        del step
    if "NANOGPT" not in os.environ:
        yield {"name": "nanoGPT", "skipped": "set NANOGPT to a checkout"}


def training_step(setting: Setting, name: str) -> Callable[[], None]:
    """A step of a contender of `training`."""
    *_, context, rows, _ = SHAPES[setting.shape]
    kind, _, style = name.removesuffix(" compiled").partition(" ")
    model: Any
    if kind == "ours":
        model = setting.model(style)
        compile_blocks(model, "on" if name.endswith("compiled") else "off", 0, fixed_shape=True)
    elif kind == "nanoGPT":
        model = torch.compile(training_speed.nanogpt(setting.shape).to(setting.device).train())
    else:
        model = training_speed.native(style, setting.shape, context).to(setting.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch = setting.batch(rows)
    tokens, labels = batch["input_ids"], batch["labels"]
    scored = int((labels != -100).sum())

    def step() -> None:
        with setting.autocast():
            if kind == "ours":
                loss = sum_of_losses(model, batch) / scored
            elif kind == "nanoGPT":
                loss = model(tokens, torch.where(labels == -100, -1, labels))[1]
            else:
                loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def attention(setting: Setting) -> Iterator[Row]:
    """A row of packed documents: parity with each document alone in float32, speed and memory of a step."""
    total, count = setting.packed, 4 if setting.dry else 16
    generator = torch.Generator().manual_seed(0)
    ends = sorted(torch.randperm(total - 1, generator=generator)[: count - 1].add(1).tolist())
    lengths = [b - a for a, b in zip([0, *ends], [*ends, total], strict=True)]
    original = setting.model("llama")
    tokens = torch.randint(3, original.config.vocab_size, (1, total), generator=generator).to(setting.device)
    positions = torch.cat([torch.arange(length) for length in lengths])[None].to(setting.device)
    original.set_attn_implementation("sdpa")
    with torch.no_grad():
        starts = [0, *accumulate(lengths)][:-1]
        alone = [original.model(tokens[:, s : s + n]).last_hidden_state for s, n in zip(starts, lengths, strict=True)]
    expected, allowed = torch.cat(alone, dim=1), None
    for name in ("sdpa", "flex_attention", "flash_attention_2"):
        if missing := missing_for(name, setting):
            yield {"name": name, "skipped": missing}
            continue
        model = copy.deepcopy(original)
        model.set_attn_implementation(name)
        setting.reset_peak()

        def step(model: Any = model) -> torch.Tensor:
            with setting.autocast():
                states = model.model(tokens, position_ids=positions, use_cache=False).last_hidden_state
            states.float().square().mean().backward()
            model.zero_grad(set_to_none=True)
            return states.detach()

        error = float((step() - expected).norm() / expected.norm())
        allowed = TOLERANCE * error if allowed is None else allowed
        speed = total / setting.seconds(step, budget=4)
        row = {"name": name, "error": error, "tokens_per_second": speed, "peak_memory_gb": setting.peak()}
        yield {**row, "good": error <= max(allowed, 0.02)}


def missing_for(name: str, setting: Setting) -> str | None:
    """Why an attention implementation can't be trained with here, or None."""
    if setting.dry and name != "sdpa":
        return "needs a GPU"
    if name == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        return "needs the package flash_attn"
    return None


def decoding(setting: Setting) -> Iterator[Row]:
    """Tokens per second of greedy decoding beside transformers' class with the same weights, in bfloat16."""
    new, prompt = (8, 4) if setting.dry else (128, 16)
    model: Any = setting.model("llama").eval()
    contenders = {"transformers": scratch_gpt.export_native(model).eval().bfloat16(), "ours": model.bfloat16()}
    if setting.dry:
        model.decoding_compilation = "off"  # takes longer than the rest
    for rows in (1, 64):
        ids = torch.randint(3, 60, (rows, prompt), generator=torch.Generator().manual_seed(0)).to(setting.device)
        peer = None
        for name, contender in contenders.items():

            def generate(contender: Any = contender, ids: torch.Tensor = ids) -> None:
                options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": new}
                found = contender.to(setting.device).generate(ids, attention_mask=torch.ones_like(ids), **options)
                assert found.shape == (len(ids), prompt + new), found.shape

            setting.reset_peak()
            speed = rows * new / setting.seconds(generate, budget=5)
            peer = speed if peer is None else peer
            row = {"name": f"{name}, batch {rows}", "tokens_per_second": speed, "ratio": speed / peer}
            yield {**row, "peak_memory_gb": setting.peak()}


def sharding(setting: Setting) -> Iterator[Row]:
    """A model sharded over one process (FSDP2) has the losses of one that is not, with Muon and AdamW."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    accelerator = Accelerator(cpu=setting.dry, mixed_precision="bf16")
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    whole = setting.model("llama")
    losses: dict[str, list[float]] = {}
    sharded = copy.deepcopy(whole)
    shard(sharded, accelerator, replicas=1)
    for name, model in (("whole", whole), ("sharded", sharded)):
        setting.reset_peak()
        optimizers, batch = build_optimizers(model, PretrainingArguments(optimizer="muon")), setting.batch(2)
        losses[name] = []
        for _ in range(4):
            with setting.autocast():
                loss = sum_of_losses(model, batch) / batch["labels"].numel()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            losses[name].append(float(loss))
        yield {"name": name, "last_loss": losses[name][-1], "peak_memory_gb": setting.peak()}
    pairs = zip(losses["whole"], losses["sharded"], strict=True)
    worst = max(abs(a - b) / abs(a) for a, b in pairs)
    torch.distributed.destroy_process_group()
    yield {"name": "largest relative difference of four losses", "loss_error": worst, "good": worst < 1e-2}


def resume(setting: Setting) -> Iterator[Row]:
    """A training run, all of whose checkpoints are verified; the steps after a resume are bit-equal."""
    width, layers = (32, 2) if setting.dry else (384, 6)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2}
    steps = {"max_steps": 6, "save_every": 3, "eval_every": 3, "log_every": 3, "baselines": False}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        train("language_modeling", output_dir=str(run), num_stories=200, tokenizer="char", **sizes, **steps)
        for finding in verify_run(run):
            yield {"name": finding.what, "found": finding.found, "good": finding.good}


# Each with the seconds that it may take on a GPU; together eight minutes with the start.
SECTIONS: dict[str, tuple[Callable[[Setting], Iterator[Row]], float]] = {
    "device": (device, 20),
    "parity": (parity, 90),
    "training": (training, 130),
    "attention": (attention, 60),
    "decoding": (decoding, 80),
    "sharding": (sharding, 40),
    "resume": (resume, 50),
}
