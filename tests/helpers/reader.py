"""A reader who follows a page: runs its commands and Python blocks in a folder of its own, shortened."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from helpers.documentation import RUN, Block, commands_of, page_blocks
from helpers.processes import PROJECT, run_here
from helpers.python_session import PythonSession
from helpers.shortened import filled, shortened, shortened_python, small_data

# Commands that no page's test runs, with the reason; a block of other commands needs a marker.
NEVER_RUN = {
    r"pip install ": "changes the environment; test_installed_extras_exist checks the names",
    r"pre-commit ": "changes the checkout",
    r"pytest\b": "is this test, among others",
    r"(hf|huggingface-cli) (auth )?login": "asks for a token",
    r"git (clone|lfs)": "needs a network",
    r"cd ": "the folder is the reader's",
    r"scratch-gpt push ": "needs a Hub: tests/hub/test_hub.py pushes to one on this machine",
    r"transformers (serve|chat)\b": "a server: tests/hub/test_serving.py",
    r"scratch-gpt .*--serve\b": "a server: tests/see",
}
EXAMPLES = {  # files of `scratch-gpt data --example`
    "text": "text.txt",
    "labelled": "labelled.tsv",
    "conversations": "conversations.jsonl",
    "preferences": "preferences.jsonl",
    "prompts": "prompts.txt",
    "pairs": "pairs.tsv",
}
TIMEOUT = 280  # seconds of a command of the shell; below that of a test
LINKED = ("README.md", "training", "benchmarks")  # what commands name in the repository


def runs(command: str) -> bool:
    """Whether a command is run."""
    return not any(re.match(pattern, command) for pattern in NEVER_RUN)


def run_commands(block: Block) -> list[str]:
    """The commands of a block that are run."""
    is_shell = block.language in ("bash", "console") and block.reason is None
    return [command for command in commands_of(block) if runs(command)] if is_shell else []


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command.split("\n")[0])
    except ValueError:  # an open quote
        return command.split()


def _made_name(word: str) -> str:
    """`runs/q8/model.gguf` as `runs/q8`; other names as they are."""
    found = re.match(r"runs/[\w.-]+", word)
    return found[0] if found else word


@cache
def products(command: str) -> tuple[str, ...]:
    """Names of the files and runs that a command makes; a run that is resumed was made before."""
    words = _words(command)
    if "--resume" in words:
        return ()
    given = [
        words[i + 1] for i, word in enumerate(words[:-1]) if re.fullmatch(r"--(output|output_dir|save|copy_to)|>", word)
    ]
    if words[:2] == ["scratch-gpt", "train"] and len(words) > 2 and "--help" not in words:
        given = [given[-1] if given else default_output(tuple(words[2:]))]
    elif words[:2] in (["scratch-gpt", "import"], ["scratch-gpt", "export"]) and len(words) > 3:
        given.append(words[3])
    elif words[:3] == ["scratch-gpt", "tokenizer", "train"] and len(words) > 4:
        given.append(words[4])
    elif words[:2] == ["scratch-gpt", "data"] and "--example" in words:
        given.append(EXAMPLES[words[words.index("--example") + 1]])
    elif words[:1] == ["mkdir"]:
        given += [word for word in words[1:] if not word.startswith("-")]
    return tuple(dict.fromkeys(_made_name(word) for word in given))


def default_output(words: tuple[str, ...]) -> str:
    """The output directory of a training command without `--output_dir`."""
    from scratch_gpt.train.engine.parsing import parse_arguments
    from scratch_gpt.train.tasks import recipe_of

    settings = parse_arguments(recipe_of(words[0]).arguments, "", list(words[1:]))
    return next(part.output_dir for part in settings if hasattr(part, "output_dir"))


@cache
def makers(pages: tuple[str, ...]) -> dict[str, list[str]]:
    """For each file or run, the commands of the pages that write it, in reading order."""
    found: dict[str, list[str]] = {}
    for page in pages:
        for block in page_blocks(page):
            for command in run_commands(block):
                for name in products(command):
                    found.setdefault(name, []).append(command)
    return found


def needs(text: str, known: Iterable[str]) -> list[str]:
    """Names of the files and runs that a command or Python code mentions."""
    words = {_made_name(word) for word in re.findall(r"[\w./-]+", text)}
    return sorted(words & set(known))


@cache
def python_names(page: str) -> set[str]:
    """Strings of the Python blocks of a page that may name files."""
    blocks = [block for block in page_blocks(page) if block.language == "python"]
    return {_made_name(word) for block in blocks for word in re.findall(r"[\"']([\w./-]+)[\"']", block.code)}


class Workshop:
    """What readers of several pages share: small data, and the runs that an earlier page made, each made once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = small_data(folder / "data")
        self.shelf = new_folder(folder / "shelf")
        self.done: set[str] = set()

    def provide(self, name: str, folder: Path, earlier: tuple[str, ...]) -> None:
        """Copy a file or run that an earlier page tells to make into a folder, if the folder lacks it."""
        if (folder / name).exists() or not (made := makers(earlier).get(name)):
            return
        self.make(made[0], earlier)
        if folder != self.shelf:
            copy(self.shelf / name, folder / name)

    def make(self, command: str, earlier: tuple[str, ...]) -> None:
        """Run a command on the shelf, after those that make what it needs."""
        if command in self.done:
            return
        for name in needs(command, makers(earlier)):
            if name not in products(command):
                self.provide(name, self.shelf, earlier)
        run_shortened(command, self.shelf, self.data)
        self.done.add(command)

    def is_shareable(self, command: str, pages: tuple[str, ...]) -> bool:
        """Whether a command can run on the shelf: it resumes nothing, is the first of the pages to make its products,
        and so are those that it depends on. A folder that is filled step by step, or by Python, stays with its page."""
        known = makers(pages)
        if not command.startswith("scratch-gpt ") or "--resume" in command:
            return False
        made = products(command)
        if any(known[name][0] != command for name in made) or needs(command, python_names(pages[-1]) - set(known)):
            return False
        needed = [known[name] for name in needs(command, known) if name not in made]
        return all(len(set(each)) == 1 and self.is_shareable(each[0], pages) for each in needed)


