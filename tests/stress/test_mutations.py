"""The mutants of stress/mutants.py, the selection and order of tests, and the command."""

import ast
import json
import shutil
import subprocess
import sys

import pytest
from helpers.processes import PROJECT, run_python

sys.path.append(str(PROJECT / "stress"))

from mutation.mutations import find_mutants, is_mutant, random_rank, sample, split_count
from mutation.report import mutation_score
from mutation.selection import Test, map_lines, order_tests, within_budget

Test.__test__ = False  # pytest would collect it
FUNCTION = '''"""Module of 2 lines."""

def f(x: int = 3, *, kind: tuple[int, int] = (), loud=True) -> "list[1]":
    """Add 1."""
{body}
'''


def mutations_of(body: str) -> set[str]:
    """Return the bodies of a function's mutants that parse."""
    content = FUNCTION.format(body="\n".join(f"    {line}" for line in body.split("\n"))).encode()
    mutants = [mutant for mutant in find_mutants("scratch_gpt/rl/x.py", content) if is_mutant(mutant, content)]
    changed = [mutant for mutant in mutants if mutant.line > 4]
    assert all(ast.parse(mutant.apply(content)) for mutant in changed)
    bodies = (mutant.apply(content).decode().split('Add 1."""\n')[1].rstrip("\n") for mutant in changed)
    return {"\n".join(line[4:] for line in body.split("\n")) for body in bodies}


@pytest.mark.parametrize(
    ("body", "mutated"),
    [
        ("return x <= y", {"return x < y", "return None"}),
        ("return x not in y", {"return x in y", "return None"}),
        ("return (x  # < none\n    < y)", {"return (x  # < none\n    <= y)", "return (None)"}),
        ("return a and b or c", {"return a or b or c", "return a and b and c", "return None"}),
        ("return not x", {"return (x)", "return None"}),
        ("x += 2", {"x -= 2", "x += 3", "x += 1", "pass"}),
        ("y = x.sum(-1)", {"y = x.mean(-1)", "y = x.sum((1))", "y = x.sum(-2)", "y = x.sum(-0)"}),
        ("return x[a:]", {"return x[(a) + 1:]", "return x[a:-1]", "return None"}),
        ("return sorted(x, key=y)", {"return list(x)", "return sorted(x)", "return None"}),
        ("return g(a=b, c=d)", {"return g(c=d)", "return g(a=b)", "return None"}),
        ("return g(a=b)", {"return g()", "return None"}),
        ("return x.detach()", {"return x", "return None"}),
        ("return [y for y in x if y]", {"return [y for y in x if True]", "return None"}),
        ("if x:\n    y.z = x", {"if True:\n    y.z = x", "if False:\n    y.z = x", "if x:\n    pass"}),
        ("for y in x:\n    continue", {"for y in x:\n    break"}),
        ("raise ValueError(1 + x)", {"pass"}),
        ("warn(f'{x + 1}')", {"pass"}),
        ("x = y", {"pass"}),
    ],
)  # fmt: skip
def test_mutations_of_each_kind(body, mutated):
    assert mutations_of(body) == mutated


@pytest.mark.parametrize(
    "body",
    [
        "print(x + 1)",
        "logger.info(x + 1)",
        'y = "a" + x',
        "y: tuple[1, 2] = x",
        "assert x == 1",
        "zip(x, y, strict=True) if 0 else 0",
        "y = x",
        "import a",
    ],
)
def test_code_that_only_displays_is_not_mutated(body):
    assert mutations_of(body) <= {"zip(x, y, strict=True) if 1 else 0", "zip(x, y, strict=True) if 0 else 1"} | {
        "zip(x, y, strict=True) if (-1) else 0",
        "zip(x, y, strict=True) if 0 else (-1)",
    }


def test_target_lines_of_defaults_are_the_body_and_of_constants_all_functions():
    content = b"SIZE = 5\n\n\ndef f(x=1):\n    '''Text.'''\n    y = x\n    return y < 2\n\n\ndef g():\n    return f()\n"
    found = {(mutant.before, mutant.operator): mutant for mutant in find_mutants("scratch_gpt/rl/x.py", content)}
    assert found["SIZE = 5", "constant"].target_lines == (6, 7, 11)
    assert found["SIZE = 5", "constant"].at_import
    assert found["def f(x=1):", "constant"].target_lines == (6, 7)
    assert found["def f(x=1):", "constant"].at_import
    assert not found["return y < 2", "comparison"].at_import
    assert found["return y < 2", "comparison"].target_lines == (7,)


def test_a_mutant_keeps_its_id_when_other_lines_change():
    before = b"def f(x):\n    return x < 1\n"
    after = b"import os\n\n\ndef g(x):\n    return x < 1\n\n\n" + before
    ids = {mutant.id: mutant for mutant in find_mutants("scratch_gpt/rl/x.py", after)}
    for mutant in find_mutants("scratch_gpt/rl/x.py", before):
        assert ids[mutant.id].line == mutant.line + 7
        assert random_rank(0, mutant) == random_rank(0, ids[mutant.id]) != random_rank(1, mutant)


