"""The hooks of the documentation's build (mkdocs.yml): generated pages, and links to source code."""

from __future__ import annotations

import importlib
import logging
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.utils import get_relative_url
from source_links import IN_HTML, IN_MARKDOWN, UnknownSourceError, anchor, line_of, page_of, source_page

FOLDER = Path(__file__).parent
NOTEBOOK = re.compile(r"\[[^\]]*\]\(([\w-]+\.ipynb)\)")
FLAG = re.compile(r"<code>(--[\w-]+)")
log = logging.getLogger("mkdocs.hooks.generate")  # a warning of this logger fails a strict build


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Generate the pages, unless `extra.generate` is false, and replace the entries `folder/*` of the navigation by the
    pages that they stand for."""
    global _generated
    _generated = _generate() if config.extra.get("generate", True) else {}
    config.nav = _expanded(config.nav, _named(config.nav), Path(config.docs_dir))
    return config


_generated: dict[str, str | bytes] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated files, and the pages of the source files that a page links to."""
    for uri, content in _generated.items():
        if files.get_file_from_path(uri):
            log.warning(f"{uri} is generated, and is a file as well: delete the file")
        else:
            files.append(File.generated(config, uri, content=content))
    linked = set()
    for file in files.documentation_pages():
        for target in IN_MARKDOWN.findall(file.content_string):
            try:
                linked.add(line_of(target)[0])
            except UnknownSourceError as error:
                log.warning(f"{file.src_uri}: {error}")
    for path in sorted(linked):
        files.append(
            File.generated(config, page_of(path), content=source_page(path), inclusion=InclusionLevel.NOT_IN_NAV)
        )
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Add a link to Colab to the links to notebooks, which `mkdocs gh-deploy` publishes, if the repository is known."""
    host, _, repository = (config.repo_url or "").rstrip("/").partition("//github.com/")
    if host != "https:":
        return markdown
    folder = PurePosixPath(page.file.src_uri).parent
    address = f"https://colab.research.google.com/github/{repository}/blob/{config.remote_branch}/{folder}"
    return NOTEBOOK.sub(rf"\g<0>, or [open it in Colab]({address}/\1)", markdown)


def on_page_content(html: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Replace the addresses of links to source code, and keep the dashes of a flag and its name on one line."""

    def address(target: str) -> str:
        try:
            path, line = line_of(target)
        except UnknownSourceError:  # a warning was given
            return f"source:{target}"
        file = files.get_file_from_path(page_of(path))
        assert file is not None, f"{page.file.src_uri} links to {path}, which was not seen in its Markdown"
        return get_relative_url(file.url, page.file.url) + anchor(line)

    html = FLAG.sub(r'<code><span class="flag">\1</span>', html)
    return IN_HTML.sub(lambda found: f'href="{address(found[1])}"', html)


def _generate() -> dict[str, str | bytes]:
    """All generated files by their URI, in the order in which the navigation lists them."""
    for folder in (FOLDER.parents[1], FOLDER):  # the package, and the modules beside this one
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    generated: dict[str, str | bytes] = {}
    for name, functions in GENERATORS.items():
        if (FOLDER / f"{name}.py").is_file():
            module = importlib.import_module(name)
            for function in functions:
                generated |= getattr(module, function)()
    return generated


# Modules beside this one, and their functions that return files by URI.
GENERATORS = {
    "commands": ("command_pages",),
    "training_arguments": ("training_pages",),
    "foundations": ("foundations_page",),
    "course": ("course_pages", "course_images"),
    "notebooks": ("notebooks",),
    "live_page": ("live_page",),
}


def _named(nav: Any) -> set[str]:
    """The pages that the navigation names."""
    if isinstance(nav, dict):
        return set().union(*map(_named, nav.values()))
    return set().union(*map(_named, nav)) if isinstance(nav, list) else {nav}


def _expanded(nav: Any, named: set[str], docs: Path) -> Any:
    if isinstance(nav, dict):
        return {title: _expanded(each, named, docs) for title, each in nav.items()}
    if not isinstance(nav, list):
        return nav
    expanded = []
    for each in nav:
        if isinstance(each, str) and each.endswith("/*"):
            expanded += _pages_of(PurePosixPath(each).parent, named, docs)
        else:
            expanded.append(_expanded(each, named, docs))
    return expanded


def _pages_of(folder: PurePosixPath, named: set[str], docs: Path) -> list[str]:
    """The generated pages of a folder, and then its files, without those that the navigation names."""
    generated = [uri for uri in _generated if PurePosixPath(uri).parent == folder and uri.endswith(".md")]
    written = sorted(path.relative_to(docs).as_posix() for path in (docs / folder).glob("*.md"))
    return [uri for uri in dict.fromkeys(generated + written) if uri not in named]
