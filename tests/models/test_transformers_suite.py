"""transformers' common model tests pass on our classes, except for those that its own Llama (for the encoder-decoder
its Marian, BART, mBART, Pegasus and T5, for the encoder its BERT or ModernBERT) skips or fails.

The wheel does not contain the tests; they are taken from the source distribution of the installed version. Imports of
modules that the distribution does not contain (generation and export tests) are replaced by empty classes.
"""

import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import transformers
from helpers.processes import run_python

CASES = Path(__file__).with_name("suite") / "cases.py"
# A test class of transformers' model, and those of ours that must pass the same tests.
PEERS = {
    "LlamaTest": ("Gpt2StyleTest", "LlamaStyleTest", "NanochatStyleTest"),
    "MarianTest": ("Vaswani2017StyleTest", "ModernStyleTest"),
    **{f"{name}Test": (f"Our{name}StyleTest",) for name in ("Bart", "MBart", "Pegasus", "T5")},
    "BertTest": ("BertStyleTest", "RobertaStyleTest", "DistilbertStyleTest", "ModernEncoderStyleTest"),
    "ModernBertTest": ("ModernbertStyleTest",),
}
# These tests need rotary positions; with a flat encoder-decoder config, the last one scales a copy of the config.
OTHER_POSITIONS = ("Gpt2StyleTest", "Vaswani2017StyleTest", "BertStyleTest", "RobertaStyleTest", "DistilbertStyleTest")
OTHER_POSITIONS += ("OurBartStyleTest", "OurMBartStyleTest", "OurPegasusStyleTest", "OurT5StyleTest")
EXCLUDED = dict.fromkeys(OTHER_POSITIONS, "rope_scaling")
EXCLUDED["ModernStyleTest"] = "rope_scaling_from_config"
# This test reads the frequencies of all layer types from one module; here, each layer type has a module of its own.
EXCLUDED["ModernbertStyleTest"] = "rope_scaling_frequencies"
EMPTY = {"exporters/test_export.py": "ExportTesterMixin", "generation/test_utils.py": "GenerationTesterMixin"}


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    """A folder with the `tests` package of the source distribution."""
    folder = tmp_path_factory.mktemp("suite")
    requirement = f"transformers=={transformers.__version__}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        ":all:",
    ]
    subprocess.run([*command, "-d", str(folder), requirement], check=True, timeout=300)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        top = archive.getnames()[0].split("/")[0]
        members = [m for m in archive.getmembers() if m.name.startswith(f"{top}/tests/") and m.name.endswith(".py")]
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        archive.extractall(folder, members=members)
    tests = folder / top / "tests"
    (tests / "__init__.py").touch()
    for name, empty_class in EMPTY.items():
        (tests / name).parent.mkdir(exist_ok=True)
        (tests / name).with_name("__init__.py").touch()
        (tests / name).write_text(f"class {empty_class}: ...\n")
    return folder / top


@pytest.mark.slow
def test_common_model_tests_pass(suite, tmp_path):
    report = tmp_path / "report.xml"
    options = ("-q", "-p", "no:cacheprovider", "-n", "2", "-o", "addopts=", f"--junitxml={report}")
    run_python("-m", "pytest", str(CASES), *options, cwd=suite, check=False, PYTHONPATH=str(suite))
    outcomes: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        outcomes.setdefault(case.get("classname", "").split(".")[-1], {})[case.get("name", "")] = outcome
    assert set(outcomes) == {name for peer, ours in PEERS.items() for name in (peer, *ours)}
    for peer, styles in PEERS.items():
        theirs = outcomes[peer]
        assert sum(outcome == "passed" for outcome in theirs.values()) > 60
        for style in styles:
            excluded = EXCLUDED.get(style, "nothing")
            results = {n: o for n, o in outcomes[style].items() if excluded not in n}
            worse = {n: o for n, o in results.items() if o != "passed" and theirs[n] == "passed"}
            worse |= {n: o for n, o in results.items() if o in ("failure", "error") and theirs[n] == "skipped"}
            assert not worse, f"{style} has worse results than {peer}: {worse}"
