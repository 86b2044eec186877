"""Mutants of the package: single changes planted by position, with every other byte of the file unchanged."""

import ast
import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mutation.changes import (
    DISPLAY_FUNCTIONS,
    Change,
    Scope,
    Source,
    body_lines,
    changes_of,
    children,
    header_lines,
    is_docstring,
    scope_of,
    statement_changes,
)

FOLDERS = ("models", "train", "data", "rl", "hub", "tokenization", "evaluation", "cli")
NOT_MUTATED = {"scratch_gpt/train/engine/plots.py"}  # the appearance of plots


@dataclass(frozen=True)
class Mutant:
    """One planted bug.

    Attributes:
        id: Short hash of file, function, line text and change; independent of other lines.
        file: Path relative to the repository's root.
        function: Qualified name, or "module".
        operator: Kind of the change.
        line: Line number of the change, from 1.
        begin: Offset of the first replaced byte of the file.
        end: Offset after the last replaced byte.
        replacement: The new text.
        before: The line's text without the bug, stripped.
        after: The line's text with the bug, stripped.
        target_lines: The lines one of which a test must run to reach the bug.
        at_import: Whether the change takes effect when the file is imported, as for a constant or a default.
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
    target_lines: tuple[int, ...]
    at_import: bool

    def apply(self, source: bytes) -> bytes:
        """Return the file's content with the bug."""
        return source[: self.begin] + self.replacement.encode() + source[self.end :]


def find_mutants(file: str, content: bytes) -> list[Mutant]:
    """Return all mutants of a file in the order of their lines; not all of them parse (`is_mutant`).

    Args:
        file: Path relative to the repository's root.
        content: Bytes of the file.
    """
    source = Source(content)
    functions = [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    in_functions = tuple(sorted({line for each in functions for line in body_lines(each)}))
    found: list[tuple[Change, str, tuple[int, ...], bool]] = []

    def visit(node: ast.AST, path: tuple[str, ...], scope: Scope, target_lines: tuple[int, ...]) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name in DISPLAY_FUNCTIONS:
                return
            path, scope, target_lines = (*path, node.name), scope_of(node), body_lines(node)
        elif isinstance(node, ast.ClassDef):
            path, scope, target_lines = (*path, node.name), Scope(node.name), in_functions
        elif isinstance(node, ast.arguments):  # defaults are evaluated at import
            scope = Scope(scope.name)
        elif isinstance(node, ast.stmt) and scope.function is not None:
            target_lines = tuple(header_lines(node))
        changes = list(changes_of(source, node))
        if isinstance(node, ast.stmt) and scope.function is not None:
            changes += statement_changes(source, node, scope)
        name = ".".join(path) or "module"
        found.extend((change, name, target_lines, scope.function is None) for change in changes)
        for child in children(node):
            visit(child, path, scope, target_lines)

    visit(source.tree, (), Scope("module"), in_functions)
    return build_mutants(file, source, found)


def build_mutants(file: str, source: Source, found: list) -> list[Mutant]:
    """Build the mutants of changes, with ids.

    Args:
        file: Path relative to the repository's root.
        source: The parsed file.
        found: Tuples of change, function, target lines and whether it takes effect at import.
    """
    seen, mutants = Counter[str](), []
    for change, function, target_lines, at_import in sorted(found, key=lambda each: each[0][1]):
        operator, begin, end, replacement = change
        line = source.line_of(begin)
        start, stop = source.starts[line - 1], source.content.find(b"\n", end)
        rest = source.content[end : stop if stop >= 0 else None].decode()
        before = source.content[start:].split(b"\n", 1)[0].decode().strip()
        after = (source.content[start:begin].decode() + replacement + rest).split("\n")[0].strip()
        key = "\0".join([file, function, operator, before, after])
        seen[key] += 1
        id = hashlib.sha256(f"{key}\0{seen[key]}".encode()).hexdigest()[:8]
        position = (operator, line, begin, end, replacement, before, after)
        mutants.append(Mutant(id, file, function, *position, target_lines, at_import))
    return mutants


def is_mutant(mutant: Mutant, content: bytes) -> bool:
    """Return whether the changed file parses, and to a different tree."""
    try:
        return ast.dump(ast.parse(mutant.apply(content))) != ast.dump(ast.parse(content))
    except SyntaxError:
        return False


def code_lines(content: bytes) -> int:
    """Count the lines of a file that are neither blank, comment nor docstring."""
    tree = ast.parse(content)
    lines = {i for i, line in enumerate(content.split(b"\n"), 1) if line.strip() and not line.strip().startswith(b"#")}
    for node in ast.walk(tree):
        if is_docstring(node):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def folder_of(file: str) -> str:
    """Return the folder of the package that contains a file."""
    return Path(file).parts[1]


def sample(root: Path, count: int, seed: int, only: str = "") -> list[Mutant]:
    """Sample mutants, at most one per line, from the folders in proportion to their lines of code.

    Args:
        root: The repository.
        count: Number of mutants; fewer if there are not enough lines.
        seed: The same seed and files give the same mutants.
        only: Folder or file, relative to the root, to mutate; empty for all folders.
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
        lines = sorted(by_line[folder].values(), key=lambda mutants: random_rank(seed, mutants[0]))
        drawn = (draw_mutant(seed, mutants, root) for mutants in lines)
        chosen += sorted(islice(filter(None, drawn), quota), key=lambda mutant: (mutant.file, mutant.line))
    return chosen


def random_rank(seed: int, mutant: Mutant) -> str:
    """Return a sort key for a random order, which is independent of other lines of the repository."""
    return hashlib.sha256(f"{seed} {mutant.id}".encode()).hexdigest()


def draw_mutant(seed: int, mutants: list[Mutant], root: Path) -> Mutant | None:
    """Draw one of a line's mutants; `return None` only if there is no other, as nearly every test catches it."""
    ordered = sorted(mutants, key=lambda mutant: (mutant.operator == "return None", random_rank(seed, mutant)))
    return next((each for each in ordered if is_mutant(each, (root / each.file).read_bytes())), None)


def split_count(count: int, fractions: dict[str, float]) -> dict[str, int]:
    """Split `count` by fractions that sum to 1 (largest remainder method)."""
    exact = {name: count * fraction for name, fraction in fractions.items()}
    parts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: parts[name] - exact[name])[: count - sum(parts.values())]:
        parts[name] += 1
    return parts
