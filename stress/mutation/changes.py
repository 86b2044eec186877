"""The changes that mutations make: small bugs as they slip into a pull request.

Positions come from `ast`. Docstrings, annotations, f-strings and other text are not changed, nor is code that only
displays: messages, help texts, `__repr__`, progress output.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "in": "not in", "not in": "in"}
COMPARISONS |= {"is": "is not", "is not": "is"}
SIGNS: dict[type, str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
SIGNS |= {ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not", ast.And: "and", ast.Or: "or"}
SIGNS |= {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**"}
SIGNS |= {ast.BitAnd: "&", ast.BitOr: "|"}
ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "/", "%": "//", "**": "*", "&": "|", "|": "&"}
SWAPPED = {"min": "max", "any": "all", "floor": "ceil", "startswith": "endswith", "argmin": "argmax", "amin": "amax"}
SWAPPED |= {"lstrip": "rstrip", "log": "log2", "sqrt": "square", "ljust": "rjust", "tril": "triu"}
SWAPPED |= {new: old for old, new in SWAPPED.items()}
SWAPPED_METHODS = {"sum": "mean", "mean": "sum"}  # not functions of these names
DROPPED = {"detach", "clone", "float", "copy", "strip", "lower"}  # x.detach() becomes x
PATHS = re.compile(r"folder|path|director|\bdir|root|home|parent|entry|tmp|temporary|output|\brun\b", re.IGNORECASE)
DISPLAYED = {"print", "warn", "echo", "secho"}
DISPLAY_KEYWORDS = {"help", "metavar", "rich_help_panel", "stacklevel", "desc", "title", "style", "justify", "unit"}
DISPLAY_KEYWORDS |= {"usage", "description", "prog", "caption", "header_style", "no_wrap", "overflow", "epilog"}
DISPLAY_KEYWORDS |= {"show_default", "highlight", "soft_wrap"}
NO_EFFECT_HERE = {"strict", "encoding"}  # of zip and open: visible only after another defect or on another machine
DISPLAY_FUNCTIONS = {"__repr__", "__str__", "extra_repr", "__rich__"}


Change = tuple[str, int, int, str]  # operator, begin, end, replacement


class Source:
    """A parsed file, which converts the positions of `ast` (line, column in bytes) to offsets.

    Args:
        content: bytes of the file.
    """

    def __init__(self, content: bytes):
        self.content = content
        self.tree = ast.parse(content)
        self.starts = [0, *(match.end() for match in re.finditer(rb"\n", content))]

    def begin(self, node: ast.AST) -> int:
        """Return the offset of the node's first byte."""
        """Return the offset of the node's first byte."""
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.AST) -> int:
        """Return the offset after the node's last byte."""
        """Return the offset after the node's last byte."""
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        """Return the node's source."""
        """Return the node's source."""
        return self.content[self.begin(node) : self.end(node)].decode()

    def line_of(self, offset: int) -> int:
        """Return the line number of an offset, from 1."""
        """Return the line number of an offset, from 1."""
        return self.content.count(b"\n", 0, offset) + 1

    def sign(self, sign: str, left: ast.AST, right: ast.AST) -> tuple[int, int]:
        """Return begin and end of an operator between two operands, ignoring comments."""
        begin, end = self.end(left), self.begin(right)
        gap = re.sub(rb"#[^\n]*", lambda match: b" " * len(match[0]), self.content[begin:end])
        words = rb"\s+".join(re.escape(word.encode()) for word in sign.split())
        found = re.search(words, gap)
        assert found, (sign, gap)
        return begin + found.start(), begin + found.end()


