"""Small bugs, as they slip into a pull request, planted by position: every other byte of the file stays as it is.

Positions come from `ast`. Neither docstrings, annotations, f-strings and other text are changed, nor what is only
displayed: messages, help texts, `__repr__`, progress output.
"""

import ast
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

FOLDERS = ("models", "train", "data", "rl", "hub", "tokenization", "evaluation", "cli")
NOT_MUTATED = {"scratch_gpt/train/engine/plots.py"}  # what a figure looks like

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
METHODS = {"sum": "mean", "mean": "sum"}  # not of a plain function
DROPPED = {"detach", "clone", "float", "copy", "strip", "lower"}  # x.detach() becomes x
PATHS = re.compile(r"folder|path|director|\bdir|root|home|parent|entry|tmp|temporary|output|\brun\b", re.IGNORECASE)
DISPLAYED = {"print", "warn", "echo", "secho"}
DISPLAY_KEYWORDS = {"help", "metavar", "rich_help_panel", "stacklevel", "desc", "title", "style", "justify", "unit"}
DISPLAY_KEYWORDS |= {"usage", "description", "prog", "caption", "header_style", "no_wrap", "overflow", "epilog"}
DISPLAY_KEYWORDS |= {"show_default", "highlight", "soft_wrap"}
NO_EFFECT_HERE = {"strict", "encoding"}  # of zip and open: seen with a defect elsewhere or on another machine only
DISPLAY_FUNCTIONS = {"__repr__", "__str__", "extra_repr", "__rich__"}


@dataclass(frozen=True)
class Mutant:
    """One planted bug.

    Attributes:
        id: Short hash of file, function, line text and change, which stays when other lines move.
        file: Path relative to the repository's root.
        function: Qualified name, or "module".
        operator: Kind of the change.
        line: Line number of the change, from 1.
        begin, end: The bytes of the file that are replaced.
        replacement: By what.
        before, after: The line's text without and with the bug, stripped.
        wanted: The lines that a test must run to reach the bug.
        at_import: Whether the change has its effect when the file is imported, as that of a constant or a default.
    """

    id: str
    file: str
    function: str
    operator: str
    line: int
    begin: int
    end: int
    replacement: str
    before: str
    after: str
    wanted: tuple[int, ...]
    at_import: bool

    def apply(self, source: bytes) -> bytes:
        """The file's content with the bug."""
        return source[: self.begin] + self.replacement.encode() + source[self.end :]


Change = tuple[str, int, int, str]  # operator, begin, end, replacement


class Source:
    """A parsed file, with what `ast` counts as (line, column in bytes) turned into offsets."""

    def __init__(self, content: bytes):
        self.content = content
        self.tree = ast.parse(content)
        self.starts = [0, *(match.end() for match in re.finditer(rb"\n", content))]

    def begin(self, node: ast.AST) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.AST) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        return self.content[self.begin(node) : self.end(node)].decode()

    def line_of(self, offset: int) -> int:
        return self.content.count(b"\n", 0, offset) + 1

    def sign(self, sign: str, left: ast.AST, right: ast.AST) -> tuple[int, int]:
        """Where an operator stands between two operands, comments left out."""
        begin, end = self.end(left), self.begin(right)
        gap = re.sub(rb"#[^\n]*", lambda match: b" " * len(match[0]), self.content[begin:end])
        words = rb"\s+".join(re.escape(word.encode()) for word in sign.split())
        found = re.search(words, gap)
        assert found, (sign, gap)
        return begin + found.start(), begin + found.end()


def changes_of(source: Source, node: ast.AST) -> Iterator[Change]:
    """The changes that start at this node itself, not at those below it."""
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
    """What a constant is changed to: numbers off by one or doubled, True and False for each other."""
    if isinstance(value, bool):
        return [str(not value)]
    if isinstance(value, int):
        return [str(value + 1), str(value - 1) if value else "(-1)"]
    return [repr(value * 2 or 1.0)] if isinstance(value, float) else []


def slice_changes(source: Source, node: ast.Slice) -> Iterator[Change]:
    """Bounds off by one. Constants are changed as such."""
    for bound in (node.lower, node.upper):
        if bound is not None and not isinstance(bound, ast.Constant):
            yield "slice", source.begin(bound), source.end(bound), f"({source.text(bound)}) + 1"
    if node.step is None and node.lower is not None and node.upper is None:
        yield "slice", source.end(node), source.end(node), "-1"
    if node.step is None and node.lower is None and node.upper is not None:
        yield "slice", source.begin(node), source.begin(node), "1"


