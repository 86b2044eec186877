"""Model directories in other releases of transformers: the oldest one for this package's code, and those of
transformers 4 that open a model in transformers' own class. The other tests run in the newest one, and
docs/reference/releases.md has all releases."""

import json
import subprocess
import sys

import pytest
from helpers.processes import PROJECT

from scratch_gpt.models import compatibility

OLDEST = ".".join(map(str, compatibility.OLDEST))


@pytest.mark.release
@pytest.mark.timeout(1200)
def test_model_directories_open_in_the_oldest_releases(tmp_path):
    table = tmp_path / "table.json"
    arguments = ("--releases", "4.56", "4.57", OLDEST, "--json", str(table))
    command = [sys.executable, str(PROJECT / "benchmarks" / "releases.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert table.exists(), result.stderr
    failed = {
        (release, model, act): reason
        for release, row in json.loads(table.read_text()).items()
        for model, acts in row.items()
        for act, reason in acts.items()
    }
    assert failed == {}
    assert result.returncode == 0, result.stderr
    minors = [".".join(release.split(".")[:2]) for release in json.loads(table.read_text())]
    assert minors == ["4.56", "4.57", OLDEST]
    native = ("gpt2, native", "llama, native", "translator vaswani2017, native", "encoder bert, native")
    for release, row in json.loads(table.read_text()).items():
        assert set(native) <= set(row), release
        assert len(row) == (10 if release.startswith("4.") else 30), release