def test_a_sample_is_reproducible_and_has_one_mutant_per_line():
    chosen = sample(PROJECT, 12, seed=3, only="scratch_gpt/rl")
    assert chosen == sample(PROJECT, 12, seed=3, only="scratch_gpt/rl/")
    assert len({(mutant.file, mutant.line) for mutant in chosen}) == len({mutant.id for mutant in chosen}) == 12
    assert all(mutant.file.startswith("scratch_gpt/rl/") for mutant in chosen)
    assert {m.id for m in chosen} != {m.id for m in sample(PROJECT, 12, seed=4, only="scratch_gpt/rl")}


def test_a_count_is_split_by_largest_remainders():
    assert split_count(10, {"a": 0.55, "b": 0.27, "c": 0.18}) == {"a": 5, "b": 3, "c": 2}


def test_lines_are_mapped_between_versions_of_a_file():
    old_lines = map_lines("a\nb\nc\nd", "new\na\nx\ny\nd")
    assert {line: list(old) for line, old in old_lines.items()} == {1: [], 2: [1], 3: [2, 3], 4: [2, 3], 5: [4]}


def test_fast_tests_run_first_and_one_case_of_each_before_its_others():
    cases = [Test(f"t.py::a[{i}]", 1.0 + i / 10, 1.0) for i in range(3)]
    other, slow = Test("t.py::b", 1.5, 1.5), Test("t.py::c", 50, 50)
    fixture = (("trained of t.py", 4.0),)
    sharing = [Test(f"u.py::{name}", 0.1, 0.1, fixture) for name in "de"]
    names = [test.name for test in order_tests([slow, *sharing, other, *cases])]
    assert names == ["t.py::a[0]", "t.py::b", "u.py::d", "u.py::e", "t.py::a[1]", "t.py::a[2]", "t.py::c"]
    assert [test.name for test in within_budget([other, *sharing, slow], 6)] == ["t.py::b", "u.py::d", "u.py::e"]
    assert within_budget([slow], 6) == [slow]


def test_neither_equivalent_mutants_nor_errors_count():
    rows = [{"status": status} for status in ("caught", "timeout", "survived", "no test", "equivalent", "error")]
    assert mutation_score(rows) == 0.5


MODULE = """
LIMIT = 3


def clip(x):
    return min(x, LIMIT)


def twice(n, times=2):
    kept = n * 5
    return n * times


def unused(x):
    return x + 1
"""
TESTS = """
import subprocess, sys
from scratch_gpt.rl.x import clip


def test_clip():
    assert (clip(5), clip(2)) == (3, 2)


def test_twice_in_another_process():
    subprocess.run([sys.executable, "-c", "from scratch_gpt.rl.x import twice; assert twice(3) == 6"], check=True)
"""


@pytest.mark.slow
def test_the_command_reports_caught_surviving_and_unreached_mutants_and_resumes(tmp_path):
    """On a small repository: mutants of constants, defaults, and code that runs in a subprocess of a test."""
    pytest.importorskip("coverage")
    shutil.copytree(PROJECT / "stress", tmp_path / "stress", ignore=shutil.ignore_patterns("output"))
    forks = tmp_path / "stress" / "mutation" / "forks.py"
    forks.write_text(forks.read_text().replace("in PRELOADED.split()", "in ['pytest']"))  # these tests need no more
    for name, text in {"__init__.py": "", "rl/__init__.py": "", "rl/x.py": MODULE}.items():
        (tmp_path / "scratch_gpt" / "rl").mkdir(parents=True, exist_ok=True)
        (tmp_path / "scratch_gpt" / name).write_text(text)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text(TESTS)
    subprocess.run("git init -q . && git add .", cwd=tmp_path, shell=True, check=True)
    command = ("stress/mutants.py", "--only", "scratch_gpt/rl", "--count", "20", "--jobs", "1", "--output", "out")
    first = run_python(*command, cwd=tmp_path, check=False, TMPDIR=str(tmp_path), fresh=True)
    rows = {row["line"]: row for row in map(json.loads, (tmp_path / "out" / "results.jsonl").read_text().splitlines())}
    found = {line: row["status"] for line, row in rows.items()}
    caught = dict.fromkeys((2, 6, 9, 11), "caught")
    assert (first.returncode, found) == (1, {**caught, 10: "survived", 15: "no test"}), first.stderr
    assert rows[11]["by"] == "tests/test_x.py::test_twice_in_another_process"
    assert "| rl | 6 | 4 | 0 | 1 | 1 | 0 | 66.7% |" in first.stdout
    assert not list(tmp_path.glob("mutants-*"))

    survivor = [rows[10]["file"], "twice", f"{rows[10]['before']} => {rows[10]['after']}", "never read"]
    (tmp_path / "stress" / "equivalent_mutants.txt").write_text("\t".join(survivor) + "\n")
    second = run_python(
        *command, "--resume", "--minimum", "0.8", cwd=tmp_path, check=False, TMPDIR=str(tmp_path), fresh=True
    )
    assert (second.returncode, second.stderr) == (0, "")
    assert "| rl | 6 | 4 | 0 | 0 | 1 | 1 | 80.0% |" in second.stdout
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 6
