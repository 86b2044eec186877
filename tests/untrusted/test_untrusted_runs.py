"""Untrusted run directories: they can't grant trust, and nothing outside of them is written or removed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.models import save_tiny
from helpers.processes import PRETRAIN, PROJECT, TINY_RUN, run_here

from scratch_gpt.atomic_files import write_text
from scratch_gpt.errors import ScratchError
from scratch_gpt.train.checkpoints.checkpoint import checkpoint_folders
from scratch_gpt.train.checkpoints.manifest import find_corruption, write_manifest
from scratch_gpt.train.engine.run_directory import read_metrics, read_run, truncate_metrics

PPO = str(PROJECT / "training" / "policy_gradient.py")


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """A run of two steps with a checkpoint at each."""
    folder = tmp_path_factory.mktemp("finished_run")
    (folder / "text.txt").write_text("One day, Anna has two old lamps and a dog that sleeps.\n" * 60)
    options = ("--max_steps", "2", "--save_every", "1", "--keep_last", "2", "--dataset", str(folder / "text.txt"))
    run_here(PRETRAIN, "--output_dir", str(folder / "run"), *TINY_RUN, *options)
    return folder / "run"


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def edit_record(run: Path, part: str, **fields) -> None:
    record = yaml.safe_load((run / "run.yaml").read_text())
    record[part] |= fields
    (run / "run.yaml").write_text(yaml.safe_dump(record))


def error_of(script: str, *arguments: str) -> str:
    """Run a command that fails, and return its one-line error, before which warnings may stand."""
    result = run_here(script, *arguments, check=False)
    assert result.returncode == 2, (result.stdout[-2000:], result.stderr[-2000:])
    *warnings, line = [line for line in result.stderr.splitlines() if line.strip()]
    assert all(each.startswith("warning: ") for each in warnings)
    assert line.startswith("error: ")
    return line


def add_code(run: Path, marker: Path) -> None:
    """Add a custom model type to the run and its checkpoints, whose code creates a file; manifests stay valid."""
    for folder in (run, *checkpoint_folders(run)):
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.M"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('')\n")
        if folder != run:
            write_manifest(folder)


@pytest.mark.parametrize("command", ["verify", "--resume"])
def test_a_record_can_not_grant_trust(command, run, tmp_path):
    add_code(run, tmp_path / "ran")
    edit_record(run, "arguments", trust_remote_code=True, max_steps=3)
    arguments = (
        ("scratch-gpt", "verify", str(run)) if command == "verify" else (PRETRAIN, "--output_dir", str(run), command)
    )
    said = error_of(*arguments)
    assert "no model can be opened" in said or "no causal language model can be opened" in said
    assert not (tmp_path / "ran").exists()


def test_trust_on_the_command_line_is_used(run, tmp_path):
    add_code(run, tmp_path / "ran")
    run_here("scratch-gpt", "verify", str(run), "--trust_remote_code", check=False)
    assert (tmp_path / "ran").exists()


@pytest.fixture
def rewarded_run(tmp_path, monkeypatch) -> Path:
    """A run of PPO whose reward is a function in a file of the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a\nb\nc\na b\na c\n")
    Path("helper.py").write_text("def f(prompts, completions):\n    return [float(len(c)) for c in completions]\n")
    options = ("--reward", "helper.py:f", "--dataset", "prompts.txt", "--validation_prompts", "1", "--max_steps", "1")
    options += ("--prompts_per_rollout", "2", "--num_generations", "2", "--max_new_tokens", "4", "--num_threads", "1")
    run_here(PPO, "--init_from", str(save_tiny(tmp_path / "m")), "--output_dir", "run", *options, cwd=tmp_path)
    Path("helper.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('')\n" + Path("helper.py").read_text())
    return tmp_path / "run"


def test_a_reward_function_named_only_in_the_record_does_not_run(rewarded_run, tmp_path):
    said = error_of(PPO, "--output_dir", str(rewarded_run), "--resume")
    assert "sets the reward helper.py:f, which is code: read it, then allow it with --trust_remote_code" in said
    said = error_of("scratch-gpt", "verify", str(rewarded_run))
    assert "sets the reward helper.py:f, which is code" in said
    assert not (tmp_path / "ran").exists()
    run_here(PPO, "--output_dir", str(rewarded_run), "--resume", "--reward", "helper.py:f", cwd=tmp_path)
    assert (tmp_path / "ran").exists()


# Links


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def link_checkpoints(run: Path, outside: Path) -> None:
    shutil.copytree(run / "checkpoints", outside / "checkpoints")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(outside / "checkpoints")


def link_metrics(run: Path, outside: Path) -> None:
    (outside / "private").write_text('{"step": 99}\n')
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(outside / "private")


def link_to_nothing(name: str):
    def make(run: Path, outside: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside / "made")

    return make


def link_partial_checkpoint(run: Path, outside: Path) -> None:
    (outside / "kept").mkdir()
    (outside / "kept/file").write_text("kept")
    (run / "checkpoints/.step-00000009.partial").symlink_to(outside / "kept")


