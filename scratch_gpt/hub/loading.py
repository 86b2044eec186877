"""Load models and tokenizers by folder or Hub id. `directory_checks` first checks their files, which may be untrusted.

Only safetensors are loaded, since a pickle runs code when it is opened. Code from a checkpoint runs only with
`trust_remote_code`, and is named before it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import CONFIG_NAME, cached_file

from ..errors import ScratchError, tokenizer_errors
from ..models.configuration_scratch_seq2seq import directions_of
from ..not_found import why_no_path, why_not_found
from ..terminal import printable
from ..tokenization.language_codes import has_language_codes, set_language_codes
from ..tokenization.safety import check_growth, check_template
from ..tokenization.special_tokens import choose_padding, end_token_id
from ..tokenization.training import BUILDERS
from ..untrusted import read_json
from .directory_checks import check_files, check_size, check_values
from .model_directory import AUTO_CLASSES, TARGET_TOKENIZER, Kind, has_target_tokenizer, kind_of_model

LENGTH_WARNING = "sequence-length-is-longer-than-the-specified-maximum"
CUSTOM_GENERATE = "custom_generate/generate.py"  # transformers runs it instead of its own `generate`
NAMES = {
    "causal": "causal language",
    "seq2seq": "sequence-to-sequence",
    "masked": "masked language",
    "classifier": "classification",
    "encoder": "encoder",
}


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Tokenizers(NamedTuple):
    """Tokenizers of source and target; the same object if they share a vocabulary."""

    source: PreTrainedTokenizerFast
    target: PreTrainedTokenizerFast


def choose_device(name: str = "auto") -> torch.device:
    """Return the device for a command-line option.

    Args:
        name: "auto", the accelerator of this machine (CUDA, MPS, XPU, ...) if there is one, else the CPU; or a PyTorch
            device, such as "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        ScratchError: the device is not available; the message lists the available ones.
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
    """Return the data type for a command-line option.

    Args:
        name: "float32", "bfloat16", "float16", or "auto": float32 on a CPU and, on an accelerator, "auto", for which
            `load_model` uses the data type of the checkpoint.
        device: device of the model.

    Raises:
        ScratchError: the name is unknown; the message lists the known ones.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if name not in DTYPES:
        raise ScratchError(f"unknown dtype {name!r}: want one of auto, {', '.join(DTYPES)}, int8")
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
    """Load a model; by default in float32 on the CPU, whatever data type it was saved in.

    Args:
        name: folder or Hub id.
        trust_remote_code: whether to run code from the checkpoint. There is no interactive prompt.
        kind: kind of model to load; None uses that of the checkpoint. A causal or masked language model can be loaded
            as a classifier, with a new head.
        device: device of the weights.
        dtype: data type of the weights; "auto" uses that of the checkpoint.
        settings: config fields to override, such as dropouts.

    Raises:
        ScratchError: the checkpoint can't be opened, needs code that is not trusted, is of another kind, or has no such
            config fields.
    """
    try:
        config = _open_config(name, trust_remote_code)
        found = kind_of_model(config)
        if kind not in (None, found, "classifier") or (kind == "classifier" and found == "seq2seq"):
            raise ValueError(f"it is a {config.model_type} model, which is {found}")
        check_size(AUTO_CLASSES[kind or found], config, Path(name), trust_remote_code)
        model, report = AUTO_CLASSES[kind or found].from_pretrained(
            name,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
            output_loading_info=True,
            **settings,
        )
        check_report(report, kind not in (None, found))
        for weight, values in model.named_parameters():
            if values.numel() and not torch.isfinite(torch.stack(torch.aminmax(values.detach()))).all():
                raise ValueError(f"{weight} has numbers that are not finite")
    except Exception as error:  # a config that was tampered with can make any of them
        purpose = f"{NAMES[kind]} " if kind else ""
        reason = why_not_found(str(name), "model", error) or error
        raise ScratchError(f"no {purpose}model can be opened from {str(name)!r}: {reason}") from error
    return model.to(device)


def check_report(report: dict[str, Any], new_head: bool) -> None:
    """Check what `from_pretrained` reports of the weights that it loaded.

    Args:
        report: its loading info.
        new_head: whether weights may be missing, since the model has another head than the stored one.

    Raises:
        ScratchError: a weight has another shape than the config asks for, or is missing.
    """
    if report["mismatched_keys"]:
        weight, stored, expected = sorted(report["mismatched_keys"])[0]
        raise ScratchError(f"{weight} has the shape {tuple(stored)}, its config asks for {tuple(expected)}")
    if report["missing_keys"] and not new_head:
        raise ScratchError(f"its weights lack {', '.join(sorted(report['missing_keys'])[:4])}")


def open_config(name: str | Path, trust_remote_code: bool = False) -> Any:
    """Load the config of a model, without its weights.

    Args:
        name: folder or Hub id.
        trust_remote_code: whether to run code from the checkpoint.

    Raises:
        ScratchError: the config can't be opened, or needs code that is not trusted.
    """
    try:
        return _open_config(name, trust_remote_code)
    except Exception as error:  # a config that was tampered with can make any of them
        reason = why_not_found(str(name), "model", error) or error
        raise ScratchError(f"no model can be opened from {str(name)!r}: {reason}") from error


def _open_config(name: str | Path, trust_remote_code: bool) -> Any:
    if (reason := why_no_path(str(name))) is not None:
        raise ValueError(reason)
    check_files(Path(name))
    if Path(name).is_dir() and not Path(name, CONFIG_NAME).is_file():
        if Path(name, "adapter", "adapter_config.json").is_file():  # of a run with --adapter_only
            raise ValueError(
                "the folder has no model, only an adapter: merge it into its model (peft: merge_and_unload)"
            )
        raise ValueError(describe_unfinished(Path(name)) or f"the folder has no {CONFIG_NAME}, so it is not a model's")
    raw = read_json(Path(str(cached_file(name, CONFIG_NAME))))
    check_values(raw, CONFIG_NAME)
    if "quantization_config" in raw:
        raise ValueError("its weights are quantised, want floating point")
    if trust_remote_code:
        _announce(name, raw)
    return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)


def describe_unfinished(folder: Path) -> str | None:
    """What a folder without a model is, if it is that of a run which has not written its model yet; else None.

    Args:
        folder: an existing folder.
    """
    if not (folder / "run.yaml").is_file() or not (folder / "checkpoints").is_dir():
        return None
    steps = sorted(path.name.removeprefix("step-") for path in folder.glob("checkpoints/step-*") if path.is_dir())
    newest = next((f", whose newest checkpoint is step {int(step):,}" for step in steps[::-1] if step.isdecimal()), "")
    return (
        f"{folder} is an unfinished run{newest}: continue it with --resume "
        "(the model is written at an evaluation or at the end)"
    )


def open_tokenizer(
    name: str,
    subfolder: str = "",
    trust_remote_code: bool = False,
    needs_end: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> PreTrainedTokenizerFast:
    """Load a tokenizer; one without a padding token gets one (see `choose_padding`).

    Args:
        name: folder or Hub id of a tokenizer or model.
        subfolder: subfolder of the tokenizer.
        trust_remote_code: whether to run code from the checkpoint. There is no interactive prompt.
        needs_end: whether a token that ends a text is required (`eos_token` or `sep_token`).
        report: called with one line if a padding token was chosen.

    Raises:
        ScratchError: the tokenizer can't be opened or used, is not a fast one, or lacks the end-of-text token.
    """
    if name in BUILDERS:
        raise ScratchError(f"a {name} tokenizer does not match a trained model: omit --tokenizer with --init_from")
    try:
        if (reason := why_no_path(name)) is not None:
            raise ValueError(reason)
        check_files(Path(name))
        if trust_remote_code:
            _announce(name, get_tokenizer_config(name, subfolder=subfolder))
        with tokenizer_errors():
            tokenizer = AutoTokenizer.from_pretrained(name, subfolder=subfolder, trust_remote_code=trust_remote_code)
    except Exception as error:
        kinds = ", ".join(BUILDERS)
        raise ScratchError(
            f"tokenizer {name!r} is none of {kinds}, and no folder or Hub id that opens: "
            f"{why_not_found(name, 'tokenizer', error) or error}"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ScratchError(f"tokenizer {name!r} can't be used: it is a {type(tokenizer).__name__}, want a fast one")
    if needs_end and end_token_id(tokenizer) is None:
        raise ScratchError(
            f"tokenizer {name!r} can't be used: it has no token that ends a text, want an eos_token or a sep_token"
        )
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float):
        raise ScratchError(f"tokenizer {name!r} can't be used: its model_max_length is {longest!r:.60}, want a number")
    methods = [part for part in tokenizer.SPECIAL_TOKENS_ATTRIBUTES if callable(getattr(type(tokenizer), part, None))]
    if methods:  # the tokenizer opens, but a saved copy of it would not
        raise ScratchError(f"tokenizer {name!r} can't be used: a special token of it is called {methods[0]}")
    try:
        check_growth(tokenizer.backend_tokenizer)
        check_template(tokenizer.chat_template)
    except ScratchError as error:
        raise ScratchError(f"tokenizer {name!r} can't be used: {error}") from error
    # Settings of a saved tokenizer would pad or truncate every text.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.deprecation_warnings[LENGTH_WARNING] = True  # callers count long texts themselves
    if (chosen := choose_padding(tokenizer)) is not None:
        report(chosen)
    return tokenizer


def match_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Set the padding token of a model that has none to that of its tokenizer: that of the generation config and, of a
    classifier, that of the config, by which transformers' own decoders find the last token of a text.

    The config of a language model is not changed: a Llama whose padding token is also its end of text would not train
    the embedding of that token.
    """
    config: Any = model.config
    if config.pad_token_id is None and type(model).__name__.endswith("ForSequenceClassification"):
        config.pad_token_id = tokenizer.pad_token_id
    settings: Any = model.generation_config if model.can_generate() else None
    if settings is not None and settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
    """Check that all ids of a tokenizer are in the model's vocabulary.

    Raises:
        ScratchError: the tokenizer has more tokens than the model, or ids beyond its embedding.
    """
    largest = max([*tokenizer.get_vocab().values(), *tokenizer("a", verbose=False)["input_ids"]], default=0)
    count = max(len(tokenizer), largest + 1)
    if count > vocab_size:
        raise ScratchError(
            f"the tokenizer has {count} tokens and the model's vocabulary {vocab_size}: use the model's own tokenizer"
        )


