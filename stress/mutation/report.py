"""The report in Markdown: mutation scores by folder and by kind of change, and each survivor as a diff."""

from collections import Counter, defaultdict
from pathlib import Path

CAUGHT = ("caught", "timeout")
SURVIVED = ("survived", "no test")
HEADER = "mutants | caught | of them by timeout | survived | reached by no test | equivalent | mutation score"


def key_of(row: dict) -> tuple[str, str, str]:
    """Return the key of a mutant in the list of equivalent ones: file, function and change."""
    return row["file"], row["function"], f"{row['before']} => {row['after']}"


def read_equivalent(path: Path) -> dict[tuple[str, str, str], str]:
    """Read the list of mutants that behave as the original: tab-separated file, function, "before => after", reason.

    Returns:
        The reasons, by `key_of`.

    Raises:
        SystemExit: A line does not have four fields.
    """
    reasons = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        if line and not line.startswith("#"):
            fields = line.split("\t")
            if len(fields) != 4:
                raise SystemExit(f"{path}, line {number}: {len(fields)} fields, want 4 separated by tabs")
            reasons[(fields[0], fields[1], fields[2])] = fields[3]
    return reasons


def classify(rows: list[dict], listed: dict) -> list[dict]:
    """Return the rows, with the status "equivalent" for survivors that are listed as such."""
    return [
        {**row, "status": "equivalent"} if key_of(row) in listed and row["status"] in SURVIVED else row for row in rows
    ]


def mutation_score(rows: list[dict]) -> float:
    """Return the fraction of caught mutants, not counting equivalent ones and errors of this tool."""
    caught = sum(row["status"] in CAUGHT for row in rows)
    counted = caught + sum(row["status"] in SURVIVED for row in rows)
    return caught / counted if counted else 0.0


def report(rows: list[dict], listed: dict) -> str:
    """Return the tables and all survivors as Markdown."""
    rows = classify(rows, listed)
    by_folder, by_operator = defaultdict(list), defaultdict(list)
    for row in rows:
        by_folder[row["folder"]].append(row)
        by_operator[row["operator"]].append(row)
    parts = [table("folder", {**by_folder, "all": rows}), "## By kind of change\n", table("change", by_operator)]
    for status, title in [("survived", "Survivors"), ("no test", "Reached by no test"), ("equivalent", "Equivalent")]:
        chosen = [row for row in rows if row["status"] == status]
        parts += [f"## {title}: {len(chosen)}\n", *(describe(row, listed) for row in chosen)]
    caught = [f"{summarize(row)} by {row['by']}: {row['message'][:120]}" for row in rows if row["status"] in CAUGHT]
    parts += ["## Caught\n", *caught, "\n## Errors of this tool, not counted\n"]
    parts += [f"{summarize(row)}: {row['message']}" for row in rows if row["status"] == "error"]
    parts += ["\n## Ignored tests, which fail alone without a mutant\n"]
    parts += [f"- {name}" for name in sorted({name for row in rows for name in row["distrusted"]})]
    return "\n".join(parts) + "\n"


def table(title: str, groups: dict[str, list[dict]]) -> str:
    """Return a Markdown table with a row for each group of results."""
    """Return a Markdown table with a row for each group of results."""
    lines = [f"| {title} | {HEADER} |", f"|---{'|--:' * (HEADER.count('|') + 1)}|"]
    for name, rows in groups.items():
        n = Counter(row["status"] for row in rows)
        cells = (len(rows), n["caught"] + n["timeout"], n["timeout"], n["survived"], n["no test"], n["equivalent"])
        lines.append(f"| {name} | {' | '.join(map(str, cells))} | {mutation_score(rows):.1%} |")
    return "\n".join(lines) + "\n"


def summarize(row: dict) -> str:
    """Return a list item with id, position and kind of a mutant."""
    return f"- {row['id']} {row['file']}:{row['line']} {row['operator']}"


def describe(row: dict, listed: dict) -> str:
    """Describe a survivor: position, number of tests, diff, and its line for the list of equivalent mutants."""
    tests = f"{row['tests']} of {row['reaching']} tests that reach it were run, and passed"
    title = f"### {row['id']} {row['file']}:{row['line']} {row['function']}"
    key = "\t".join(key_of(row))
    return f"{title}\n\n{listed.get(key_of(row), tests)}\n\n```diff\n{row['diff']}```\n\n    {key}\n"
