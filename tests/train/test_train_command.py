"""The three ways to start a run: `scratch-gpt train`, a script under `accelerate launch`, and Python."""

from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from helpers.processes import PRETRAIN, TINY_RUN, run_command, run_here
from helpers.training import weights

from scratch_gpt.errors import ScratchError
from scratch_gpt.train import train
from scratch_gpt.train.engine.parsing import find_config
from scratch_gpt.train.tasks import FAMILIES

SETTINGS = {"context_length": 32, "batch_size": 4, "num_threads": 1, "precision": "fp32", "tokenizer": "char"}
SETTINGS |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_steps": 2}


@pytest.fixture
def reset_accelerator():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_command_script_and_python_train_the_same_model(text_file, tmp_path, reset_accelerator):
    options = ("--dataset", str(text_file), *TINY_RUN, "--max_steps", "2", "--output_dir")
    run_here("scratch-gpt", "train", "language_modeling", *options, str(tmp_path / "command"))
    run_here(PRETRAIN, *options, str(tmp_path / "script"))
    folder = train("language_modeling", dataset=text_file, output_dir=tmp_path / "python", **SETTINGS)
    assert folder == tmp_path / "python"
    found = [weights(tmp_path / name) for name in ("command", "script", "python")]
    for name, weight in found[0].items():
        assert torch.equal(weight, found[1][name])
        assert torch.equal(weight, found[2][name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--learning_rat", "1"), "--learning_rat 1 (did you mean --learning_rate?)"),
        (("--no-film_", "--outputdir=x"), "--no-film_ --outputdir=x (did you mean --film, --output_dir?)"),
        (("--q", "true"), "--q true (see --help; booleans are flags"),
        (("--max_steps", "0"), "max_steps is 0, want more than 0"),
        (("--dataset", "nowhere.txt"), "no such file or folder"),
    ],
)
def test_command_and_script_give_the_same_errors(options, message, tmp_path):
    results = [
        run_here("scratch-gpt", "train", "language_modeling", *options, cwd=tmp_path, check=False),
        run_here(PRETRAIN, *options, cwd=tmp_path, check=False),
    ]
    for result in results:
        assert result.returncode == 2
        assert message in result.stderr
    assert results[0].stderr == results[1].stderr
    assert len(results[0].stderr.strip().splitlines()) == 1


def test_python_errors_state_what_was_expected(tmp_path):
    with pytest.raises(ScratchError, match=r"has unknown settings: learning_rat \(did you mean learning_rate\?\)"):
        train("language_modeling", learning_rat=1)
    with pytest.raises(ScratchError, match=r"settings: q \('scratch-gpt train TASK --help' lists the known ones\)"):
        train("language_modeling", q=1)
    with pytest.raises(ScratchError, match="invalid int value: 'many'"):
        train("language_modeling", max_steps="many")
    with pytest.raises(ScratchError, match="unknown task 'languages', want one of language_modeling"):
        train("languages")


@pytest.mark.parametrize("family", FAMILIES)
def test_help_lists_each_flag_once_and_examples_on_separate_lines(family, tmp_path):
    text = run_here("scratch-gpt", "train", family, "--help", cwd=tmp_path).stdout
    lines = text.splitlines()
    assert any(line.startswith(f"    scratch-gpt train {family}") for line in lines)
    flags = [line.split()[0] for line in lines if line.startswith("  --")]
    assert len(flags) == len(set(flags))
    assert not [flag for flag in flags if "-" in flag[2:]]  # the alias with dashes is accepted and not listed
    assert "(default: None)" not in text
    assert "%%" not in text


def test_booleans_are_pairs_of_flags(tmp_path):
    text = run_here("scratch-gpt", "train", "translation", "--help", cwd=tmp_path).stdout
    for name in ("resume", "skip_long", "tie_word_embeddings", "trust_remote_code"):
        assert f"--{name}, --no-{name}" in text
    refused = run_here("scratch-gpt", "train", "translation", "--skip_long", "true", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "unrecognized arguments: true" in refused.stderr


def test_a_built_in_config_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert yaml.safe_load(find_config("german_grammar").read_text())["output_dir"] == "runs/german"
    Path("german_grammar").write_text("seed: 1\n")
    assert find_config("german_grammar") == Path("german_grammar")  # a file of the user takes precedence
    assert find_config("no_such_config") == Path("no_such_config")


@pytest.mark.slow
def test_several_processes_share_a_run_and_report_an_error_once(text_file, tmp_path):
    options = ("train", "language_modeling", "--num_processes", "2", "--dataset", str(text_file), *TINY_RUN)
    run_command(*options, "--max_steps", "2", "--output_dir", "run", cwd=tmp_path, check=True)
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["machine"]["processes"] == 2
    refused = run_command(*options, "--max_steps", "0", "--output_dir", "other", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines() == ["error: max_steps is 0, want more than 0"]
