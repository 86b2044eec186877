"""Settings that a launcher passes in environment variables, such as `accelerate launch --mixed_precision bf16`.

None is ignored: a setting replaces an argument that has its default value, and is refused if it contradicts one that
was given, or if this package has no such feature. The variables are those that accelerate's `utils/launch.py` sets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ...errors import ScratchError
from ..arguments.training import TrainingArguments

A = TypeVar("A", bound=TrainingArguments)

PRECISION, CPU = "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU"
ACCUMULATION, FSDP = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_USE_FSDP"
FSDP_VERSION, FSDP_STRATEGY = "FSDP_VERSION", "FSDP_SHARDING_STRATEGY"
FSDP_CHECKPOINTING = "FSDP_ACTIVATION_CHECKPOINTING"
PARALLELISM = "ACCELERATE_USE_PARALLELISM_CONFIG"
REPLICATE, SHARD = "PARALLELISM_CONFIG_DP_REPLICATE_SIZE", "PARALLELISM_CONFIG_DP_SHARD_SIZE"
OTHER_PARALLELISM = {
    "PARALLELISM_CONFIG_TP_SIZE": "tensor parallelism (tp_size)",
    "PARALLELISM_CONFIG_CP_SIZE": "context parallelism (cp_size)",
    "PARALLELISM_CONFIG_SP_SIZE": "sequence parallelism (sp_size)",
}
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
BACKEND = "ACCELERATE_DYNAMO_BACKEND"
# What the blocks are compiled without; each with the value that asks for nothing.
DYNAMO_OPTIONS = {
    "ACCELERATE_DYNAMO_MODE": ("--dynamo_mode", "default"),
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": ("--dynamo_use_fullgraph", "false"),
    "ACCELERATE_DYNAMO_USE_DYNAMIC": ("--dynamo_use_dynamic", "false"),
}
REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def is_set(name: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether an environment variable is a true boolean, as accelerate reads it."""
    return environment.get(name, "").strip().lower() in ("1", "true", "yes", "y", "t", "on")


def should_use_cpu() -> bool:
    """Whether to train on the CPU: there is no accelerator, or `accelerate launch --cpu` asks for it."""
    return not torch.accelerator.is_available() or is_set(CPU)


def restarts(environment: Mapping[str, str] = os.environ) -> int:
    """How many times torchrun has restarted the processes, because one of them or a machine was lost."""
    text = environment.get(RESTARTS, "").strip()
    return int(text) if text.isdecimal() else 0


def with_launcher_settings(args: A, environment: Mapping[str, str] = os.environ) -> A:
    """Return training arguments with the settings of the launcher.

    Args:
        args: training arguments, as parsed.
        environment: environment variables.

    Raises:
        ScratchError: a setting of the launcher contradicts an argument, or is not supported; all are reported together.
    """
    wrong = [
        f"{name} is not supported: use data parallelism or FSDP"
        for variable, name in REFUSED.items()
        if is_set(variable, environment)
    ]
    changes: dict[str, Any] = {}
    for name, value in (
        ("precision", _precision(args, environment, wrong)),
        ("compile", _compile(args, environment, wrong)),
        ("gradient_accumulation_steps", _accumulation(args, environment, wrong)),
        ("shard", _shard(environment, wrong)),
        ("replicas", _replicas(args, environment, wrong)),
    ):
        if value is not None:
            changes[name] = value
    if wrong:
        raise ScratchError(f"accelerate launch: {'; '.join(wrong)}")
    return replace(args, **changes)


def _precision(args: TrainingArguments, environment: Mapping[str, str], wrong: list[str]) -> str | None:
    """The precision that the launcher sets, or None. 'no' is also its default, so nothing follows from it."""
    value = environment.get(PRECISION, "no").strip().lower() or "no"
    if value == "no":
        return None
    if value != "bf16":
        wrong.append(f"mixed precision {value} is not supported: use bf16, or no")
        return None
    if args.precision == "fp32":
        wrong.append("mixed precision bf16 contradicts --precision fp32: remove one of them")
    return "bf16"


