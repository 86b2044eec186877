"""The reference has every paper and every public name of the package."""

import re
from pathlib import Path

import scratch_gpt

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "reference" / "papers.md"
# "arXiv:1706.03762", a second number after a comma, `Paper("…", "1706.03762")`, and addresses of other archives
NUMBER = re.compile(r"(?<![\d.])(?:0[7-9]|1\d|2\d)(?:0[1-9]|1[0-2])\.\d{4,5}(?![\d.]*\d)")
ADDRESS = re.compile(
    r"(?:aclanthology\.org|openreview\.net|jmlr\.org|joschu\.net|kellerjordan\.github\.io)/[\w/?=.-]*\w"
)


def named(path: Path) -> set[str]:
    """The papers that a file names."""
    text = path.read_text("utf-8")
    numbers = set(NUMBER.findall(text)) if re.search("arxiv", text, re.IGNORECASE) else set()
    return numbers | set(ADDRESS.findall(text))


def test_every_paper_of_the_package_is_in_the_index():
    index = INDEX.read_text("utf-8")
    files = [path for suffix in ("py", "js") for path in (ROOT / "scratch_gpt").rglob(f"*.{suffix}")]
    missing = {f"{path.relative_to(ROOT)}: {paper}" for path in files for paper in named(path) if paper not in index}
    assert not missing, "add to docs/reference/papers.md:\n" + "\n".join(sorted(missing))


def test_papers_are_found(tmp_path):
    path = tmp_path / "file.py"
    path.write_text('"""Su et al. 2021 (arXiv:2104.09864, 1412.6980.), aclanthology.org/P12-2018, 3.14159; 0.12345"""')
    assert named(path) == {"2104.09864", "1412.6980", "aclanthology.org/P12-2018"}


def test_every_public_name_has_its_entry():
    pages = {path.name: path.read_text("utf-8") for path in (ROOT / "docs" / "reference" / "api").glob("*.md")}
    entries = set(re.findall(r"^::: (\S+)", "\n".join(pages.values()), re.MULTILINE))
    for name, module in scratch_gpt._LAZY.items():
        full = f"scratch_gpt.{module}.{name}"
        assert full in entries, f"docs/reference/api has no entry ::: {full}"
        assert f"][{full}]" in pages["index.md"], f"docs/reference/api/index.md has no link to {full}"
