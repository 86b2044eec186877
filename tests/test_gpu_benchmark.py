"""The benchmark for GPUs runs on the CPU with a tiny model, and a section that fails loses no other."""

import json

import pytest
from helpers.processes import PROJECT, run_python

from scratch_gpt.train.cost_estimate.accelerators import ACCELERATORS, accelerator_of

FAILING = """
import sys, time
sys.path.insert(0, "benchmarks")
import gpu
def raises(setting):
    yield {"name": "first", "tokens_per_second": 1.0}
    raise RuntimeError("out of memory")
def hangs(setting):
    yield {"name": "second"}
    time.sleep(600)
def dies(setting):
    import os
    yield {"name": "third"}
    os._exit(7)
def differs(setting):
    yield {"name": "fourth", "good": False}
def works(setting):
    yield {"name": "fifth", "good": True}
gpu.SECTIONS.clear()
for section in (raises, hangs, dies, differs, works):
    gpu.SECTIONS[section.__name__] = section, 1.0
gpu.DRY_BUDGET = 2
sys.argv = ["gpu.py", "--dry_run", "--output", sys.argv[1]]
gpu.main()
"""


@pytest.mark.slow
def test_dry_run_of_all_sections(tmp_path):
    """Every section measures or checks something; the file has what the table shows."""
    output = tmp_path / "gpu.json"
    result = run_python("benchmarks/gpu.py", "--dry_run", "--output", str(output), cwd=PROJECT, check=False)
    found = json.loads(output.read_text())
    assert result.returncode == 0, [section.get("reason") for section in found["sections"].values()]
    assert list(found["sections"]) == ["device", "parity", "training", "attention", "decoding", "sharding", "resume"]
    assert {section["status"] for section in found["sections"].values()} == {"ok"}
    rows = {name: {row["name"]: row for row in section["rows"]} for name, section in found["sections"].items()}
    assert found["dry_run"] is True
    assert rows["training"]["ours gpt2"]["tokens_per_second"] > 0
    assert {"transformers, batch 1", "ours, batch 1", "ours, batch 64"} <= set(rows["decoding"])
    checks = [row["good"] for section in rows.values() for row in section.values() if "good" in row]
    assert len(checks) >= 8
    assert all(checks)
    assert any("bit-equal" in row["found"] for row in rows["resume"].values())
    assert "ours gpt2" in result.stdout


@pytest.mark.slow
def test_failing_sections_lose_no_other(tmp_path):
    """Of one that raises, hangs, dies or finds a difference, the rows before and the reason are kept; exit code 1."""
    output = tmp_path / "gpu.json"
    result = run_python("-c", FAILING, str(output), cwd=PROJECT, check=False)
    assert result.returncode == 1, result.stderr
    sections = json.loads(output.read_text())["sections"]
    assert [len(section["rows"]) for section in sections.values()] == [1] * 5
    assert {name: section.get("reason") for name, section in sections.items()} == {
        "raises": "RuntimeError: out of memory",
        "hangs": "took more than its 2 s",
        "dies": "its process ended with exit code 7",
        "differs": "fourth is not good enough",
        "works": None,
    }
    assert "RuntimeError: out of memory" in output.with_suffix(".log").read_text()


def test_accelerators_are_known_by_the_names_of_drivers():
    names = {
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H200": "h200",
        "NVIDIA A100-SXM4-40GB": "a100-40gb",
        "NVIDIA L4": "l4",
        "NVIDIA L40S": "l40s",
        "NVIDIA GeForce RTX 4090": "rtx4090",
        "Tesla T4": "t4",
        "AMD Instinct MI300X": "mi300x",
    }
    assert {name: accelerator_of(name) for name in names} == {name: ACCELERATORS[key] for name, key in names.items()}
    assert accelerator_of("NVIDIA GeForce GTX 1080") is None