def call_changes(source: Source, node: ast.Call) -> Iterator[Change]:
    """Another function, a function or a method left out, a keyword argument dropped."""
    begin, end, name = source.begin(node), source.end(node), called(node)
    function_end = source.end(node.func)
    is_method = isinstance(node.func, ast.Attribute)
    other = SWAPPED.get(name) or (METHODS.get(name) if is_method else None)
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
    """A statement left out of a function: one whose absence is not at once a NameError."""
    deleted = ("statement deleted", source.begin(node), source.end(node), "pass")
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Name):
            if scope.bound.get(target.id, node.lineno) < node.lineno:  # it has a value already
                yield deleted
        elif isinstance(target, ast.Attribute | ast.Subscript) and scope.name != "__init__":
            yield deleted
    elif isinstance(node, ast.AugAssign | ast.Raise | ast.Delete):
        yield deleted
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        if called(node.value) != "__init__" and (called(node.value) == "warn" or not is_displayed(node.value)):
            yield deleted
    elif isinstance(node, ast.Continue):
        yield "loop", source.begin(node), source.end(node), "break"
    elif isinstance(node, ast.Break):
        yield "loop", source.begin(node), source.end(node), "pass"
    elif isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Constant):
        yield "return None", source.begin(node.value), source.end(node.value), "None"


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def is_displayed(node: ast.Call) -> bool:
    """Whether a call only shows its arguments."""
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    return called(node) in DISPLAYED or (isinstance(owner, ast.Name) and owner.id in ("logger", "logging"))


def is_text(node: ast.AST) -> bool:
    """Whether an operand is text or a list by its look: other arithmetic is a TypeError then, no bug that slips in."""
    if isinstance(node, ast.BinOp):
        return is_text(node.left) or is_text(node.right)
    if isinstance(node, ast.List | ast.ListComp | ast.Tuple):
        return True
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


@dataclass
class Scope:
    """A function, or what stands around it.

    Attributes:
        name: Its own name.
        function: None for a class or the module.
        bound: Each name that gets a value in the function, with the line of the first.
    """

    name: str
    function: ast.AST | None = None
    bound: dict[str, int] = field(default_factory=dict)


def scope_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Scope:
    stored = [(n.id, n.lineno) for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    parameters = [(n.arg, function.lineno) for n in ast.walk(function.args) if isinstance(n, ast.arg)]
    return Scope(function.name, function, dict(sorted([*stored, *parameters], key=lambda each: -each[1])))


def header_lines(node: ast.stmt) -> range:
    """The lines of a statement without those of its body."""
    body = getattr(node, "body", None)
    return range(node.lineno, max(node.lineno, body[0].lineno - 1 if body else node.end_lineno or 0) + 1)


def body_lines(function: ast.AST) -> tuple[int, ...]:
    """The lines that run when a function is called."""
    body = function.body
    first = body[1] if is_docstring(body[0]) and len(body) > 1 else body[0]
    return tuple(range(first.lineno, function.end_lineno + 1))


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def children(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below one, without those that are never changed."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.match_case):
        if isinstance(node, ast.match_case):
            yield from node.body
        return
    if isinstance(node, ast.Call) and is_displayed(node):
        return
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        yield from node.orelse
        return
    if isinstance(node, ast.Call) and called(node) in ("isinstance", "issubclass", "cast", "TypeVar"):
        yield from node.args[:1] if called(node).startswith("is") else node.args[1:]
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "ctx") or (name == "keywords" and isinstance(node, ast.ClassDef)):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.keyword) and each.arg in DISPLAY_KEYWORDS | NO_EFFECT_HERE:
                continue
            if isinstance(each, ast.AST) and not is_docstring(each):
                yield each