def _announce(name: str | Path, settings: dict[str, Any]) -> None:
    """Print the code that is about to run: the references in the `auto_map` of a config, and a custom `generate`."""
    named = settings.get("auto_map") or {}
    values = named.values() if isinstance(named, dict) else named  # older tokenizers have a list
    flat = [part for value in values for part in (value if isinstance(value, list | tuple) else [value])]
    references = {str(value) for value in flat if value}
    optional = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
    if "architectures" in settings and cached_file(name, CUSTOM_GENERATE, **optional):
        references.add(CUSTOM_GENERATE)
    if references:
        message = f"running code from {name}: {', '.join(sorted(references))}"
        print(printable(message), file=sys.stderr)


def open_tokenizers(
    name: str, config: Any, trust_remote_code: bool = False, report: Callable[[str], None] = lambda line: None
) -> Tokenizers:
    """Load the tokenizers of an encoder-decoder. A tokenizer with language codes marks the languages that the config
    names.

    Args:
        name: folder or Hub id.
        config: the model's config.
        trust_remote_code: whether to run code from the checkpoint.
        report: called with one line for each tokenizer that has no padding token.

    Raises:
        ScratchError: one of the tokenizers can't be opened, or has no code for a language.
    """
    source = open_tokenizer(name, trust_remote_code=trust_remote_code, report=report)
    if has_language_codes(source) and (directions := directions_of(config)):
        set_language_codes(source, *directions[0])
    if not has_target_tokenizer(config):
        return Tokenizers(source, source)
    return Tokenizers(source, open_tokenizer(name, TARGET_TOKENIZER, trust_remote_code, report=report))
