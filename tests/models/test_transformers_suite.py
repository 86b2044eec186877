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

from scratch_gpt.models.configuration_scratch_gpt import PRESETS

CASES = Path(__file__).with_name("suite") / "cases.py"
# A test class of transformers' model, and those of ours that must pass the same tests.
PEERS = {
    "LlamaTest": ("Gpt2StyleTest", "LlamaStyleTest", "NanochatStyleTest"),
    "MarianTest": ("Vaswani2017StyleTest", "ModernStyleTest"),
    **{f"{name}Test": (f"Our{name}StyleTest",) for name in ("Bart", "MBart", "Pegasus", "T5")},
    "BertTest": ("BertStyleTest", "RobertaStyleTest", "DistilbertStyleTest", "ModernEncoderStyleTest"),
    "ModernBertTest": ("ModernbertStyleTest",),
}
# Of these, a decoder, an encoder-decoder and an encoder are tested in CI, and all before a release.
IN_CI = {"LlamaTest": PEERS["LlamaTest"], "MarianTest": ("Vaswani2017StyleTest",), "BertTest": ("BertStyleTest",)}
# These tests need rotary positions; with a flat encoder-decoder config, the last one scales a copy of the config.
OTHER_POSITIONS = ("Gpt2StyleTest", "Vaswani2017StyleTest", "BertStyleTest", "RobertaStyleTest", "DistilbertStyleTest")
OTHER_POSITIONS += ("OurBartStyleTest", "OurMBartStyleTest", "OurPegasusStyleTest", "OurT5StyleTest")
EXCLUDED = dict.fromkeys(OTHER_POSITIONS, ("rope_scaling",))
EXCLUDED["ModernStyleTest"] = ("rope_scaling_from_config",)
# T5 of transformers keeps a matrix in float32 when it is loaded in float16; ours does not.
EXCLUDED["OurT5StyleTest"] += ("keep_in_fp32",)
# This test reads the frequencies of all layer types from one module; here, each layer type has a module of its own.
EXCLUDED["ModernbertStyleTest"] = ("rope_scaling_frequencies",)
EXCLUDED_OF_PRESETS = {"gemma3": ("rope_scaling_frequencies",)}  # for the same reason
# SDPA does not cap scores: here it can't be chosen, and transformers' Gemma 2 with it fails in its forward pass.
EXCLUDED_OF_PRESETS["gemma2"] = ("sdpa_can_dispatch", "set_attention_dynamically")
# Reentrant checkpointing detaches the load balancing loss, which is refused here; transformers adds it on request only.
EXCLUDED_OF_PRESETS |= dict.fromkeys(("mixtral", "olmoe", "qwen3_moe"), ("use_reentrant_true",))
# A norm over all heads can't be split between devices: these have no tensor-parallel plan.
for _preset in ("olmo2", "olmoe"):
    plan_tests = ("tied_weights_are_sharded_together", "tp_plan_matches_params")
    EXCLUDED_OF_PRESETS[_preset] = EXCLUDED_OF_PRESETS.get(_preset, ()) + plan_tests
# Run before a release only, for their time: SDPA beside eager attention in float16 and with right
# padding in bfloat16, and a deprecated name of the argument `dtype`, which is transformers' own.
REPEATED = "eager_matches_sdpa and (fp16 or bf16_pad_right) or bc_torch_dtype"
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


def run_suite(suite: Path, report: Path, everything: bool) -> dict[str, dict[str, str]]:
    """Run the classes of tests; return the outcome of each test, by class and name.

    Args:
        suite: folder with the `tests` package.
        report: file for the outcomes.
        everything: whether to run all tests, also on the presets that are named after a family.
    """
    options = ["-q", "--tb=no", "-p", "no:cacheprovider", "-n", "2", "-o", "addopts=", f"--junitxml={report}"]
    targets = [str(CASES), str(CASES.with_name("decoders.py"))]
    if not everything:
        targets = [f"{CASES}::{name}" for peer, styles in IN_CI.items() for name in (peer, *styles)]
        options += ["-k", f"not ({REPEATED})"]
    run_python("-m", "pytest", *targets, *options, cwd=suite, check=False, timeout=1100, PYTHONPATH=str(suite))
    outcomes: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        outcomes.setdefault(case.get("classname", "").split(".")[-1], {})[case.get("name", "")] = outcome
    return outcomes


def worse_results(ours: dict[str, str], theirs: dict[str, str], *excluded: str) -> dict[str, str]:
    """Outcomes of our class, without the excluded tests, where that of transformers is better: tests that pass on it
    must pass on ours, and those that it skips must not fail."""
    assert sum(outcome == "passed" for outcome in theirs.values()) > 60
    results = {n: o for n, o in ours.items() if not any(part in n for part in excluded)}
    worse = {n: o for n, o in results.items() if o != "passed" and theirs[n] == "passed"}
    return worse | {n: o for n, o in results.items() if o in ("failure", "error") and theirs[n] == "skipped"}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "everything", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.release)]
)
def test_common_model_tests_pass(suite, tmp_path, everything):
    outcomes = run_suite(suite, tmp_path / "report.xml", everything)
    presets = [name for name in PRESETS if name not in ("gpt2", "llama", "nanochat", "nanochat_ngram")]
    presets = presets if everything else []
    tested = PEERS if everything else IN_CI
    peers = {style: peer for peer, styles in tested.items() for style in styles}
    peers |= {f"{name}_style": "LlamaTest" for name in presets}
    assert set(outcomes) == {*peers, *tested}
    excluded = dict(EXCLUDED)
    for name in presets:
        excluded[f"{name}_style"] = EXCLUDED_OF_PRESETS.get(name, ())
        if PRESETS[name]["position_type"] == "learned":
            excluded[f"{name}_style"] += ("rope_scaling",)
    worse = {
        style: found
        for style, peer in peers.items()
        if (found := worse_results(outcomes[style], outcomes[peer], *excluded.get(style, ())))
    }
    assert worse == {}