def find_mutants(file: str, content: bytes) -> list[Mutant]:
    """All mutants of a file in the order of their lines; `is_mutant` says whether one parses.

    Args:
        file: Its path relative to the repository's root.
        content: Its bytes.
    """
    source = Source(content)
    functions = [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    in_functions = tuple(sorted({line for each in functions for line in body_lines(each)}))
    found: list[tuple[Change, str, tuple[int, ...], bool]] = []

    def visit(node: ast.AST, path: tuple[str, ...], scope: Scope, wanted: tuple[int, ...]) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name in DISPLAY_FUNCTIONS:
                return
            path, scope, wanted = (*path, node.name), scope_of(node), body_lines(node)
        elif isinstance(node, ast.ClassDef):
            path, scope, wanted = (*path, node.name), Scope(node.name), in_functions
        elif isinstance(node, ast.arguments):  # defaults, which are values of the import
            scope = Scope(scope.name)
        elif isinstance(node, ast.stmt) and scope.function is not None:
            wanted = tuple(header_lines(node))
        changes = list(changes_of(source, node))
        if isinstance(node, ast.stmt) and scope.function is not None:
            changes += statement_changes(source, node, scope)
        name = ".".join(path) or "module"
        found.extend((change, name, wanted, scope.function is None) for change in changes)
        for child in children(node):
            visit(child, path, scope, wanted)

    visit(source.tree, (), Scope("module"), in_functions)
    return build_mutants(file, source, found)


def build_mutants(file: str, source: Source, found: list) -> list[Mutant]:
    """Mutants of the changes, each with an id."""
    seen, mutants = Counter[str](), []
    for (operator, begin, end, replacement), function, wanted, at_import in sorted(found, key=lambda each: each[0][1]):
        line = source.line_of(begin)
        start, stop = source.starts[line - 1], source.content.find(b"\n", end)
        rest = source.content[end : stop if stop >= 0 else None].decode()
        before = source.content[start:].split(b"\n", 1)[0].decode().strip()
        after = (source.content[start:begin].decode() + replacement + rest).split("\n")[0].strip()
        key = "\0".join([file, function, operator, before, after])
        seen[key] += 1
        id = hashlib.sha256(f"{key}\0{seen[key]}".encode()).hexdigest()[:8]
        change = (operator, line, begin, end, replacement, before, after)
        mutants.append(Mutant(id, file, function, *change, wanted, at_import))
    return mutants


def is_mutant(mutant: Mutant, content: bytes) -> bool:
    """Whether the changed file parses, and to something else than before."""
    try:
        return ast.dump(ast.parse(mutant.apply(content))) != ast.dump(ast.parse(content))
    except SyntaxError:
        return False


def code_lines(content: bytes) -> int:
    """Lines of a file that are neither blank, comment nor docstring."""
    tree = ast.parse(content)
    lines = {i for i, line in enumerate(content.split(b"\n"), 1) if line.strip() and not line.strip().startswith(b"#")}
    for node in ast.walk(tree):
        if is_docstring(node):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def folder_of(file: str) -> str:
    """The folder of the package that contains a file."""
    return Path(file).parts[1]


def sample(root: Path, count: int, seed: int, only: str = "") -> list[Mutant]:
    """Choose mutants at random, each on a line of its own, from the folders in proportion to their lines of code.

    Args:
        root: The repository.
        count: How many; fewer where there are not as many lines.
        seed: The same seed and files give the same mutants.
        only: Path relative to the root that the mutated files must be or lie in; all folders where empty.
    """
    sizes: Counter[str] = Counter()
    by_line: dict[str, dict[tuple[str, int], list[Mutant]]] = defaultdict(lambda: defaultdict(list))
    for folder in FOLDERS:
        for path in sorted((root / "scratch_gpt" / folder).rglob("*.py")):
            file = path.relative_to(root).as_posix()
            if file in NOT_MUTATED or (only and not f"{file}/".startswith(f"{only.rstrip('/')}/")):
                continue
            sizes[folder] += code_lines(path.read_bytes())
            for mutant in find_mutants(file, path.read_bytes()):
                by_line[folder][file, mutant.line].append(mutant)
    total, chosen = sum(sizes.values()), []
    for folder, quota in split_count(count, {folder: size / total for folder, size in sizes.items()}).items():
        lines = sorted(by_line[folder].values(), key=lambda mutants: at_random(seed, mutants[0]))
        drawn = (draw_mutant(seed, mutants, root) for mutants in lines)
        chosen += sorted(islice(filter(None, drawn), quota), key=lambda mutant: (mutant.file, mutant.line))
    return chosen


def at_random(seed: int, mutant: Mutant) -> str:
    """Order mutants by this for a random one that stays when other lines of the repository change."""
    return hashlib.sha256(f"{seed} {mutant.id}".encode()).hexdigest()


def draw_mutant(seed: int, mutants: list[Mutant], root: Path) -> Mutant | None:
    """One of a line's mutants. `return None` is caught by nearly every test that reaches it: it comes last."""
    ordered = sorted(mutants, key=lambda mutant: (mutant.operator == "return None", at_random(seed, mutant)))
    return next((each for each in ordered if is_mutant(each, (root / each.file).read_bytes())), None)


def split_count(count: int, shares: dict[str, float]) -> dict[str, int]:
    """Split `count` by shares that sum to 1, the remainder by largest fraction."""
    exact = {name: count * share for name, share in shares.items()}
    parts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: parts[name] - exact[name])[: count - sum(parts.values())]:
        parts[name] += 1
    return parts
