"""The commands of docs/results, which take too long for a test: what they name exists, and their options are known."""

import re
import shlex

import pytest
from helpers.processes import PROJECT

from scratch_gpt.train.engine.parsing import parse_arguments
from scratch_gpt.train.tasks import recipe_of

PAGES = sorted((PROJECT / "docs" / "results").glob("*.md"))
BLOCKS = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.S)]
COMMANDS = sorted({line for block in BLOCKS for line in block.splitlines()})


def words_of(start: str) -> list[list[str]]:
    """The words after the start of each command that begins so, without settings of the environment before it."""
    commands = [shlex.split(command.removeprefix("NANOGPT=PATH_TO_CHECKOUT ")) for command in COMMANDS]
    length = len(start.split())
    return [words[length:] for words in commands if words[:length] == start.split()]


@pytest.mark.parametrize("words", words_of("scratch-gpt train"), ids=" ".join)
def test_training_commands_parse(words):
    parse_arguments(recipe_of(words[0]).arguments, "", words[1:])


@pytest.mark.parametrize("words", words_of("python"), ids=" ".join)
def test_scripts_have_these_options(words):
    source = (PROJECT / words[0]).read_text("utf-8")
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


@pytest.mark.parametrize("words", words_of("pytest"), ids=" ".join)
def test_selected_tests_exist(words):
    source = (PROJECT / words[0]).read_text("utf-8")
    if "-k" in words:
        assert re.search(rf"def test_\w*{words[words.index('-k') + 1]}", source)


def test_all_commands_are_of_a_known_kind():
    others = [command for command in COMMANDS if not re.match("NANOGPT=|python |pytest |scratch-gpt |pip ", command)]
    assert others == []
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_one_table(page):
    """Of the newest measurements; the log of what was tried has one for each subject."""
    tables = re.findall(r"^\|[-| ]+\|$", page.read_text("utf-8"), re.M)
    assert len(tables) == 1 or page.stem == "tried"
