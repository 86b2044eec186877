"""The documentation's site is built without a warning, needs no other server, and fits on a phone."""

import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.browser import chromium, opened

from scratch_gpt.hub.loading import load_model, open_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
# A page of each kind: written, generated from commands, arguments and docstrings, and the source of a file
PAGES = (
    "index.html",
    "tutorials/index.html",
    "how-to/index.html",
    "course/index.html",
    "explanation/architecture.html",
    "results/index.html",
    "contributing/index.html",
    "reference/commands/index.html",
    "reference/commands/generate.html",
    "reference/commands/tokenizer.html",
    "reference/training-arguments/language_modeling.html",
    "reference/training-arguments/configs.html",
    "reference/api/models.html",
    "reference/api/rl.html",
    "reference/run-directory.html",
    "reference/papers.html",
    "reference/families.html",
    "source/scratch_gpt/models/attention.py.html",
)


def build(config: Path, site: Path) -> subprocess.CompletedProcess:
    """Build the site strictly; with --quiet, mkdocs would not count warnings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT / "mkdocs.yml", folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


def test_a_page_of_each_kind_is_built(site):
    missing = [page for page in PAGES if not (site / page).is_file()]
    assert not missing


def test_nothing_of_the_build_is_in_the_site(site):
    assert not list(site.rglob("*.py")), "docs/generate or a script is copied into the site"
    assert not (site / "live").exists(), "docs/live is the input of how-to/live.html"


class Requests(HTMLParser):
    """Collects what a browser would load from another server to show a page."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        loads = tag != "a" and (tag != "link" or values.get("rel") not in ("canonical", "prev", "next"))
        address = values.get("src") or values.get("href") or ""
        if loads and re.match("(https?:)?//", address):
            self.found.append(address)


def test_no_page_loads_anything_from_another_server(site):
    found = {}
    for path in site.rglob("*.html"):
        parser = Requests()
        parser.feed(path.read_text("utf-8"))
        if parser.found:
            found[path.relative_to(site).as_posix()] = parser.found
    assert not found
    remote = re.compile(r"""(@import|url\()\s*["']?(https?:)?//""")
    assert not [path for path in site.rglob("*.css") if remote.search(path.read_text("utf-8"))]


UNKNOWN = {
    "scratch_gpt/models/attention.py#ScratchAttention.forwards": "does not define ScratchAttention.forwards",
    "scratch_gpt/models/attentions.py": "there is no file scratch_gpt/models/attentions.py",
    "scratch_gpt/see/web/engine/sampling.js#distributions": "does not define distributions",
}
KNOWN = {
    "scratch_gpt/models/attention.py#ScratchAttention.forward": "    def forward(",
    "scratch_gpt/see/web/engine/sampling.js#distribution": "export function distribution(",
}


def test_links_to_source_lead_to_its_line_and_unknown_ones_fail_the_build(tmp_path):
    links = "".join(f"[code](source:{link})\n" for link in (*UNKNOWN, *KNOWN))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n{links}")
    hook = ROOT / "docs" / "generate" / "hooks.py"
    settings = f"site_name: small\nnav: [index.md]\nhooks: ['{hook}']\nplugins: [search]\nextra: {{generate: false}}\n"
    highlight = "pymdownx.highlight: { anchor_linenums: true }"
    settings += f"markdown_extensions:\n  - attr_list\n  - pymdownx.superfences\n  - {highlight}\n"
    (tmp_path / "mkdocs.yml").write_text(settings)
    built = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert built.returncode != 0
    assert all(message in built.stdout + built.stderr for message in UNKNOWN.values())
    addresses = re.findall(r'href="(source/[^"]*)"', (tmp_path / "site" / "index.html").read_text("utf-8"))
    assert len(addresses) == len(KNOWN)
    for address, (link, beginning) in zip(addresses, KNOWN.items(), strict=True):
        page, _, anchor = address.partition("#")
        assert f'id="{anchor}"' in (tmp_path / "site" / page / "index.html").read_text("utf-8")
        text = (ROOT / link.partition("#")[0]).read_text("utf-8").splitlines()
        assert text[int(anchor.rpartition("-")[2]) - 1].startswith(beginning)


def test_notebooks_open_in_colab_if_the_repository_is_known(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "generate")
    hooks = importlib.import_module("hooks")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tutorials/first-model.md"))
    text = "Ten minutes. [Download as a notebook](first-model.ipynb)."
    for repository, expected in (
        (None, text),
        ("https://example.org/OWNER/NAME", text),
        (
            "https://github.com/OWNER/NAME/",
            "Ten minutes. [Download as a notebook](first-model.ipynb), or [open it in Colab]"
            "(https://colab.research.google.com/github/OWNER/NAME/blob/gh-pages/tutorials/first-model.ipynb).",
        ),
    ):
        config = SimpleNamespace(repo_url=repository, remote_branch="gh-pages")
        assert hooks.on_page_markdown(text, page, config, None) == expected


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_their_screen_without_errors(width, scheme, site, browser):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems = []
    for name in PAGES:
        page = context.new_page()
        page.on("console", lambda message, name=name: problems.append(f"{name}: {message.type} {message.text}"))
        page.on("pageerror", lambda error, name=name: problems.append(f"{name}: {error}"))
        page.on(
            "request",
            lambda request, name=name: (
                None
                if request.url.startswith(("file:", "data:"))
                else problems.append(f"{name} asks for {request.url}")
            ),
        )
        page.goto((site / name).as_uri())
        page.wait_for_load_state()
        beyond = page.evaluate("document.body.scrollWidth - window.innerWidth")
        if beyond > 0:
            problems.append(f"{name}: {beyond} pixels wider than the screen")
        page.close()
    context.close()
    assert not problems, "\n".join(problems)


def test_the_live_page_computes_what_torch_computes(site, browser):
    text = "One day, Sara has a kite behind the castle."
    live = ROOT / "docs" / "live"
    model = load_model(live).float()
    ids = open_tokenizer(str(live), needs_end=False)(text)["input_ids"]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1]  # (V,)
    with opened(browser, site / "how-to" / "live.html") as page:
        assert page.call("model.encode(argument)", text) == ids
        measured = torch.tensor(page.call("[...model.logits(argument)]", ids))
        assert page.requests == []
        assert page.problems == []
    torch.testing.assert_close(measured, expected, atol=1e-3, rtol=0)


def test_search_works_in_a_page_that_is_opened_from_disk(site, browser):
    page = browser.new_page()
    page.goto((site / "reference" / "index.html").as_uri())
    page.click(".md-search__input")
    page.keyboard.type("temperature")
    page.wait_for_selector(".md-search-result__item")
    assert "generate.html" in page.inner_html(".md-search-result__list")
    page.close()
