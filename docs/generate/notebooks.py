"""Notebooks of the tutorials, made from their Markdown with jupytext: nothing is written twice.

Commands become cells that start with `!` (or `%%bash`, where a command has several lines), Python blocks become cells,
and everything else Markdown. A notebook is read outside the site, so that its links to other pages and its pictures are
replaced by their texts.
"""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat

DOCS = Path(__file__).parents[1]
TUTORIALS = ("first-model", "own-text", "translator", "assistant", "hub-models")
FENCE = re.compile(r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
CONTAINER = re.compile(r'^(?:!!!|\?\?\?\+?|===\+?) *(?P<kind>\w*) *(?:"(?P<title>[^"]*)")?$')
INSTALLED = "Run this notebook where `scratch_gpt` is installed."


def notebooks(repo_url: str | None = None) -> dict[str, bytes]:
    """Return the notebooks of all tutorials.

    Args:
        repo_url: address of the repository, from which a notebook then installs the package.

    Returns:
        For each address of the site, such as "tutorials/first-model.ipynb", the content of the file.
    """
    pages = {name: DOCS / "tutorials" / f"{name}.md" for name in TUTORIALS}
    return {
        f"tutorials/{name}.ipynb": notebook(page.read_text(encoding="utf-8"), repo_url) for name, page in pages.items()
    }


def with_colab_link(page: str, repo_url: str | None, uri: str, branch: str = "gh-pages") -> str:
    """Return a page with a link that opens its notebook in Colab; without one if the repository is not on GitHub.

    Args:
        page: Markdown of a tutorial, which has a link to its notebook.
        repo_url: address of the repository.
        uri: address of the notebook within the site.
        branch: that the site is published on, as `mkdocs gh-deploy` does.
    """
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", repo_url or "")
    if not found:
        return page
    address = f"https://colab.research.google.com/github/{found[1]}/blob/{branch}/{uri}"
    link = f"[Download as a notebook]({uri.rpartition('/')[2]})."
    return page.replace(link, f"{link} [Open in Colab]({address}).")


def notebook(page: str, repo_url: str | None = None) -> bytes:
    """Convert a page.

    Args:
        page: Markdown.
        repo_url: as in `notebooks`.
    """
    made = jupytext.reads(notebook_markdown(page, repo_url), fmt="md")
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(made.cells):
        cell.metadata = {}
        cell["id"] = f"cell-{number}"  # the same in every build
    made.nbformat, made.nbformat_minor = 4, 5
    nbformat.validate(made)
    return (nbformat.writes(made, version=4) + "\n").encode()


def notebook_markdown(page: str, repo_url: str | None = None) -> str:
    """Return the page as jupytext reads it: each Python block is a code cell.

    Args:
        page: Markdown.
        repo_url: as in `notebooks`.
    """
    parts, end = [], 0
    page = without_containers(page)
    for found in FENCE.finditer(page):
        parts += [without_links(page[end : found.start()]), cell_of(found)]
        end = found.end()
    text = "".join([*parts, without_links(page[end:])])
    heading, _, rest = text.partition("\n")
    install = f"```python\n!pip install -q git+{repo_url}\n```" if repo_url else INSTALLED
    return f"{heading}\n\n{install}\n{rest}"


def cell_of(found: re.Match[str]) -> str:
    """Return a fenced block as a cell, or as text if it is not run or is an output."""
    language, code = found["language"], found["code"]
    if found["reason"]:
        return f"Not run here: {found['reason']}.\n\n```text\n{code}```"
    if language == "bash":
        lines = code.splitlines()
        is_simple = "<<" not in code and not any(line.endswith("\\") or line.startswith((" ", "#")) for line in lines)
        cell = "\n".join(f"!{line}" if line else "" for line in lines) if is_simple else f"%%bash\n{code.rstrip()}"
        return f"```python\n{cell}\n```"
    return f"```{language if language == 'python' else 'text'}\n{code}```"


def without_containers(page: str) -> str:
    """Return a page whose admonitions and tabs are paragraphs under their titles."""
    lines, inside = [], False
    for line in page.splitlines():
        if found := CONTAINER.match(line):
            inside = True
            lines.append(f"**{found['title'] or found['kind'].capitalize()}**")
            continue
        if inside and line.strip() and not line.startswith("    "):
            inside = False
        lines.append(line[4:] if inside else line)
    return "\n".join(lines) + "\n"


def without_links(text: str) -> str:
    """Return text whose links within the site, and pictures, are replaced by their texts."""

    def replaced(found: re.Match[str]) -> str:
        if found["image"]:
            return f"*(Picture on the page: {found['text']})*"
        if found["target"].endswith(".ipynb"):
            return ""
        return found[0] if found["target"].startswith(("https://", "http://", "mailto:")) else found["text"]

    return re.sub(r"^\.$\n?", "", LINK.sub(replaced, text), flags=re.M)
