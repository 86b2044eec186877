"""The configs of training/accelerate are read by accelerate's own launcher, and mean what their comments say."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from helpers.documentation import text_of
from helpers.processes import PRETRAIN, PROJECT, TINY_RUN, run_python

from scratch_gpt.errors import ScratchError
from scratch_gpt.train.engine.launcher_settings import (
    PARALLELISM,
    REPLICATE,
    SHARD,
    describe_launcher_settings,
    with_launcher_settings,
)
from scratch_gpt.train.tasks.language_modeling.arguments import PretrainingArguments

FOLDER = PROJECT / "training" / "accelerate"
# What a run of each config has: processes per machine, machines, precision, sharding, copies of the model.
CONFIGS = {
    "one_gpu": (1, 1, "bf16", False, 1),
    "eight_gpus_ddp": (8, 1, "bf16", False, 1),
    "eight_gpus_fsdp2": (8, 1, "bf16", True, 1),
    "two_machines_fsdp2": (8, 2, "bf16", True, 1),
    "two_machines_hybrid": (8, 2, "bf16", True, 2),
    "cpu_processes": (2, 1, "auto", False, 1),
}
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def command_of(path: Path) -> str:
    """The command in the comment at the top of a config."""
    (command,) = re.findall(r"^#   (accelerate launch .+)$", path.read_text(), re.M)
    return command


def launched(name: str):
    """What accelerate makes of the command of a config: its arguments, and the environment of the processes."""
    words = shlex.split(command_of(FOLDER / f"{name}.yaml"))[2:]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    if args.multi_gpu or args.use_fsdp:  # as in accelerate's `launch_command`
        return args, prepare_multi_gpu_env(args)
    return args, prepare_simple_launcher_cmd_env(args)[1]


def test_every_config_is_listed_here_and_on_the_page():
    assert {path.stem for path in FOLDER.iterdir()} == set(CONFIGS)
    page = text_of("docs/how-to/distributed.md")
    for name in CONFIGS:
        assert command_of(FOLDER / f"{name}.yaml") in page


@pytest.mark.parametrize("name", CONFIGS)
def test_config_means_what_its_comment_says(name, monkeypatch):
    monkeypatch.chdir(PROJECT)
    per_machine, machines, precision, shard, replicas = CONFIGS[name]
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.num_processes, config.num_machines) == (per_machine * machines, machines)
    args, environment = launched(name)
    assert args.training_script == "training/language_modeling.py"
    if per_machine > 1:
        assert args.nproc_per_node == str(per_machine)
    if machines > 1:
        assert (args.nnodes, args.rdzv_backend, args.rdzv_endpoint) == ("2", "static", "10.0.0.1:29500")
    settings = with_launcher_settings(
        PretrainingArguments(), {**environment, "WORLD_SIZE": str(per_machine * machines)}
    )
    assert (settings.precision_used, settings.shard, settings.replicas) == (precision, shard, replicas)
    described = " ".join(describe_launcher_settings(PretrainingArguments(), environment))
    assert ("weights are sharded" in described) == shard
    assert ("2 copies" in described) == (replicas == 2)


HYBRID = {**FSDP2, PARALLELISM: "true", REPLICATE: "2", SHARD: "4", "WORLD_SIZE": "8"}
WRONG = {
    "sizes": ({**HYBRID, SHARD: "8"}, 1, "dp_replicate_size 2 x dp_shard_size 8 is 16, want num_processes, 8"),
    "replicas": (HYBRID, 4, "dp_replicate_size 2 contradicts --replicas 4: remove one of them"),
    "number": ({**HYBRID, REPLICATE: "two"}, 1, "are two and 4, want integers of at least 1"),
    "tensor": ({**HYBRID, "PARALLELISM_CONFIG_TP_SIZE": "2"}, 1, "tensor parallelism (tp_size) is not supported"),
    "data": ({PARALLELISM: "true", REPLICATE: "8", "WORLD_SIZE": "8"}, 1, "supported with FSDP2 only"),
    "strategy": ({**FSDP2, "FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"}, 1, "HYBRID_SHARD is one of FSDP1: for copies"),
    "checkpointing": ({**FSDP2, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, 1, "use --gradient_checkpointing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_hybrid_sharding_that_contradicts_itself_is_refused(case):
    environment, replicas, message = WRONG[case]
    with pytest.raises(ScratchError, match=re.escape(message)):
        with_launcher_settings(PretrainingArguments(replicas=replicas), environment)
    assert with_launcher_settings(PretrainingArguments(replicas=2), HYBRID).replicas == 2


@pytest.mark.slow
def test_config_of_cpus_starts_two_processes(tmp_path):
    """Launched as the comment says, with a free port; a step has the tokens of both processes."""
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 200)
    options = (*TINY_RUN, "--dataset", str(tmp_path / "text.txt"), "--max_steps", "2", "--no-baselines")
    launch = ("-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "cpu_processes.yaml"))
    out = tmp_path / "run"
    run_python(*launch, "--main_process_port", "0", PRETRAIN, *options, "--output_dir", str(out), cwd=PROJECT)
    record = yaml.safe_load((out / "run.yaml").read_text())
    assert record["machine"]["processes"] == 2


@pytest.mark.release
def test_hybrid_config_shards_two_copies_on_cpus(tmp_path):
    """The config of two machines with eight GPUs, as four processes of one machine without GPUs."""
    config = yaml.safe_load((FOLDER / "two_machines_hybrid.yaml").read_text())
    config |= {"num_machines": 1, "num_processes": 4, "mixed_precision": "no", "main_process_port": 0}
    config["parallelism_config"]["parallelism_config_dp_shard_size"] = 2
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 200)
    options = (*TINY_RUN, "--dataset", str(tmp_path / "text.txt"), "--max_steps", "2", "--no-baselines")
    launch = ("-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "config.yaml"))
    out = tmp_path / "run"
    printed = run_python(*launch, PRETRAIN, *options, "--output_dir", str(out), cwd=PROJECT).stdout
    assert "weights are sharded, 2 copies, as requested by the launcher (FSDP2)" in printed
    record = yaml.safe_load((out / "run.yaml").read_text())
    assert (record["arguments"]["shard"], record["arguments"]["replicas"]) == (True, 2)