def changes_of(source: Source, node: ast.AST) -> Iterator[Change]:
    """Yield the changes of this node itself, not of its children."""
    begin, end = (source.begin(node), source.end(node)) if hasattr(node, "lineno") else (0, 0)
    if isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
        for operation, left, right in zip(node.ops, operands[:-1], node.comparators, strict=True):
            sign = SIGNS[type(operation)]
            yield "comparison", *source.sign(sign, left, right), COMPARISONS[sign]
    elif isinstance(node, ast.BoolOp):
        sign = SIGNS[type(node.op)]
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield "and/or", *source.sign(sign, left, right), "and" if sign == "or" else "or"
    elif isinstance(node, ast.BinOp) and type(node.op) in SIGNS and not (is_text(node.left) or is_text(node.right)):
        sign = SIGNS[type(node.op)]
        if sign != "/" or not PATHS.search(source.text(node.left)):
            yield "arithmetic", *source.sign(sign, node.left, node.right), ARITHMETIC[sign]
    elif (
        isinstance(node, ast.AugAssign) and SIGNS.get(type(node.op)) in ("+", "-", "*", "/") and not is_text(node.value)
    ):
        sign = SIGNS[type(node.op)]
        yield "arithmetic", *source.sign(f"{sign}=", node.target, node.value), f"{ARITHMETIC[sign]}="
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "not" if isinstance(node.op, ast.Not) else "sign", begin, end, f"({source.text(node.operand)})"
    elif isinstance(node, ast.Constant):
        for new in other_constants(node.value):
            yield "constant", begin, end, new
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, ast.Constant):
        for always in (True, False) if not isinstance(node, ast.While) else (False,):
            yield "condition", source.begin(node.test), source.end(node.test), str(always)
    elif isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield "condition", source.begin(test), source.end(test), "True"
    elif isinstance(node, ast.Slice):
        yield from slice_changes(source, node)
    elif isinstance(node, ast.Call):
        yield from call_changes(source, node)


def other_constants(value: object) -> list[str]:
    """Return replacements of a constant: integers off by one, floats doubled, booleans negated."""
    if isinstance(value, bool):
        return [str(not value)]
    if isinstance(value, int):
        return [str(value + 1), str(value - 1) if value else "(-1)"]
    return [repr(value * 2 or 1.0)] if isinstance(value, float) else []


def slice_changes(source: Source, node: ast.Slice) -> Iterator[Change]:
    """Yield changes of bounds by one; constant bounds are changed as constants."""
    for bound in (node.lower, node.upper):
        if bound is not None and not isinstance(bound, ast.Constant):
            yield "slice", source.begin(bound), source.end(bound), f"({source.text(bound)}) + 1"
    if node.step is None and node.lower is not None and node.upper is None:
        yield "slice", source.end(node), source.end(node), "-1"
    if node.step is None and node.lower is None and node.upper is not None:
        yield "slice", source.begin(node), source.begin(node), "1"


def call_changes(source: Source, node: ast.Call) -> Iterator[Change]:
    """Yield changes of a call: another function, the call omitted, or a keyword argument omitted."""
    begin, end, name = source.begin(node), source.end(node), called_name(node)
    function_end = source.end(node.func)
    is_method = isinstance(node.func, ast.Attribute)
    other = SWAPPED.get(name) or (SWAPPED_METHODS.get(name) if is_method else None)
    if other:
        yield "function", function_end - len(name), function_end, other
    if name in ("sorted", "reversed") and not is_method and node.args:
        yield "function", begin, end, f"list({source.text(node.args[0])})"
    if isinstance(node.func, ast.Attribute) and name in DROPPED and not node.args and not node.keywords:
        dot = source.content.rindex(b".", source.end(node.func.value), function_end)
        yield "call dropped", dot, end, ""
    arguments = sorted([*node.args, *node.keywords], key=source.begin)
    for i, each in enumerate(arguments):
        if not isinstance(each, ast.keyword) or each.arg in (DISPLAY_KEYWORDS | NO_EFFECT_HERE | {None}):
            continue
        first, last = source.begin(each), source.end(each)
        if i + 1 < len(arguments):
            last = source.begin(arguments[i + 1])
        elif i:
            first = source.end(arguments[i - 1])
        else:
            last = end - 1
        yield "keyword dropped", first, last, ""


