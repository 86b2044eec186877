"""Settings that a launcher passes in environment variables are obeyed or refused, and each is said in one line."""

import re
from pathlib import Path

import accelerate
import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from helpers.processes import PRETRAIN, TINY_MODEL, run_here
from helpers.training import metrics, weights

from scratch_gpt.train.engine import launcher_settings
from scratch_gpt.train.performance.precision import ProductTimes
from scratch_gpt.train.tasks import FAMILIES, recipe_of

OPTIONS = (*TINY_MODEL, "--tokenizer", "char", "--context_length", "32", "--batch_size", "4", "--num_threads", "1")
OPTIONS += ("--max_steps", "4", "--log_every", "1", "--eval_every", "0")


def train(folder: Path, text: Path, *arguments: str, check: bool = True):
    """Train a tiny model in this process."""
    options = ("--output_dir", str(folder), "--dataset", str(text), *OPTIONS, *arguments)
    return run_here(PRETRAIN, *options, check=check)


def losses(folder: Path) -> list[float]:
    """The training losses of all steps."""
    return [row["train_loss"] for row in metrics(folder)]


def arguments_of(folder: Path) -> dict:
    """The recorded arguments of a run."""
    return yaml.safe_load((folder / "run.yaml").read_text())["arguments"]


@pytest.fixture(scope="module")
def by_argument(tmp_path_factory):
    """Runs whose precision is given as an argument, and their text."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("the cat sat on the mat. " * 200)
    for precision in ("fp32", "bf16"):
        train(folder / precision, folder / "text.txt", "--precision", precision)
    return folder


def test_accelerate_launch_with_mixed_precision_bf16_trains_in_bf16(by_argument, tmp_path):
    """The losses are those of `--precision bf16`, not of float32, and the record says so. Environment and command are
    those that accelerate prepares for the process that it would start."""
    options = ("--output_dir", str(tmp_path / "run"), "--dataset", str(by_argument / "text.txt"), *OPTIONS)
    launch = ("--cpu", "--num_processes", "1", "--mixed_precision", "bf16", PRETRAIN, *options)
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(launch))
    command, environment = prepare_simple_launcher_cmd_env(args)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        result = run_here(*command[1:])
    assert result.stdout.count("mixed precision bf16, as requested by the launcher") == 1
    assert losses(tmp_path / "run") == losses(by_argument / "bf16") != losses(by_argument / "fp32")
    assert arguments_of(tmp_path / "run")["precision"] == "bf16"
    resumed = run_here(PRETRAIN, "--output_dir", str(tmp_path / "run"), "--resume", "--max_steps", "4")
    assert "as requested by the launcher" not in resumed.stdout  # without the launcher, the record decides


def test_no_mixed_precision_of_the_launcher_leaves_the_precision_to_the_arguments(by_argument, tmp_path, monkeypatch):
    """'no' is also the launcher's default; what `--precision auto` then means is said."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    train(tmp_path / "explicit", by_argument / "text.txt", "--precision", "bf16")
    assert losses(tmp_path / "explicit") == losses(by_argument / "bf16")
    for chosen in ("bf16", "fp32"):
        monkeypatch.setattr(ProductTimes, "prefers_bf16", chosen == "bf16")
        result = train(tmp_path / chosen, by_argument / "text.txt")
        assert result.stdout.count(f"precision: {chosen} (a product of") == 1
        assert arguments_of(tmp_path / chosen)["precision"] == chosen
        assert (losses(tmp_path / chosen) == losses(by_argument / "fp32")) is (chosen == "fp32")