class Reader:
    """Follows one page."""

    def __init__(self, workshop: Workshop, folder: Path, page: str, earlier: tuple[str, ...] = ()):
        """
        Args:
            workshop: what is shared with other pages.
            folder: the reader's folder, which is created.
            page: path of the page; it is in the reading order at its place, after `earlier`.
            earlier: paths of the pages before it.
        """
        self.workshop, self.folder, self.page, self.earlier = workshop, new_folder(folder), page, earlier
        self.python: PythonSession | None = None

    def follow(self, blocks: Iterable[Block]) -> None:
        """Run the blocks in order.

        Raises:
            AssertionError: a block fails, or is neither run nor marked; the message names the page and line.
        """
        try:
            for block in blocks:
                if block.language not in RUN or block.reason is not None:
                    continue
                try:
                    if block.language == "python":
                        self.run_python(block.code)
                    for command in run_commands(block):
                        self.run_command(command)
                except Exception as error:
                    raise AssertionError(f"{block.page}:{block.line}: {error}\n\n{block.code}") from error
        finally:
            if self.python:
                self.python.close()

    def fetch(self, text: str, made: tuple[str, ...] = ()) -> None:
        """Provide what a command or Python code needs from earlier pages."""
        for name in needs(text, makers(self.earlier)):
            if name not in made:
                self.workshop.provide(name, self.folder, self.earlier)

    def run_command(self, command: str) -> None:
        """Run a command, or take over what the same command has made for another page."""
        pages, made = (*self.earlier, self.page), products(command)
        if not self.workshop.is_shareable(command, pages):
            self.fetch(command, made)
            run_shortened(command, self.folder, self.workshop.data)
        elif made:
            self.workshop.make(command, pages)
            for name in made:
                if not (self.folder / name).exists():
                    copy(self.workshop.shelf / name, self.folder / name)
        elif command not in self.workshop.done:
            self.fetch(command)
            run_shortened(command, self.folder, self.workshop.data)
            self.workshop.done.add(command)

    def run_python(self, code: str) -> None:
        """Run Python code in the namespace of the page."""
        self.fetch(code)
        self.python = self.python or PythonSession(self.folder)
        self.python.run(shortened_python(filled(code, self.workshop.data)))


def run_shortened(command: str, folder: Path, data: dict[str, str]) -> None:
    """Run a command, shortened: `scratch-gpt` in this process, which saves the imports, anything else in bash."""
    command = shortened(filled(command, data))
    if command.startswith("scratch-gpt ") and not has_operator(command):
        run_here(*shlex.split(command), cwd=folder)
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MPLBACKEND": "agg"}
    shell = ["bash", "-euo", "pipefail", "-c", command]
    result = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert result.returncode == 0, f"exit code {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"


def has_operator(command: str) -> bool:
    """Whether a command uses pipes, redirections or other operators of the shell."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    return any(set(word) <= set("|&;<>()") for word in lexer if word)


def new_folder(folder: Path) -> Path:
    """Create a folder with links to what commands name in the repository."""
    folder.mkdir(parents=True)
    for name in LINKED:
        (folder / name).symlink_to(PROJECT / name)
    return folder


def copy(source: Path, target: Path) -> None:
    """Copy a file or folder to a new place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
