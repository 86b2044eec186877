"""Open models and tokenizers by folder or Hub id, a stranger's too: what can be refused is refused before it is read.

Only safetensors are loaded, since a pickle runs code when it is opened. The code that a checkpoint brings runs only
where `trust_remote_code` was asked for, and is named before it does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from ..errors import ScratchError
from ..tokenization.training import BUILDERS
from .model_directory import AUTO_CLASSES, Kind, kind_of_model

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
WEIGHTS, INDEX = "model*.safetensors", "model.safetensors.index.json"
LENGTH_WARNING = "sequence-length-is-longer-than-the-specified-maximum"
NAMES = {
    "causal": "causal language",
    "seq2seq": "sequence-to-sequence",
    "masked": "masked language",
    "classifier": "classification",
}


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """The device that a command-line option names.

    Args:
        name: "auto", the accelerator of this machine (CUDA, MPS, XPU, ...) if there is one, else the CPU; or a device
            as PyTorch names it, such as "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        ScratchError: there is no such device here; the message names those that there are.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    count = torch.accelerator.device_count() if accelerator else 0
    available = ["cpu"] + [f"{accelerator.type}:{index}" for index in range(count) if accelerator]
    try:
        device = torch.device(name)
    except RuntimeError as error:
        known = ", ".join(available)
        raise ScratchError(f"unknown device {name!r}: want 'auto' or one that is available here ({known})") from error
    if device.type == "cpu" or (accelerator and device.type == accelerator.type and (device.index or 0) < count):
        return device
    if accelerator and device.type == accelerator.type:
        reason = f"this machine has {count} {device.type} device{'s' if count > 1 else ''}"
    elif device.type == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        reason = f"PyTorch {torch.__version__} is built without CUDA"
    else:
        reason = f"PyTorch {torch.__version__} finds no {device.type} device"
    raise ScratchError(f"device {name!r} is not available: {reason}; available: {', '.join(available)}")


def choose_dtype(name: str, device: torch.device) -> torch.dtype | Literal["auto"]:
    """The data type that a command-line option names.

    Args:
        name: "float32", "bfloat16", "float16", or "auto": float32 on a CPU and, on an accelerator, "auto", which
            `load_model` takes as the data type of the checkpoint.
        device: where the model will run.

    Raises:
        ScratchError: an unknown name; the message lists the known ones.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if name not in DTYPES:
        raise ScratchError(f"unknown dtype {name!r}: want one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def load_model(
    name: str | Path,
    trust_remote_code: bool = False,
    kind: Kind | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    **settings: Any,
) -> PreTrainedModel:
    """A model on a device; by default in float32 on the CPU, whatever it was saved in.

    Args:
        name: folder or Hub id.
        trust_remote_code: whether to run the code that the checkpoint brings. It is never asked for interactively.
        kind: what it is to be used for; None takes what it was saved for. A model that reads or writes can become a
            classifier, with a fresh head.
        device: where the weights are put.
        dtype: of the weights; "auto" takes that of the checkpoint.
        settings: fields of its config to change, such as dropouts.

    Raises:
        ScratchError: it can't be opened or trusted, is of another kind, or has no such settings.
    """
    try:
        check_files(Path(name))
        if trust_remote_code:
            _announce(name, PreTrainedConfig.get_config_dict(name)[0])
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        found = kind_of_model(config)
        if kind not in (None, found, "classifier") or (kind == "classifier" and found == "seq2seq"):
            raise ValueError(f"it is a {config.model_type} model, which is {found}")
        check_size(config, Path(name))
        model, report = AUTO_CLASSES[kind or found].from_pretrained(
            name,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, in a line of its own
            output_loading_info=True,
            **settings,
        )
        if report["mismatched_keys"]:
            weight, there, wanted = sorted(report["mismatched_keys"])[0]
            raise ValueError(f"{weight} has the shape {tuple(there)}, its config asks for {tuple(wanted)}")
        if report["missing_keys"] and kind in (None, found):
            raise ValueError(f"its weights lack {', '.join(sorted(report['missing_keys'])[:4])}")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        purpose = f"{NAMES[kind]} " if kind else ""
        raise ScratchError(f"no {purpose}model can be opened from {str(name)!r}: {error}") from error
    return model.to(device)


def open_tokenizer(name: str, subfolder: str = "", trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or Hub id, or of a folder in it.

    Args:
        name: folder or Hub id of a tokenizer or model.
        subfolder: folder in it that holds the tokenizer.
        trust_remote_code: whether to run the code that it brings. It is never asked for interactively.

    Raises:
        ScratchError: there is none, it is a slow one, or it has no token for the end of a text.
    """
    if name in BUILDERS:
        raise ScratchError(f"a {name} tokenizer would fit no trained model: leave --tokenizer out beside --init_from")
    try:
        check_files(Path(name))
        if trust_remote_code:
            _announce(name, get_tokenizer_config(name, subfolder=subfolder))
        tokenizer = AutoTokenizer.from_pretrained(name, subfolder=subfolder, trust_remote_code=trust_remote_code)
    except Exception as error:
        kinds = ", ".join(BUILDERS)
        raise ScratchError(
            f"tokenizer {name!r} is none of {kinds}, and no folder or Hub id that opens: {error}"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.eos_token_id is None:
        raise ScratchError(f"tokenizer {name!r} can't be used: want a fast one with an end-of-text token")
    tokenizer.deprecation_warnings[LENGTH_WARNING] = True  # every caller counts long texts itself
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
    """Raise ScratchError where the tokenizer knows more tokens than the model."""
    if len(tokenizer) > vocab_size:
        raise ScratchError(
            f"the tokenizer has {len(tokenizer)} tokens and the model's vocabulary {vocab_size}: use the "
            "model's own tokenizer"
        )


def check_files(folder: Path) -> None:
    """Raise ValueError where a local folder holds what is not to be opened: names or links that lead out of it (the
    Hub's cache links to its own blobs, and may), weights that are pickles, cut short, or no floating-point numbers."""
    if not folder.is_dir():
        return
    files = [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
    home = folder.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    for path in files:
        if not any(path.resolve().is_relative_to(place) for place in homes):
            raise ValueError(f"{path.relative_to(folder)} is a link to {path.resolve()}, outside of the folder")
    if (folder / INDEX).is_file():
        for part in set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()):
            if Path(part).name != part:
                raise ValueError(f"{INDEX} names {part!r}, want the name of a file in the same folder")
    weights = sorted(folder.glob(WEIGHTS))
    pickles = sorted(path.name for path in files if path.suffix in PICKLES and path.parent == folder)
    if pickles and not weights:
        raise ValueError(
            f"{pickles[0]} is a pickle, which runs code when it is opened: only safetensors are loaded; have its maker "
            "save it with save_pretrained"
        )
    for path in weights:
        _check_weights(path)


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, "pt") as file:
            types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or cut short: {error}") from error
    if strange := sorted(kind for kind in types if not kind.startswith(("F", "BF"))):
        raise ValueError(f"{path.name} holds numbers of type {', '.join(strange)}, want floating point")


