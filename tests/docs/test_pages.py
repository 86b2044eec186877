"""README, CONTRIBUTING and the pages of docs/ run as printed, shortened, each page in a folder of its own."""

import contextlib
import importlib
import re
import shlex

import pytest
import typer
from helpers.documentation import MARKER, MISSPELT, RUN, Block, blocks_of, commands_of, page_blocks, page_paths, text_of
from helpers.processes import PROJECT
from helpers.reader import NEVER_RUN, Reader, Workshop, products, run_commands, runs
from helpers.shortened import shortened_python

from scratch_gpt.cli.app import COMMANDS, app
from scratch_gpt.train.engine.parsing import parse_arguments
from scratch_gpt.train.tasks import recipe_of

PAGES = page_paths()
BLOCKS = [block for page in PAGES for block in page_blocks(page)]
# Their commands: what is run, and also what is not, for it has to exist too.
SHELL = [block for block in BLOCKS if block.language in ("bash", "console")]
NAMED = list(dict.fromkeys(command for block in SHELL for command in commands_of(block)))
TRAININGS = [command for command in NAMED if command.startswith("scratch-gpt train ") and "--help" not in command]
OTHERS = [c for c in NAMED if c.startswith("scratch-gpt ") and not c.startswith("scratch-gpt train")]
INVENTED = re.compile("TASK|denoising|cli/parameters")  # of the walks of CONTRIBUTING


def is_followed(page: str) -> bool:
    """Whether a page has something to run."""
    blocks = [block for block in page_blocks(page) if block.reason is None]
    return any(block.language == "python" or run_commands(block) for block in blocks)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [page for page in PAGES if is_followed(page)])
def test_page_runs_as_printed(page, workshop, tmp_path):
    earlier = PAGES[: PAGES.index(page)]
    Reader(workshop, tmp_path / "reader", page, earlier).follow(page_blocks(page))


