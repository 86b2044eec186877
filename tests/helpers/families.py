"""The tables of docs/reference/families.md, from the twins and presets of the package."""

import functools
import inspect
import itertools
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from helpers.models import tiny_config, tiny_seq2seq_config
from scratch_gpt import ScratchEncoderConfig, ScratchGPTConfig, ScratchSeq2SeqConfig, train_tokenizer
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.engines.export import Source
from scratch_gpt.hub.engines.formats import FORMATS
from scratch_gpt.hub.loading import Tokenizers
from scratch_gpt.hub.native.convert import find_twin
from scratch_gpt.hub.native.registry import TWINS
from scratch_gpt.hub.native.twin import Twin
from scratch_gpt.models.configuration_block import ROPE_TYPES

PUBLISHED = Path(__file__).parent / "published_configs"
KINDS = {
    ScratchGPTConfig: "GPT",
    ScratchSeq2SeqConfig: "Encoder-decoder",
    ScratchEncoderConfig: "Encoder",
}
INTRODUCTION = """\
# Families of models

Which published models can be opened, tuned, trained anew and taken to other engines.

`scratch-gpt import` converts a checkpoint of one of these families to this package's classes, `scratch-gpt export`
converts it back, and `--preset NAME` trains a new model with the same architecture. The logits are the same up to
rounding, which tests check with each class of transformers (`tests/hub`). `python tests/hub/test_families_table.py`
writes this file from the code.

## Conversion

*type* is the `model_type` in a checkpoint's `config.json`; the *preset* has the same name, or that in parentheses. If
yours is in the table, its class is under [checkpoints](#checkpoints). A model with the settings of the preset can also
be exported to the *engines*: `gguf` (llama.cpp), `ctranslate2`, `onnx`.

"""
NOT_SUPPORTED = f"""\

**Rotary positions**: the types {", ".join(f"`{name}`" for name in ROPE_TYPES)}.

**Not supported**, and refused with the reason:

- families that are not in the table, by the name of their class: `cannot import a FalconForCausalLM`;
- settings of a listed family that this package can't express, by their names;
- multimodal models (images, sound), and the text parts of their checkpoints;
- quantized checkpoints (GPTQ, AWQ, bitsandbytes): take the original one in floating point;
- weights in other formats than safetensors.

**Tested** are, for each class, tiny models with random weights, and the configs of published checkpoints by value. Real
weights of one checkpoint were tried ([compatibility](../results/compatibility.md)): compare the logits of yours once.
"""
DETAILS = """\

## Checkpoints

The checkpoints are those whose configs are tested, with their numbers of parameters; others of the same classes can be
imported too. An imported model is exported to its own class.

"""
PRESETS_INTRODUCTION = """\
## Presets

A preset is a set of values of independent config fields. Of a preset that begins as another one does, only the fields
that differ are listed.

"""


def families_page() -> str:
    """The content of docs/reference/families.md."""
    families = [list(twins) for _, twins in itertools.groupby(TWINS, type)]
    page = INTRODUCTION + table(("family", "type (preset)", "engines"), map(family_row, families)) + NOT_SUPPORTED
    page += DETAILS + "".join(map(family_details, families)) + PRESETS_INTRODUCTION
    for config_class, kind in KINDS.items():
        page += f"### {kind}\n\n"
        presets, words = config_class.presets, config_class.preset_descriptions
        for name in presets:
            page += definition(f"`{name}`", [words.get(name, ""), f"Fields: {fields_of(presets, words, name)}."])
    return page.rstrip("\n") + "\n"


def table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def definition(term: str, sentences: list[str]) -> str:
    """An entry of a definition list in Markdown."""
    return f"{term}\n\n:   " + "\n    ".join(filter(None, sentences)) + "\n\n"


def first_sentence(twin: Twin) -> str:
    """The first sentence of a twin's docstring, without its period.

    Raises:
        AssertionError: the class has no docstring of its own.
    """
    text = type(twin).__doc__
    assert text, f"{type(twin).__name__} has no docstring, which describes the family in docs/reference/families.md"
    sentence = inspect.cleandoc(text).replace("\n", " ").split(". ")[0]
    return sentence.rstrip(".").replace("|", "\\|")


def family_row(twins: list[Twin]) -> tuple[str, ...]:
    """The row of a family: twins of one class, such as those of an encoder's heads."""
    found = dict.fromkeys(name for each in twins for name in engines(each))
    model_type = twins[0].config_class.model_type
    preset = f" (`{twins[0].preset}`)" if twins[0].preset != model_type else ""
    return name_of(twins[0]), f"`{model_type}`{preset}", ", ".join(found) or "none"


