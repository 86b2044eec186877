"""Docstrings of public functions: an `Args` section from four parameters on, and `Raises` where a function raises.

That every public definition has a docstring at all is checked by ruff (rules D100 to D104)."""

import ast
import re
from collections.abc import Iterator

import pytest
from helpers.processes import PROJECT

PACKAGE = PROJECT / "scratch_gpt"
MODULES = sorted(PACKAGE.rglob("*.py"))
MANY_PARAMETERS = 4
# Raised by the protocols of Python and typer, and not by bad input.
PROTOCOL_ERRORS = {"AttributeError", "NotImplementedError", "typer.Exit"}


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """The public functions and methods in the body of a module or class."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def is_command(function: ast.FunctionDef) -> bool:
    """Whether typer documents the parameters of a function, by the help of each option."""
    return any("command" in ast.unparse(decorator) for decorator in function.decorator_list)


def raised_by(function: ast.AST) -> Iterator[str]:
    """The names of the errors that a function raises itself."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield ast.unparse(node.exc.func)
        yield from raised_by(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_docstrings_name_parameters_and_errors(path):
    missing = []
    for function in public_functions(ast.parse(path.read_text()).body):
        parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        names = [each.arg for each in parameters if each.arg not in ("self", "cls", "ctx")]
        text = ast.get_docstring(function) or ""
        if is_command(function) or any("overload" in ast.unparse(each) for each in function.decorator_list):
            continue
        if len(names) >= MANY_PARAMETERS and "Args:" not in text and "rguments as of" not in text:
            missing.append(f"{function.name}, line {function.lineno}: no Args for {', '.join(names)}")
        if set(raised_by(function)) - PROTOCOL_ERRORS and not re.search(r"Raises:|\bRaises? \w+Error\b", text):
            missing.append(f"{function.name}, line {function.lineno}: no Raises")
    assert not missing, f"{path.name}: {'; '.join(missing)}"