def test_a_resumed_run_refuses_another_precision_of_the_launcher(by_argument, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    out = by_argument / "auto"
    monkeypatch.setattr(ProductTimes, "prefers_bf16", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ACCELERATE_MIXED_PRECISION")
        train(out, by_argument / "text.txt")
    result = run_here(PRETRAIN, "--output_dir", str(out), "--resume", check=False)
    assert result.returncode == 2
    assert "mixed precision bf16 contradicts --precision fp32" in result.stderr
    verified = run_here("scratch-gpt", "verify", str(out))  # in the precision of the run
    assert "bit-equal" in verified.stdout


def test_accumulation_of_the_launcher_is_obeyed_once(by_argument, tmp_path, monkeypatch):
    """Gradients of three batches are accumulated, and accelerate does not divide them by three again."""
    options = ("--precision", "fp32", "--max_grad_norm", "0", "--optimizer", "adamw")
    train(tmp_path / "given", by_argument / "text.txt", *options, "--gradient_accumulation_steps", "3")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    for name, more in (("asked", ()), ("both", ("--gradient_accumulation_steps", "3"))):
        result = train(tmp_path / name, by_argument / "text.txt", *options, *more)
        assert "gradients of 3 batches are accumulated, as requested by the launcher" in result.stdout
        found = [(row["train_loss"], row["grad_norm"]) for row in metrics(tmp_path / name)]
        assert found == [(row["train_loss"], row["grad_norm"]) for row in metrics(tmp_path / "given")]
        assert arguments_of(tmp_path / name)["gradient_accumulation_steps"] == 3
    assert all(torch.equal(weight, weights(tmp_path / "given")[n]) for n, weight in weights(tmp_path / "asked").items())


def test_dynamo_backend_of_the_launcher_compiles_the_blocks_and_not_the_model(by_argument, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "scratch_gpt.train.engine.trainer.compile_blocks", lambda model, mode, *_: calls.append((model, mode))
    )
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    result = train(tmp_path / "run", by_argument / "text.txt")
    assert "blocks are compiled, as requested by the launcher (dynamo backend inductor)" in result.stdout
    ((model, mode),) = calls
    assert mode == "on"
    assert not isinstance(model, torch._dynamo.OptimizedModule)


BAD = {
    "precision fp16": ({"MIXED_PRECISION": "fp16"}, (), "mixed precision fp16 is not supported: use bf16, or no"),
    "precision fp8": ({"MIXED_PRECISION": "fp8"}, (), "mixed precision fp8 is not supported"),
    "bf16 against fp32": ({"MIXED_PRECISION": "bf16"}, ("--precision", "fp32"), "contradicts --precision fp32"),
    "deepspeed": ({"USE_DEEPSPEED": "true"}, (), "DeepSpeed is not supported: use data parallelism or FSDP"),
    "megatron": ({"USE_MEGATRON_LM": "true"}, (), "Megatron-LM is not supported"),
    "parallelism": ({"USE_PARALLELISM_CONFIG": "true"}, (), "a parallelism config is supported with FSDP2 only"),
    "backend": ({"DYNAMO_BACKEND": "AOT_EAGER"}, (), "the dynamo backend aot_eager is not supported: use inductor"),
    "off": ({"DYNAMO_BACKEND": "INDUCTOR"}, ("--compile", "off"), "inductor contradicts --compile off"),
    "mode": (
        {"DYNAMO_BACKEND": "INDUCTOR", "DYNAMO_MODE": "max-autotune", "DYNAMO_USE_FULLGRAPH": "True"},
        (),
        "--dynamo_mode max-autotune has no effect on the compiled blocks: remove it; --dynamo_use_fullgraph true",
    ),
    "accumulation": (
        {"GRADIENT_ACCUMULATION_STEPS": "3"},
        ("--gradient_accumulation_steps", "2"),
        "3 gradient accumulation steps contradict --gradient_accumulation_steps 2",
    ),
    "no number": ({"GRADIENT_ACCUMULATION_STEPS": "auto"}, (), "is 'auto', want an integer of at least 1"),
    "fsdp": ({"USE_FSDP": "true"}, (), "FSDP1 is not supported: add --fsdp_version 2"),
    "one process": ({}, ("--shard",), "weights are sharded over processes, and there is one: set --num_processes"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_can_not_be_obeyed_is_refused_before_anything_is_written(case, by_argument, tmp_path, monkeypatch):
    environment, arguments, expected = BAD[case]
    for name, value in environment.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    result = train(tmp_path / "run", by_argument / "text.txt", *arguments, check=False)
    assert (result.returncode, len(result.stderr.strip().splitlines())) == (2, 1), result.stderr
    assert expected in result.stderr
    assert not (tmp_path / "run").exists()


def test_cpu_of_the_launcher_is_obeyed(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    args = recipe_of("sft").arguments[2]()
    assert not launcher_settings.should_use_cpu()
    assert launcher_settings.describe_launcher_settings(args) == []
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert launcher_settings.should_use_cpu()
    assert launcher_settings.describe_launcher_settings(args) == ["training on the CPU, as requested by the launcher"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_obeys_the_launcher(family):
    """Also those whose default is float32: their default is 'auto' too, so that an explicit fp32 is recognised."""
    args = recipe_of(family).arguments[2]()
    asked = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"}
    found = launcher_settings.with_launcher_settings(args, asked)
    assert (found.precision_used, found.gradient_accumulation_steps) == ("bf16", 2)
    assert args.precision_used == ("fp32" if family in ("dpo", "policy_gradient") else "auto")


def test_variables_are_those_that_accelerate_sets():
    """Each variable is in the source of the installed accelerate, and so is no other switch."""
    source = (Path(accelerate.__file__).parent / "utils" / "launch.py").read_text()
    names = {launcher_settings.PRECISION, launcher_settings.CPU, launcher_settings.ACCUMULATION}
    names |= {launcher_settings.FSDP, launcher_settings.BACKEND, *launcher_settings.DYNAMO_OPTIONS}
    names |= {launcher_settings.FSDP_VERSION, launcher_settings.FSDP_STRATEGY, launcher_settings.FSDP_CHECKPOINTING}
    names |= launcher_settings.REFUSED.keys() | {launcher_settings.PARALLELISM}
    assert [name for name in names if f'"{name}"' not in source] == []
    sizes = {launcher_settings.REPLICATE, launcher_settings.SHARD, *launcher_settings.OTHER_PARALLELISM}
    assert {name.removeprefix("PARALLELISM_CONFIG_") for name in sizes} == set(
        re.findall(r'prefix \+ "((?:DP_|TP|CP|SP)\w*SIZE)"', source)
    )
    switches = set(re.findall(r'"(ACCELERATE_USE_\w+)"', source))
    assert switches - names == {"ACCELERATE_USE_SAGEMAKER"}  # set where a job is submitted, not where it runs
