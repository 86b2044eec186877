"""The notebooks of the tutorials: valid, with the commands and Python code of their pages, and one of them is run."""

import json
import sys
from functools import cache

import pytest
from helpers.documentation import Block, commands_of, page_blocks, page_paths, text_of
from helpers.processes import PROJECT
from helpers.reader import Reader, Workshop

nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed")
pytest.importorskip("jupytext", reason="the extra docs is not installed")

sys.path.insert(0, str(PROJECT / "docs" / "generate"))

from notebooks import TUTORIALS, notebook, notebooks, with_colab_link  # noqa: E402  (its folder is in the path now)

pytestmark = pytest.mark.slow  # as all tests that need the extra docs
URIS = [f"tutorials/{name}.ipynb" for name in TUTORIALS]
made = cache(notebooks)


def blocks_of_notebook(content: bytes, page: str) -> list[Block]:
    """The code cells as blocks of bash and Python, in order."""
    blocks = []
    for number, cell in enumerate(json.loads(content)["cells"]):
        if cell["cell_type"] == "code":
            code = "".join(cell["source"])
            is_bash = code.startswith(("!", "%%bash"))
            if is_bash:
                code = "\n".join(line.removeprefix("!") for line in code.removeprefix("%%bash\n").splitlines())
            blocks.append(Block(page, number, "bash" if is_bash else "python", code + "\n", ""))
    return blocks


def page_of(uri: str) -> str:
    return f"docs/{uri.removesuffix('.ipynb')}.md"


@pytest.mark.parametrize("uri", URIS)
def test_notebook_does_what_its_page_does(uri):
    nbformat.validate(nbformat.reads(made()[uri].decode(), as_version=4))
    blocks = blocks_of_notebook(made()[uri], page_of(uri))
    expected = [b for b in page_blocks(page_of(uri)) if b.language in ("bash", "python") and b.reason is None]
    assert len(expected) >= 3
    assert [block.language for block in blocks] == [block.language for block in expected]
    for found, wanted in zip(blocks, expected, strict=True):
        if wanted.language == "python":
            assert found.code == wanted.code
        else:
            assert commands_of(found) == commands_of(wanted)


@pytest.mark.parametrize("uri", URIS)
def test_text_of_a_notebook_stands_alone(uri):
    """No link or picture points to a file of the site, and every line of the page's text is there."""
    cells = json.loads(made()[uri])["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert cells[0]["cell_type"] == "markdown"
    assert text.startswith("# ")
    assert "](../" not in text
    assert "![" not in text
    assert "source:" not in text
    assert "<!--" not in text
    assert ".ipynb" not in text


def test_all_tutorials_are_notebooks():
    pages = {page for page in page_paths() if page.startswith("docs/tutorials/")} - {"docs/tutorials/index.md"}
    assert {page_of(uri) for uri in made()} == pages
    assert len(TUTORIALS) == 5
    assert notebooks() == made()  # the same in every build


def test_cells_of_all_kinds():
    page = (
        '# Title\n\n!!! note "Mind this"\n    One [link](../a.md).\n\n![picture](../b.png) [site](https://c.org)\n\n'
        "```bash\none\ntwo\n```\n\n```text\nout\n```\n\n```bash\ncat > f << END\nx\nEND\n```\n\n"
        "<!-- not run: it needs a GPU -->\n```bash\nthree\n```\n\n```python\nfour()\n```\n"
    )
    cells = json.loads(notebook(page, "https://github.com/a/b"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert code == [
        "!pip install -q git+https://github.com/a/b",
        "!one\n!two",
        "%%bash\ncat > f << END\nx\nEND",
        "four()",
    ]
    assert "**Mind this**\nOne link." in text
    assert "[site](https://c.org)" in text
    assert "Not run here: it needs a GPU." in text


def test_colab_opens_the_published_notebook():
    page, uri = text_of("docs/tutorials/translator.md"), "tutorials/translator.ipynb"
    address = "https://colab.research.google.com/github/a/b.c/blob/gh-pages/tutorials/translator.ipynb"
    linked = with_colab_link(page, "https://github.com/a/b.c/", uri)
    assert linked.replace(f" [Open in Colab]({address}).", "") == page != linked
    assert with_colab_link(page, "https://example.org/a/b", uri) == with_colab_link(page, None, uri) == page


@pytest.mark.timeout(900)
def test_a_notebook_runs(tmp_path):
    uri = "tutorials/first-model.ipynb"
    workshop = Workshop(tmp_path / "workshop")
    reader = Reader(workshop, tmp_path / "reader", page_of(uri))
    reader.follow(blocks_of_notebook(made()[uri], page_of(uri)))
    assert (reader.folder / "runs" / "gpt" / "model.safetensors").exists()
