"""What griffe, which reads docstrings for the pages of the Python API, does not know of ours.

One entry of `Args:` can describe several parameters (`batch, length: …`), and the fields of a config stand in the
`Args:` of its class, whose `__init__` transformers writes.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Class, DocstringParameter, DocstringSectionKind, Extension, Function, Object

SEVERAL = re.compile(r"^\s+\w+(, \w+)+: ", re.MULTILINE)


class Parameters(Extension):
    """Gives each parameter of a docstring an entry with its type and default."""

    def on_function(self, *, func: Function, **kwargs: Any) -> None:
        """Separate parameters that share an entry."""
        if func.docstring and SEVERAL.search(func.docstring.value):
            _complete(func, {each.name: (each.annotation, each.default) for each in func.parameters})

    def on_class(self, *, cls: Class, **kwargs: Any) -> None:
        """Do the same in classes, and take types and defaults of the fields of configs from the class."""
        is_config = any("strict" in str(each.value) for each in cls.decorators)
        if cls.docstring and (is_config or SEVERAL.search(cls.docstring.value)):
            found = {name: (each.annotation, each.value) for name, each in cls.attributes.items()}
            if "__init__" in cls.members:
                found |= {each.name: (each.annotation, each.default) for each in cls.members["__init__"].parameters}
            _complete(cls, found)


def _complete(documented: Object, found: dict[str, tuple[Any, Any]]) -> None:
    """Replace the entries of a docstring by one for each parameter.

    Args:
        documented: the function or class.
        found: annotation and default of each parameter.
    """
    assert documented.docstring is not None
    for section in documented.docstring.parsed:
        if section.kind is DocstringSectionKind.parameters:
            section.value = [
                DocstringParameter(name, description=each.description, annotation=annotation, value=default)
                for each in section.value
                for name in each.name.split(", ")
                for annotation, default in [found.get(name, (each.annotation, each.value))]
            ]