def estimated_parameters(config: PreTrainedConfig) -> int:
    """About how many parameters a config asks for, from its sizes alone: embeddings (of tokens, and of runs of them
    where it has some), and blocks of attention and feed-forward network."""
    vocab, hidden = int(getattr(config, "vocab_size", 0) or 0), int(getattr(config, "hidden_size", 0) or 0)
    runs = int(getattr(config, "ngram_buckets", 0) or 0) * len(getattr(config, "ngram_sizes", [1]))
    if not hidden:
        return vocab * vocab  # a bigram table
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    stacks = ("encoder_layers", "decoder_layers") if config.is_encoder_decoder else ("num_hidden_layers",)
    layers = sum(int(getattr(config, name, 0) or 0) for name in stacks)
    return (vocab + runs) * hidden + layers * (4 * hidden * hidden + 2 * hidden * inner)


def check_size(config: PreTrainedConfig, folder: Path) -> None:
    """Raise ValueError where a config asks for more than machine or weights can hold, before memory is taken."""
    count = estimated_parameters(config)
    there = psutil.virtual_memory().total
    if 4 * count > there:
        raise ValueError(
            f"its config asks for about {count:,} parameters, which take {4 * count / 2**30:,.0f} GiB in float32; this "
            f"machine has {there / 2**30:,.0f} GiB"
        )
    stored = sum(path.stat().st_size for path in folder.glob(WEIGHTS)) if folder.is_dir() else 0
    if stored and count > stored:  # a parameter takes at least a byte
        raise ValueError(f"its config asks for about {count:,} parameters, its weights have {stored:,} bytes")


def _announce(name: str | Path, settings: dict[str, Any]) -> None:
    """Say which code is about to run, as the `auto_map` of a config names it."""
    named = settings.get("auto_map") or {}
    values = named.values() if isinstance(named, dict) else named  # tokenizers once had a list
    flat = [part for value in values for part in (value if isinstance(value, list | tuple) else [value])]
    if references := sorted({str(value) for value in flat if value}):
        print(f"running code that {name} brings: {', '.join(references)}", file=sys.stderr)