FAILING = {
    "command": "```bash\nscratch-gpt info runs/nothing\n```\n",
    "second line": "```bash\nscratch-gpt learn\nscratch-gpt info runs/nothing\n```\n",
    "shell": "```console\n$ cat nothing.txt\nno such file\n```\n",
    "pipe": "```bash\ncat nothing.txt | sort\n```\n",
    "in a list": "1. First:\n\n    ```bash\n    scratch-gpt info runs/nothing\n    ```\n",
    "in an admonition": "!!! note\n    ```bash\n    scratch-gpt info runs/nothing\n    ```\n",
    "in a tab": '=== "Linux"\n\n    ```bash\n    scratch-gpt info runs/nothing\n    ```\n',
    "python": "```python\nimport nothing_of_the_kind\n```\n",
    "python, later": "```python\na = 1\n```\n\n```python\nassert a == 2\n```\n",
    "python ends": "```python\nimport os\nos._exit(0)\n```\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("text", FAILING.values(), ids=FAILING)
def test_page_with_a_failing_block_fails(text, workshop, tmp_path):
    with pytest.raises(AssertionError, match=r"^page\.md:\d"):
        Reader(workshop, tmp_path / "reader", "page.md").follow(blocks_of(text))


def test_blocks_are_found_where_a_reader_sees_them():
    text = (
        "- item\n\n    ```bash\n    one\n    ```\n\n"
        '=== "Tab"\n\n    !!! note\n\n        ```python\n        if two:\n            pass\n        ```\n\n'
        "after\n\n<!-- not run: it needs a GPU -->\n```bash\nthree \\\n  --four 4  # five\n# six\na && b\n```\n"
        "```bash\ncat > x.txt << END\nseven\nEND\neight\n```\n"
    )
    blocks = blocks_of(text)
    assert [block.language for block in blocks] == ["bash", "python", "bash", "bash"]
    assert blocks[1].code == "if two:\n    pass\n"
    assert [block.reason for block in blocks] == [None, None, "it needs a GPU", None]
    assert commands_of(blocks[0]) == ["one"]
    assert commands_of(blocks[2]) == ["three --four 4", "a", "b"]
    assert commands_of(blocks[3]) == ["cat > x.txt << END\nseven\nEND", "eight"]
    assert text.splitlines()[blocks[1].line - 1].strip() == "```python"


def test_products_of_commands():
    made = {
        "scratch-gpt train language_modeling": "runs/gpt",
        "scratch-gpt train translation --config german_grammar": "runs/german",
        "scratch-gpt train sft --init_from runs/gpt --output_dir runs/talker": "runs/talker",
        "scratch-gpt export runs/gpt runs/native": "runs/native",
        "scratch-gpt tokenizer train PATH runs/tokenizer --kind unigram": "runs/tokenizer",
        "scratch-gpt pairs runs/gpt --output pairs.jsonl": "pairs.jsonl",
        "cat a b > runs/diverse/train.en": "runs/diverse",
    }
    assert {command: products(command) for command in made} == {command: (name,) for command, name in made.items()}
    assert products("scratch-gpt train language_modeling --resume") == products("scratch-gpt info runs/gpt") == ()


def test_training_in_python_is_shortened():
    code = 'train("sft", init_from="runs/gpt", max_steps=900, output_dir="runs/x")'
    tiny = "max_steps=4, validation_fraction=0.2, num_questions=200"
    assert shortened_python(code) == f"train('sft', init_from='runs/gpt', output_dir='runs/x', {tiny})"


def test_every_block_is_run_or_marked_with_a_reason():
    """A misspelt language or marker would let a block escape."""
    misspelt = [block for block in BLOCKS if block.language in MISSPELT]
    markers = [b for b in BLOCKS if "run" in b.before and "<!--" in b.before and not MARKER.search(b.before)]
    unclear = [block for block in markers if block.reason is None or len(block.reason.split()) < 3]
    unused = [block for block in BLOCKS if block.reason and block.language not in RUN]
    idle = [b for b in SHELL if b.reason is None and not commands_of(b)]
    found = {f"{block.page}:{block.line} {block.before}" for block in misspelt + unclear + unused + idle}
    assert not found
    assert len(NAMED) > 70


def test_installed_extras_exist():
    project = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    table = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = ", table, re.M))
    installs = [command for command in NAMED if command.startswith("pip install")]
    named = {
        name
        for command in installs
        for names in re.findall(r"(?:\.|scratch_gpt|\.whl)\[([\w,]+)\]", command)
        for name in names.split(",")
    }
    assert named - extras == set()
    assert named


@pytest.mark.parametrize("command", TRAININGS)
def test_training_commands_parse(command):
    """Families, options and built-in configurations exist, without training."""
    words = shlex.split(command)[2:]
    if "--num_processes" in words:
        at = words.index("--num_processes")
        del words[at : at + 2]
    family, *arguments = words
    parse_arguments(recipe_of(family).arguments, "", arguments)


def error_of(command: str) -> str | None:
    """What is wrong with the options and arguments of a command that does not train, or None."""
    for name in COMMANDS:
        importlib.import_module(f"scratch_gpt.cli.{name}")
    words = shlex.split(re.split(r" [|>] |\n", command)[0])[1:]
    if {"--help", "-h"} & set(words):
        return None
    parsed, context = typer.main.get_command(app), None
    try:
        while hasattr(parsed, "resolve_command"):
            with contextlib.suppress(ValueError):
                words.remove("--debug")
            context = parsed.make_context(words[0] if words else "", list(words), parent=context)
            _, parsed, words = parsed.resolve_command(context, list(words))
        parsed.make_context(parsed.name, list(words), parent=context)
    except Exception as error:  # the class of typer's error is private to it
        return error.format_message() if hasattr(error, "format_message") else repr(error)
    return None


def test_other_commands_parse():
    """Commands, options and arguments exist, also of commands that are not run."""
    wrong = {command: error for command in OTHERS if (error := error_of(command))}
    assert wrong == {}
    assert len(OTHERS) > 20
    assert "--held_back" in str(error_of("scratch-gpt evaluate runs/gpt --held_back 0.1"))
    assert "No such command" in str(error_of("scratch-gpt tokenizer measure a b"))
    assert error_of("scratch-gpt tokenizer train a b --kind bpe") is None
    assert "Missing argument" in str(error_of("scratch-gpt info"))


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    """Paths of the repository or the package in the text, and the files of a table of the code."""
    text = text_of(page)
    roots = r"(?:scratch_gpt|tests|benchmarks|training|stress|docs)/"
    paths = re.findall(rf"(?<![\w/.-])({roots}(?:[\w-]+/)*[\w-]+\.(?:py|md|png|toml|yaml|js))\b", text)
    if page in ("README.md", "CONTRIBUTING.md"):
        paths += re.findall(r"(?<![\w/-])((?:[\w-]+/)+[\w-]+\.(?:py|md|png|toml))\b", text)
    for files in re.findall(r"^\| (`scratch_gpt/[^|]*) \|", text, re.M):
        folder, *names = re.findall(r"`([\w./]+)`", files)
        paths += [folder, *(folder + name for name in names if not name.startswith("scratch_gpt/"))]
    missing = [p for p in paths if not ((PROJECT / p).exists() or (PROJECT / "scratch_gpt" / p).exists())]
    assert [path for path in missing if not INVENTED.search(path)] == []


def test_commands_that_are_never_run_still_exist():
    """A pattern that matches no command of any page is dead."""
    assert all(any(re.match(pattern, command) for command in NAMED) for pattern in NEVER_RUN if "install" in pattern)
    assert not any(runs(command) for command in ("pip install -e .", "scratch-gpt push a b", "transformers serve"))
    assert runs("scratch-gpt see runs/gpt")


def test_first_and_test_command_are_marked():
    text = text_of("README.md")
    assert re.search(r"<!-- run-command -->\n```bash\n.*scratch-gpt train language_modeling\n```\n<!-- end -->", text)
    assert re.search(r"<!-- test-command -->\n```bash\n.*pytest.*\n```\n<!-- end -->", text)


def test_the_order_is_that_of_the_navigation():
    assert PAGES[:2] == ("README.md", "CONTRIBUTING.md")
    assert len(PAGES) == len(set(PAGES))
    assert all(isinstance(block, Block) for block in BLOCKS)
