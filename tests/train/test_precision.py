"""`--precision auto`: a measurement of this processor, shared by the processes of a run and kept by a resumed one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from scratch_gpt.train import train
from scratch_gpt.train.performance import precision
from scratch_gpt.train.performance.precision import ProductTimes, describe_precision, product_times, uses_bf16

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "_known", {})


def measured(file: Path) -> dict:
    return json.loads(file.read_text())


def test_a_product_is_measured_once_per_width(tmp_path):
    first = product_times(96)
    (file,) = (tmp_path / "cache" / "products").iterdir()
    assert measured(file)["width"] == first.width == 96
    file.write_text(json.dumps({**measured(file), "float32": 3.0, "bfloat16": 1.0}))
    assert product_times(96) == first  # this process knows it
    precision._known.clear()
    assert product_times(96) == ProductTimes(96, 3.0, 1.0)  # from the cache
    file.write_text("{")
    precision._known.clear()
    assert product_times(96).float32 < 1.0  # measured again
    assert product_times(4096).width == product_times(2048).width == precision.MAX_WIDTH


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        (ProductTimes(128, 2.0, 1.0), True),
        (ProductTimes(128, 1.1, 1.0), False),  # the casts of a step would take more
        (ProductTimes(128, 1.0, 40.0), False),  # emulated
        (ProductTimes(32, 2.0, 1.0), False),  # too small to be measured
    ],
)
def test_bfloat16_is_chosen_if_it_is_enough_faster(times, chosen):
    precision._known[times.width] = times
    assert uses_bf16("auto", CPU, times.width) is chosen
    assert uses_bf16("bf16", CPU, times.width)
    assert not uses_bf16("fp32", CPU, times.width)
    assert describe_precision("bf16", CPU, times.width) == "bf16"
    assert describe_precision("auto", CPU, times.width).startswith("bf16 (a product" if chosen else "fp32 (a product")


def test_emulated_bfloat16_is_not_chosen(tmp_path):
    """Without instructions for bfloat16, which these variables hide from the libraries, it is many times slower."""
    script = """
import torch
from scratch_gpt.train.performance.precision import product_times, uses_bf16
torch.set_num_threads(1)
assert not uses_bf16("auto", torch.device("cpu"), 256)
print(product_times(256).bfloat16 / product_times(256).float32)
"""
    hidden = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    result = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **hidden}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) > 1.5


def test_bfloat16_is_not_chosen_if_the_gpu_emulates_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not uses_bf16("auto", CUDA, 128)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert uses_bf16("auto", CUDA, 128)


def settings(tmp_path, **changes):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 200)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "context_length": 16}
    run = {"dataset": str(text), "tokenizer": "char", "output_dir": str(tmp_path / "run"), "eval_every": 0}
    return {**run, **sizes, "batch_size": 2, "baselines": False, **changes}


@pytest.mark.parametrize("faster", [True, False])
def test_a_resumed_run_keeps_the_precision(tmp_path, faster, capsys):
    """Even if the measurement has changed meanwhile, as on another machine."""
    precision._known[64] = ProductTimes(64, 2.0, 1.0) if faster else ProductTimes(64, 1.0, 2.0)
    train("language_modeling", max_steps=2, num_threads=torch.get_num_threads(), **settings(tmp_path))
    chosen = "bf16" if faster else "fp32"
    assert f"precision: {chosen} (a product of 512 rows with a 64 x 64 matrix takes" in capsys.readouterr().out
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert record["arguments"]["precision"] == chosen
    precision._known[64] = ProductTimes(64, 1.0, 2.0) if faster else ProductTimes(64, 2.0, 1.0)
    train("language_modeling", output_dir=str(tmp_path / "run"), resume=True)
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["arguments"]["precision"] == chosen


def test_all_processes_use_the_times_of_the_first(tmp_path):
    """Each has a cache of its own, as on several machines."""
    script = tmp_path / "share.py"
    script.write_text("""
import os
rank = os.environ["RANK"]
os.environ["SCRATCH_GPT_CACHE"] = f"cache-{rank}"
from scratch_gpt.train.engine.startup import start_processes
from scratch_gpt.train.performance.precision import product_times, share_product_times
start_processes()
share_product_times(128)
open(f"times-{rank}", "w").write(repr(product_times(128)))
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "times-0").read_text() == (tmp_path / "times-1").read_text()
