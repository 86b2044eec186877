"""A trained directory loads without the package, in a process that can't import scratch_gpt."""

import json

import pytest
import torch
from helpers.models import PRESETS
from helpers.processes import PRETRAIN, TINY_RUN, run_here, run_python
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LOAD_WITHOUT_PACKAGE = """
import json, sys
sys.modules["scratch_gpt"] = None  # as if it were not installed
import torch
import transformers
from transformers import (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification,
                          AutoTokenizer, pipeline)
from safetensors.torch import save_file
folder, out, trunk = sys.argv[1], sys.argv[2], sys.argv[3] == "trunk"
torch.set_num_threads(1)
remote = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **remote)
tokenizer = AutoTokenizer.from_pretrained(folder, **remote)
model = AutoModelForCausalLM.from_pretrained(folder, **remote)
assert type(model).__module__.startswith("transformers_modules."), type(model)
x = torch.arange(3, 43).view(2, 20) % model.config.vocab_size
found = {"logits": model(x).logits.detach().contiguous()}
if trunk:
    base = AutoModel.from_pretrained(folder, **remote)
    found["hidden"] = base(x).last_hidden_state.detach().contiguous()
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, **remote)
    assert classifier(x, attention_mask=torch.ones_like(x)).logits.shape == (2, 3)
    assert torch.equal(classifier.model(x).last_hidden_state, base(x).last_hidden_state)
save_file(found, out)
write = pipeline("text-generation", folder, **remote)
text = write("One day", max_new_tokens=8, do_sample=False)[0]["generated_text"]
model.save_pretrained(out + ".again")
tokenizer.save_pretrained(out + ".again")
again = AutoModelForCausalLM.from_pretrained(out + ".again", **remote)
torch.testing.assert_close(again(x).logits, model(x).logits, rtol=0, atol=float(sys.argv[4]))
print(json.dumps([type(config).__name__, type(model).__name__, text]))
"""


@pytest.mark.parametrize("preset", [*PRESETS, "gemma3", "mixtral", "bigram"])
def test_a_trained_directory_opens_without_the_package(preset, text_file, tmp_path):
    run = tmp_path / "run"
    options = ("--output_dir", str(run), "--dataset", str(text_file), *TINY_RUN, "--preset", preset, "--max_steps", "5")
    run_here(PRETRAIN, *options)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = elsewhere / "found.safetensors"
    trunk = "none" if preset == "bigram" else "trunk"
    cache = {"HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    # The product of a matrix and one vector, of an expert that one token chose, depends on the alignment of the matrix
    # in memory; all other products are equal bit by bit.
    tolerance = 1e-6 if preset == "mixtral" else 0.0
    arguments = (str(run), str(found), trunk, str(tolerance))
    result = run_python("-I", "-c", LOAD_WITHOUT_PACKAGE, *arguments, cwd=elsewhere, **cache)
    config_name, model_name, text = json.loads(result.stdout.strip().splitlines()[-1])

    ours = AutoModelForCausalLM.from_pretrained(run)
    assert (config_name, model_name) == (type(ours.config).__name__, type(ours).__name__)
    assert type(ours).__module__.startswith("scratch_gpt.")
    assert text.startswith("One day")
    tensors = load_file(found)
    x = torch.arange(3, 43).view(2, 20) % ours.config.vocab_size
    torch.testing.assert_close(tensors["logits"], ours(x).logits, rtol=0, atol=tolerance)
    if trunk == "trunk":
        torch.testing.assert_close(tensors["hidden"], ours.model(x).last_hidden_state, rtol=0, atol=tolerance)


def test_an_older_transformers_is_reported_without_the_package(text_file, tmp_path):
    run = tmp_path / "run"
    run_here(PRETRAIN, "--output_dir", str(run), "--dataset", str(text_file), *TINY_RUN, "--max_steps", "1")
    script = (
        "import sys, importlib.metadata as metadata\n"
        "from transformers import AutoModelForCausalLM\n"
        "for missing in ('scratch_gpt', 'transformers.utils.output_capturing', 'transformers.masking_utils'):\n"
        "    sys.modules[missing] = None  # the latter two as in older ones\n"
        "true = metadata.version\n"
        "metadata.version = lambda name: '4.57.1' if name == 'transformers' else true(name)\n"
        "try:\n"
        "    AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    said = run_python("-I", "-c", script, str(run), cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules")).stdout
    assert "found transformers==4.57.1" in said
    assert "pip install -U transformers" in said


def test_the_auto_map_has_every_auto_class(text_file, tmp_path):
    run = tmp_path / "run"
    run_here(PRETRAIN, "--output_dir", str(run), "--dataset", str(text_file), *TINY_RUN, "--max_steps", "1")
    for folder in (run, run / "checkpoints" / "step-00000001"):
        auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
        heads = {"CausalLM", "Decision", "SequenceClassification"}
        assert set(auto_map) == {"AutoConfig", "AutoModel", *(f"AutoModelFor{head}" for head in heads)}
        assert all((folder / f"{reference.split('.')[0]}.py").exists() for reference in auto_map.values())