def statement_changes(source: Source, node: ast.stmt, scope: "Scope") -> Iterator[Change]:
    """Yield changes of a statement in a function: its deletion, unless that would be a NameError, and others."""
    deleted = ("statement deleted", source.begin(node), source.end(node), "pass")
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Name):
            if scope.bound.get(target.id, node.lineno) < node.lineno:  # the name already has a value
                yield deleted
        elif isinstance(target, ast.Attribute | ast.Subscript) and scope.name != "__init__":
            yield deleted
    elif isinstance(node, ast.AugAssign | ast.Raise | ast.Delete):
        yield deleted
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        name = called_name(node.value)
        if name != "__init__" and (name == "warn" or not is_display(node.value)):
            yield deleted
    elif isinstance(node, ast.Continue):
        yield "loop", source.begin(node), source.end(node), "break"
    elif isinstance(node, ast.Break):
        yield "loop", source.begin(node), source.end(node), "pass"
    elif isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Constant):
        yield "return None", source.begin(node.value), source.end(node.value), "None"


def called_name(node: ast.Call) -> str:
    """Return the name of the called function or method, without its owner."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def is_display(node: ast.Call) -> bool:
    """Return whether a call only displays its arguments."""
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    return called_name(node) in DISPLAYED or (isinstance(owner, ast.Name) and owner.id in ("logger", "logging"))


def is_text(node: ast.AST) -> bool:
    """Return whether an operand is visibly a string or a sequence: other arithmetic would be an obvious TypeError."""
    if isinstance(node, ast.BinOp):
        return is_text(node.left) or is_text(node.right)
    if isinstance(node, ast.List | ast.ListComp | ast.Tuple):
        return True
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


@dataclass
class Scope:
    """A function, class or module.

    Attributes:
        name: Its name.
        function: The function's node; None for a class or the module.
        bound: Names that are assigned in the function, with the line of the first assignment.
    """

    name: str
    function: ast.AST | None = None
    bound: dict[str, int] = field(default_factory=dict)


def scope_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Scope:
    """Return the scope of a function."""
    """Return the scope of a function."""
    stored = [(n.id, n.lineno) for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    parameters = [(n.arg, function.lineno) for n in ast.walk(function.args) if isinstance(n, ast.arg)]
    return Scope(function.name, function, dict(sorted([*stored, *parameters], key=lambda each: -each[1])))


def header_lines(node: ast.stmt) -> range:
    """Return the lines of a statement without those of its body."""
    body = getattr(node, "body", None)
    return range(node.lineno, max(node.lineno, body[0].lineno - 1 if body else node.end_lineno or 0) + 1)


def body_lines(function: ast.AST) -> tuple[int, ...]:
    """Return the lines that run when a function is called."""
    body = function.body
    first = body[1] if is_docstring(body[0]) and len(body) > 1 else body[0]
    return tuple(range(first.lineno, function.end_lineno + 1))


def is_docstring(node: ast.AST) -> bool:
    """Return whether a node is a string that stands alone as a statement."""
    """Return whether a node is a string that stands alone as a statement."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the children of a node, without those that are never changed."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.match_case):
        if isinstance(node, ast.match_case):
            yield from node.body
        return
    if isinstance(node, ast.Call) and is_display(node):
        return
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        yield from node.orelse
        return
    if isinstance(node, ast.Call) and called_name(node) in ("isinstance", "issubclass", "cast", "TypeVar"):
        yield from node.args[:1] if called_name(node).startswith("is") else node.args[1:]
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "ctx") or (name == "keywords" and isinstance(node, ast.ClassDef)):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.keyword) and each.arg in DISPLAY_KEYWORDS | NO_EFFECT_HERE:
                continue
            if isinstance(each, ast.AST) and not is_docstring(each):
                yield each
