"""Hostile directories: no code in them runs, nothing outside of them is written, and commands fail only with an error
of one line. `stress/hostile_directories.py` tests thousands; this is a small fixed selection."""

import json

import pytest
from helpers.hostile_apply import SECRET, Places, make_directory, make_outside, rewrite_manifest
from helpers.hostile_directories import COMMANDS, Outcome, draw_plans, find_failures, state_of
from helpers.hostile_fields import CODE
from helpers.hostile_mutations import CHECKPOINTS
from helpers.processes import PROJECT, run_python

STRESS = str(PROJECT / "stress" / "hostile_directories.py")
VALID = {"mutations": [], "where": "root", "manifest": True, "answer": True, "inside": False}
KNOWN_PLANS = PROJECT / "tests" / "helpers" / "hostile_plans.jsonl"


def table_of(printed: str) -> dict[str, list[str]]:
    """Columns of the table (runs, refused, succeeded, worst seconds, worst MB, failures) by command."""
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][2:]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.slow
def test_hostile_directories_do_no_harm(tmp_path):
    """A valid directory, which every command must accept; plans that caused failures in the past, with their command;
    and a few new plans."""
    plans = tmp_path / "plans.jsonl"
    valid = "".join(json.dumps({"command": command, "plan": VALID}) + "\n" for command in COMMANDS)
    plans.write_text(valid + KNOWN_PLANS.read_text())
    drawn = ("--directories", "2", "--seed", "5", "--commands", *(set(COMMANDS) - {"push"}))  # the slowest command
    options = ("--replay", str(plans), *drawn, "--show", "--output", str(tmp_path / "out"))
    result = run_python(STRESS, *options, cwd=tmp_path, check=False, fresh=True)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-4000:]
    table = table_of(result.stdout)
    assert table.keys() == set(COMMANDS)
    assert all(int(row[2]) >= 1 for row in table.values()), table


# Detection of failures


@pytest.fixture
def case(tmp_path):
    """The folder of a case before a command runs."""
    base = tmp_path / "base"
    for name in ("", *CHECKPOINTS):
        (base / name).mkdir(parents=True, exist_ok=True)
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            (base / name / file).write_text("{}")
    folder = tmp_path / "case"
    for name in ("out", "tmp", "cache"):
        (folder / name).mkdir(parents=True)
    make_outside(base, Places(folder))
    make_directory(base, Places(folder), VALID)
    return folder


def run_code(folder):
    exec(CODE.replace("@MARK@", str(folder / "mark")))


def write_outside(folder):
    (folder / "outside" / "new").touch()


def write_and_remove_outside(folder):
    write_outside(folder)
    (folder / "outside" / "new").unlink()


def change_mode(folder):
    (folder / "outside" / "secret.txt").chmod(0o777)


def remove_checkpoint_of_another(folder):
    (folder / "outside" / "run" / CHECKPOINTS[0] / "config.json").unlink()


def write_into_directory(folder):
    (folder / "run" / "x").touch()


def copy_secret(folder):
    (folder / "out" / "x").write_text((folder / "outside" / "secret.txt").read_text())


HARM = {
    run_code: "code ran",
    write_outside: "wrote to outside",
    write_and_remove_outside: "wrote to outside",
    change_mode: "wrote to outside/secret.txt",
    remove_checkpoint_of_another: "wrote to outside/run",
    write_into_directory: "wrote to run",
    copy_secret: "secret read",
}


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_harm_is_detected(harm, case):
    before = state_of(case)
    harm(case)
    outcome = Outcome("export", 0, 1.0, 100.0)
    find_failures(outcome, case, before)
    assert len(outcome.failures) == 1
    assert HARM[harm] in outcome.failures[0]


OUTPUTS = {
    "Traceback (most recent call last)\n": (1, "traceback"),
    "thread '<unnamed>' panicked at src/lib.rs\n": (2, "traceback"),
    "error: KeyError: 'x' (run again as 'scratch-gpt --debug …' for the details)": (1, "unexpected"),
    "thread '<unnamed>' panicked at src/lib.rs\nerror: the tokenizer fails on this text: limit\n": (2, None),
    "error: no model\n": (3, "exit code 3"),
    f"error: {SECRET}\n": (2, "secret read"),
    "error: \x1b[31mHOSTILE\n": (2, "escape sequence printed"),
}


@pytest.mark.parametrize("text", OUTPUTS)
def test_invalid_output_is_detected(text, case):
    before = state_of(case)
    (case / "log.err").write_text(text)
    outcome = Outcome("info", OUTPUTS[text][0], 1.0, 100.0)
    find_failures(outcome, case, before)
    assert outcome.failures == [said for said in (OUTPUTS[text][1],) if said]


def test_allowed_changes_are_not_reported(case):
    before = state_of(case)
    (case / "out" / "made").mkdir()
    (case / "cache" / "x").touch()
    outcome = Outcome("export", 0, 1.0, 100.0)
    find_failures(outcome, case, before)
    assert outcome.failures == []


def test_excessive_memory_is_detected(case):
    outcome = Outcome("info", 0, 1.0, 1001.0)
    find_failures(outcome, case, state_of(case))
    assert outcome.failures == ["too much memory"]


def test_plans_are_deterministic_and_diverse():
    plans = draw_plans(60, 3)
    assert plans == draw_plans(60, 3) != draw_plans(60, 4)
    assert len({mutation["do"] for plan in plans for mutation in plan["mutations"]}) >= 8
    assert all(1 <= len(plan["mutations"]) <= 4 for plan in plans)


def test_a_rewritten_manifest_is_valid_for_the_package(case):
    from scratch_gpt.train.checkpoints.manifest import find_corruption

    folder = case / "run" / CHECKPOINTS[0]
    (folder / "config.json").write_text("changed")
    rewrite_manifest(folder)
    assert find_corruption(folder) is None