LINKS = {
    "checkpoints": link_checkpoints,
    "metrics.jsonl": link_metrics,
    ".metrics.jsonl": link_to_nothing(".metrics.jsonl"),
    "loss.png": link_to_nothing("loss.png"),
    "run.yaml beside": link_to_nothing("failure.json"),
    "target_tokenizer": link_to_nothing("target_tokenizer"),
    "a partial checkpoint": link_partial_checkpoint,
}


@pytest.mark.parametrize("case", LINKS)
def test_nothing_is_written_or_removed_through_a_link(case, run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    LINKS[case](run, outside)
    before = tree(outside)
    edit_record(run, "arguments", max_steps=4, keep_last=1)
    assert "is a link, and a run writes and removes files in" in error_of(
        PRETRAIN, "--output_dir", str(run), "--resume"
    )
    assert tree(outside) == before
    assert not (outside / "made").exists()


def test_a_new_run_does_not_write_through_a_link(finished_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").symlink_to(tmp_path / "made")
    text = str(finished_run.parent / "text.txt")
    options = ("--output_dir", str(tmp_path / "run"), "--dataset", text, *TINY_RUN, "--max_steps", "1")
    assert "is a link" in error_of(PRETRAIN, *options)
    assert not (tmp_path / "made").exists()


def test_hard_links_are_replaced_and_not_written_through(run, tmp_path):
    """A hard link can't be distinguished from a file, but each write creates a new file and renames it."""
    names = ("metrics.jsonl", "run.yaml", "loss.png", "config.json", "README.md", "model.safetensors")
    for name in names:
        os.link(run / name, tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    insisted = ("--resume", "--max_steps", "4", "--allow_changed_settings", "--log_every", "1")
    run_here(PRETRAIN, "--output_dir", str(run), *insisted)
    assert len(read_metrics(run)) > before["metrics.jsonl"].count(b"\n")
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def test_checkpoints_of_another_run_are_never_removed(run, finished_run, tmp_path):
    """A link, or an entry with another name than `step-` and digits, is not a checkpoint of this run."""
    other = Path(shutil.copytree(finished_run / "checkpoints", tmp_path / "other"))
    (run / "checkpoints/step-00000000").symlink_to(other / "step-00000001")
    (run / "checkpoints/step-old").mkdir()
    (run / "checkpoints/step-00000003.txt").touch()
    assert [path.name for path in checkpoint_folders(run)] == ["step-00000001", "step-00000002"]


def test_write_text_replaces_a_link_and_keeps_its_target(tmp_path):
    (tmp_path / "private").write_text("private")
    (tmp_path / "name").symlink_to(tmp_path / "private")
    write_text(tmp_path / "name", "new")
    assert (tmp_path / "private").read_text() == "private"
    assert (tmp_path / "name").read_text() == "new"
    assert not (tmp_path / "name").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["name", "private"]


def test_a_tokenizer_is_not_written_through_a_link(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t/tokenizer.json").symlink_to(tmp_path / "made")
    (tmp_path / "text.txt").write_text("a b c " * 99)
    said = error_of(
        "scratch-gpt", "tokenizer", "train", str(tmp_path / "text.txt"), str(tmp_path / "t"), "--kind", "char"
    )
    assert "is a link, which could redirect writes elsewhere" in said
    assert not (tmp_path / "made").exists()


# Records


RECORDS = {
    "no mapping": "[1, 2]",
    "no facts": "arguments: {}\nmachine: {processes: 1}",
    "processes": "arguments: {}\nfacts: {}\nmachine: {processes: -3}",
    "many processes": "arguments: {}\nfacts: {}\nmachine: {processes: 1000000000}",
    "arguments": "arguments: [1]\nfacts: {}\nmachine: {processes: 1}",
    "an alias": "arguments: &a {}\nfacts: *a\nmachine: {processes: 1}",
    "code": "!!python/object/apply:os.system ['true']",
    "names": "arguments: {1: 2}\nfacts: {}\nmachine: {processes: 1}",
}


@pytest.mark.parametrize("case", RECORDS)
def test_an_invalid_record_is_rejected(case, run):
    (run / "run.yaml").write_text(RECORDS[case])
    with pytest.raises(ScratchError, match=r"run\.yaml"):
        read_run(run)
    assert "run.yaml" in error_of("scratch-gpt", "verify", str(run))
    assert "run.yaml" in error_of(PRETRAIN, "--output_dir", str(run), "--resume")


ARGUMENTS = {
    "an unknown name": ({"evil": 1}, "has unknown settings: evil"),
    "a text": ({"max_steps": "many"}, "invalid int value: 'many'"),
    "a list": ({"learning_rate": [1, 2]}, "want one value, not the list"),
    "a choice": ({"schedule": "steep"}, "invalid choice: 'steep'"),
    "stories": ({"dataset": "stories", "num_stories": 10**9}, "num_stories"),
    "rows": ({"batch_size": 10**12}, "batch_size is 1000000000000, want more than 0 and at most 1,048,576"),
    "threads": ({"num_threads": 10**9}, "num_threads is 1000000000, want more than 0 and at most 16,384"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
@pytest.mark.parametrize("command", ["verify", "--resume"])
def test_an_invalid_argument_in_a_record_is_rejected(case, command, run):
    fields, said = ARGUMENTS[case]
    edit_record(run, "arguments", **fields)
    arguments = (
        ("scratch-gpt", "verify", str(run)) if command == "verify" else (PRETRAIN, "--output_dir", str(run), command)
    )
    assert said in error_of(*arguments)


def test_a_record_without_the_hash_of_its_data_is_not_resumed(run, tmp_path):
    """Otherwise a record could name any file of this machine as training data."""
    (tmp_path / "private.txt").write_text("a private text that is learned by nobody " * 50)
    edit_record(run, "arguments", dataset=str(tmp_path / "private.txt"), max_steps=3)
    assert "the data has changed since the run" in error_of(PRETRAIN, "--output_dir", str(run), "--resume")
    edit_record(run, "facts", data=None)
    assert "the data has changed since the run" in error_of(PRETRAIN, "--output_dir", str(run), "--resume")


@pytest.mark.parametrize(
    "row", ["[]", '{"step": "1"}', '{"step": 1, "val_loss": "x"}', '{"step": 1, "a": NaN}', "{", "7"]
)
def test_invalid_rows_of_metrics_are_rejected(row, run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(ScratchError, match=r"metrics\.jsonl, line \d+"):
        read_metrics(run)
    assert "metrics.jsonl, line" in error_of("scratch-gpt", "verify", str(run))


def test_rows_are_truncated_at_the_step_of_a_resume(run):
    rows = [{"step": step, "tokens": step, "val_loss": 1.0} for step in range(5)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9')
    truncate_metrics(run, 2)
    assert [row["step"] for row in read_metrics(run)] == [0, 1, 2]


STATES = {
    "no counters": {"loop": {}},
    "a text": {"loop": {"step": "x"}},
    "negative": {"loop": {"data": {"epoch": -1, "row": 0}}},
    "huge": {"loop": {"step": 2**60}},
    "no groups": {"param_groups": 7},
    "no state": {"random": [[1]]},
}


@pytest.mark.parametrize("case", STATES)
def test_an_invalid_training_state_is_rejected(case, run):
    (folder,) = [path for path in checkpoint_folders(run) if path.name.endswith("2")]
    state = json.loads((folder / "training_state.json").read_text())
    for name, value in STATES[case].items():
        state[name] = {**state[name], **value} if isinstance(value, dict) and value else value
    (folder / "training_state.json").write_text(json.dumps(state))
    write_manifest(folder)
    edit_record(run, "arguments", max_steps=3)
    said = error_of(PRETRAIN, "--output_dir", str(run), "--resume")
    assert "step-00000002 can't be resumed" in said


def test_a_pickle_instead_of_the_state_is_rejected(run):
    folder = checkpoint_folders(run)[-1]
    (folder / "training_state.safetensors").write_bytes(b"\x80\x04cos\nsystem\n." * 9)
    write_manifest(folder)
    edit_record(run, "arguments", max_steps=3)
    assert "step-00000002 can't be resumed: SafetensorError" in error_of(PRETRAIN, "--output_dir", str(run), "--resume")


MANIFESTS = ["[]", "{}", '{"files": 7}', '{"files": {"a": 7}}', '{"files": {"a": {"size": "x"}}}', "[" * 500, "\xff"]


@pytest.mark.parametrize("content", MANIFESTS)
def test_an_invalid_manifest_is_detected(content, run):
    folder = checkpoint_folders(run)[0]
    (folder / "manifest.json").write_bytes(content.encode("latin-1"))
    assert find_corruption(folder) in ("manifest.json can't be read", "manifest.json was changed")


def test_a_named_pipe_in_a_checkpoint_is_detected(run):
    folder = checkpoint_folders(run)[0]
    os.mkfifo(folder / "pipe")
    assert find_corruption(folder) == "pipe not listed in manifest.json"
    (folder / "pipe").unlink()
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    assert find_corruption(folder) == "manifest.json can't be read"


def test_a_config_file_can_disable_a_flag_that_is_on_by_default(tmp_path):
    """Regression: `tie_word_embeddings: false` became the string "False", which is truthy."""
    from scratch_gpt.train.engine.parsing import parse_arguments
    from scratch_gpt.train.tasks import recipe_of

    for written, wanted in (("false", False), ("true", True), ('"no"', False)):
        (tmp_path / "c.yaml").write_text(f"tie_word_embeddings: {written}\n")
        _, model, _ = parse_arguments(recipe_of("translation").arguments, "", ["--config", str(tmp_path / "c.yaml")])
        assert model.tie_word_embeddings is wanted