def name_of(twin: Twin) -> str:
    """The name of a family, with which the docstring of its twin begins."""
    return re.split(r": | \(|, wh| which|$", first_sentence(twin))[0]


def family_details(twins: list[Twin]) -> str:
    """The classes and checkpoints of a family."""
    classes = [f"`{each.model_class.__name__}`" for each in twins]
    checkpoints = ", ".join(f"{name} ({size})" for each in twins for name, size in published(each))
    new = [find_twin(tiny(each, origin=False)) for each in twins]
    exported = list(dict.fromkeys(f"`{each.model_class.__name__}`" for each, reasons in new if not reasons))
    plural = "es" if len(classes) > 1 else ""
    sentences = [f"Class{plural} of transformers: {', '.join(classes)}."]
    sentences += [f"Checkpoints: {checkpoints}."] if checkpoints else []
    sentences += [f"A new model is exported to {', '.join(exported)}."] if exported != classes else []
    sentence, name = first_sentence(twins[0]), name_of(twins[0])
    return definition(f"**{name}**{sentence.removeprefix(name)}", sentences)


def published(twin: Twin) -> list[tuple[str, str]]:
    """The checkpoints of a class of transformers whose configs are tested, with their numbers of parameters."""
    found = []
    for path in sorted(PUBLISHED.glob("*.json")):
        for name, fields in json.loads(path.read_text(encoding="utf-8")).items():
            if twin.model_class.__name__ in fields.get("architectures", ()):
                config = AutoConfig.for_model(**{key: value for key, value in fields.items() if key != "auto_map"})
                with torch.device("meta"):
                    count = twin.model_class(config).num_parameters()
                found.append((name, f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.0f}M"))
    return found


def tiny(twin: Twin, origin: bool = True) -> Any:
    """A tiny model of ours with the twin's preset, as new or as imported from the twin's class."""
    tokenizer = tiny_tokenizer(twin)
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if origin:
        fields["imported_from"] = {"class": twin.model_class.__name__, "name_or_path": None, "config": {}}
    if twin.our_config_class is ScratchSeq2SeqConfig:
        config: Any = tiny_seq2seq_config(twin.preset, **fields)
    elif twin.our_config_class is ScratchGPTConfig:
        config = tiny_config(twin.preset, **fields)
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
        config = ScratchEncoderConfig.from_preset(twin.preset, **sizes, **fields)
    with torch.device("meta"):
        return twin.our_model_class(config)


def tiny_tokenizer(twin: Twin) -> Any:
    """A small tokenizer of byte pairs, a kind that all engines run."""
    return _tokenizer("seq2seq" if twin.our_config_class is ScratchSeq2SeqConfig else "causal")


@functools.cache
def _tokenizer(template: Any) -> Any:
    return train_tokenizer(["a b c"], "bpe", template=template, model_max_length=64)


def engines(twin: Twin) -> list[str]:
    """The engines that run a model imported from a class of transformers."""
    model, tokenizer, found = tiny(twin), tiny_tokenizer(twin), []
    for name, export_format in FORMATS.items():
        with suppress(ScratchError):
            export_format.check(Source("a model", model, Tokenizers(tokenizer, tokenizer)))
            found.append(name)
    return [name for name in found if name != "transformers"]


def fields_of(presets: dict[str, dict[str, Any]], descriptions: dict[str, str], name: str) -> str:
    """The fields of a preset that differ from the preset with which its description begins, or all of them."""
    fields, base = presets[name], descriptions.get(name, "").split()[:1]
    if not base or base[0] not in presets:
        return ", ".join(f"`{key}={short(value)}`" for key, value in fields.items())
    before = presets[base[0]]
    changed = [f"`{key}={short(value)}`" for key, value in fields.items() if before.get(key, "default") != value]
    return ", ".join([f"`{base[0]}`", *changed, *(f"`{key}` as by default" for key in before if key not in fields)])


def short(value: Any) -> str:
    """A value of a field as it is written in Python; a list of repeated values as their number."""
    if isinstance(value, list) and len(value) > 2:
        runs = [(repr(item), len(list(group))) for item, group in itertools.groupby(value)]
        return "[" + ", ".join(f"{count} × {item}" if count > 1 else item for item, count in runs) + "]"
    return repr(value)
