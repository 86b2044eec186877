"""docs/explanation/config-fields.md has every field of the configs, with its values and default."""

import dataclasses
import inspect
import re
import typing
from typing import Any

import pytest
from helpers.processes import PROJECT

from scratch_gpt import ScratchEncoderConfig, ScratchGPTConfig, ScratchSeq2SeqConfig
from scratch_gpt.models.configuration_block import TransformerBlockConfig

PAGE = (PROJECT / "docs" / "explanation" / "config-fields.md").read_text(encoding="utf-8")
CLASSES = (ScratchGPTConfig, ScratchEncoderConfig, ScratchSeq2SeqConfig)
ROWS = re.findall(r"^\| `(\w+)`<br>(.*?) \| ", PAGE, re.M)  # field and values
NOT_VALUES = {"auto_map"}  # its default is a table of file names


def own_fields(cls: type) -> set[str]:
    """Fields that the classes of this package declare, not those of transformers' config."""
    bases = [base for base in cls.__mro__ if base.__module__.startswith("scratch_gpt.models.configuration")]
    declared = {name for base in bases for name in inspect.get_annotations(base)}
    return {field.name for field in dataclasses.fields(cls)} & declared


def first_class(name: str) -> Any:
    """The first class with a field."""
    return next(cls for cls in CLASSES if name in own_fields(cls))


def test_every_field_stands_in_one_table():
    fields = set().union(*map(own_fields, CLASSES))
    assert len(own_fields(TransformerBlockConfig)) > 40
    assert sorted(name for name, _ in ROWS) == sorted(fields)


@pytest.mark.parametrize(("name", "values"), [row for row in ROWS if row[0] not in NOT_VALUES])
def test_values_and_defaults_are_those_of_the_class(name, values):
    field = next(field for field in dataclasses.fields(first_class(name)) if field.name == name)
    default = getattr(first_class(name)(), name) if field.default is dataclasses.MISSING else field.default
    assert re.findall(r"\*\*(.*?)\*\*", values) == [str(default)]
    hint = field.type
    listed = values.replace("**", "").split(", ")
    if typing.get_origin(hint) is typing.Literal:
        assert listed == list(typing.get_args(hint))
    elif len(listed) > 1:
        assert set(listed) >= {"True", "False"}
        assert bool in (hint, *typing.get_args(hint))