def _compile(args: TrainingArguments, environment: Mapping[str, str], wrong: list[str]) -> str | None:
    """The value of --compile that the launcher's TorchDynamo backend asks for, or None."""
    backend = environment.get(BACKEND, "no").strip().lower() or "no"
    if backend == "no":
        return None
    if backend != "inductor":
        wrong.append(f"the dynamo backend {backend} is not supported: use inductor, which compiles the blocks")
        return None
    for variable, (flag, default) in DYNAMO_OPTIONS.items():
        value = environment.get(variable, default).strip().lower()
        if value not in (default, ""):
            wrong.append(f"{flag} {value} has no effect on the compiled blocks: remove it")
    if args.compile == "off":
        wrong.append("the dynamo backend inductor contradicts --compile off: remove one of them")
    return "on"


def _shard(environment: Mapping[str, str], wrong: list[str]) -> bool | None:
    """True if the launcher asks for FSDP."""
    if not is_set(FSDP, environment):
        return None
    if environment.get(FSDP_VERSION, "1").strip() != "2":
        wrong.append("FSDP1 is not supported: add --fsdp_version 2")
        return True
    strategy = environment.get(FSDP_STRATEGY, "").strip().upper()
    if strategy not in ("", "NONE", "1", "FULL_SHARD"):  # the launcher always passes FULL_SHARD, its default
        wrong.append(
            f"fsdp_sharding_strategy {strategy} is one of FSDP1: for copies of the model, each sharded, use --replicas "
            "or dp_replicate_size of a parallelism config; for data parallelism, omit FSDP"
        )
    if is_set(FSDP_CHECKPOINTING, environment):
        wrong.append("fsdp_activation_checkpointing is not supported: use --gradient_checkpointing")
    return True


def _replicas(args: TrainingArguments, environment: Mapping[str, str], wrong: list[str]) -> int | None:
    """The number of sharded copies of the model that a parallelism config of the launcher sets, or None."""
    if not is_set(PARALLELISM, environment):
        return None
    refused = [name for variable, name in OTHER_PARALLELISM.items() if environment.get(variable, "1").strip() != "1"]
    if refused:
        wrong.append(f"{', '.join(refused)} is not supported: use data parallelism or FSDP")
    sizes = [environment.get(variable, "1").strip() for variable in (REPLICATE, SHARD)]
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        wrong.append(f"dp_replicate_size and dp_shard_size are {' and '.join(sizes)}, want integers of at least 1")
        return None
    replicas, shards = map(int, sizes)
    processes = environment.get("WORLD_SIZE", "").strip()
    if processes.isdecimal() and replicas * shards != int(processes):
        wrong.append(
            f"dp_replicate_size {replicas} x dp_shard_size {shards} is {replicas * shards}, want num_processes, "
            f"{processes}"
        )
    if not is_set(FSDP, environment):
        wrong.append("a parallelism config is supported with FSDP2 only: add --use_fsdp --fsdp_version 2")
    if args.replicas not in (1, replicas):
        wrong.append(f"dp_replicate_size {replicas} contradicts --replicas {args.replicas}: remove one of them")
    return replicas


def _accumulation(args: TrainingArguments, environment: Mapping[str, str], wrong: list[str]) -> int | None:
    """The number of accumulated batches that the launcher sets, or None."""
    text = environment.get(ACCUMULATION, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        wrong.append(f"{ACCUMULATION} is {text!r}, want an integer of at least 1")
        return None
    given = args.gradient_accumulation_steps
    if given not in (1, int(text)):
        wrong.append(f"{text} gradient accumulation steps contradict --gradient_accumulation_steps {given}: remove one")
    return int(text)


def describe_launcher_settings(args: TrainingArguments, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Describe what the launcher has set, one setting per line.

    Args:
        args: training arguments, as `with_launcher_settings` returned them.
        environment: environment variables.
    """
    lines = []
    if _precision(args, environment, []) is not None:
        lines.append("mixed precision bf16, as requested by the launcher")
    if _compile(args, environment, []) is not None:
        lines.append("blocks are compiled, as requested by the launcher (dynamo backend inductor)")
    if (steps := _accumulation(args, environment, [])) is not None:
        lines.append(f"gradients of {steps} batches are accumulated, as requested by the launcher")
    if _shard(environment, []):
        replicas = _replicas(args, environment, [])
        copies = f", {replicas} copies" if replicas not in (None, 1) else ""
        lines.append(f"weights are sharded{copies}, as requested by the launcher (FSDP2)")
    if args.resume and (count := restarts(environment)):
        lines.append(f"the run is resumed, as it was restarted by the launcher (restart {count})")
    if is_set(CPU, environment) and torch.accelerator.is_available():
        lines.append("training on the CPU, as requested by the launcher")
    return lines
