"""README.md is short, its links lead to files, and its numbers are those of docs/results."""

import re

import pytest
from helpers.processes import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
RESULTS = PROJECT / "docs" / "results"
VERSION = re.compile(r"\b(?:transformers|Python|PyTorch|version)`? \d[\d.]*(?:(?: to | or | and |, )\d[\d.]*)*")
# Not a part of a name (GPT-2, Multi30k), of a path or of another number; a unit may follow without a space (3.9M, 82%).
NUMBER = re.compile(r"(?<![\w./,-])\d+(?:,\d{3})*(?:\.\d+)?(?=[A-Za-z]{0,2}(?!\w))")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    """Markdown without code blocks, code in a line, comments, pictures and the addresses of links."""
    for pattern in (r"^```.*?^```", r"<!--.*?-->", r"!\[[^\]]*\]\([^)]*\)", r"`[^`\n]*`"):
        text = re.sub(pattern, "", text, flags=re.S | re.M)
    return LINK.sub("]", text)


def numbers_of(text: str) -> list[str]:
    """Numbers in Markdown, outside code, names and versions of software."""
    return NUMBER.findall(VERSION.sub("", without_code(text)))


def relative_links(text: str) -> list[str]:
    """Paths that links and pictures lead to, without fragments."""
    return [link.split("#")[0] for link in LINK.findall(text) if not re.match(r"[a-z]+:|#", link)]


def results_of(text: str) -> set[str]:
    """Numbers on the results pages that a text links to, or on all of them if it links to none."""
    linked = [PROJECT / link for link in relative_links(text) if link.startswith("docs/results/")]
    pages = linked or sorted(RESULTS.glob("*.md"))
    return {number for page in pages for number in numbers_of(page.read_text(encoding="utf-8"))}


REASONS = re.findall(r"^- .*?(?=^- |^$)", README.partition("## Six reasons")[2].partition("\n## ")[0], re.M | re.S)


def test_numbers_are_found_in_text_and_not_in_names():
    text = "85 runs of 1,024 tokens, 3.9M, 82%, [41.15](a/7.md) `9`, in 12 s; GPT-2, Multi30k, Python 3.10, x-3, 4/5."
    assert numbers_of(text) == ["85", "1,024", "3.9", "82", "41.15", "12", "4"]
    assert numbers_of("- 1.5 times\n```bash\nsleep 3\n```\n![8](9.png) 6") == ["1.5", "6"]


def test_readme_is_short():
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_relative_links_lead_to_files(name):
    links = relative_links((PROJECT / name).read_text(encoding="utf-8"))
    assert [link for link in links if not (PROJECT / link).exists()] == []


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason[4:30])
def test_a_reason_has_a_number_of_the_page_that_it_links(reason):
    numbers = numbers_of(reason)
    assert "docs/results/" in reason
    assert numbers
    assert set(numbers) - results_of(reason) == set()


def test_all_numbers_of_the_readme_are_on_a_results_page():
    assert len(REASONS) == 6
    numbers = numbers_of(README)
    assert len(numbers) >= 6
    everywhere = {number for page in RESULTS.glob("*.md") for number in numbers_of(page.read_text(encoding="utf-8"))}
    assert set(numbers) - everywhere == set()
