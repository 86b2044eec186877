"""Adapters (LoRA) as they are published: PEFT loads them, and they equal the merged model."""

import json
import shutil

import pytest
import torch
from helpers.models import tiny_model
from helpers.native import native_with, save_chat_model
from helpers.processes import PROJECT, run_here, run_python
from helpers.training import metrics, weights
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SFT = str(PROJECT / "training" / "sft.py")
RUN = ("--num_threads", "1", "--context_length", "64", "--batch_size", "2", "--precision", "fp32", "--log_every", "1")
RUN += ("--max_steps", "6", "--learning_rate", "0.02", "--eval_every", "3", "--lora_rank", "4", "--warmup_steps", "1")

# Loads adapters as their users do, without this package; prints the largest differences from the merged models.
LOAD = """
import sys
sys.modules["scratch_gpt"] = None
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
remote = {"trust_remote_code": True, "dtype": torch.float32}
for merged in sys.argv[1:]:
    folder = f"{merged}/adapter"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(PeftConfig.from_pretrained(folder).base_model_name_or_path, **remote)
    if len(tokenizer) > base.config.vocab_size:
        base.resize_token_embeddings(len(tokenizer))
    tokens = torch.tensor([tokenizer.apply_chat_template([{"role": "user", "content": "Rose a?"}], return_dict=False)])
    with torch.no_grad():
        before = base(tokens).logits
        found = PeftModel.from_pretrained(base, folder).eval()(tokens).logits
        expected = AutoModelForCausalLM.from_pretrained(merged, **remote)(tokens).logits
    print("difference", (found - expected).abs().max().item(), (found - before).abs().max().item())
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Base models, and conversations."""
    folder = tmp_path_factory.mktemp("base")
    save_chat_model(folder / "chat", dtype=torch.float32)
    save_chat_model(folder / "untied", dtype=torch.float32, tie_word_embeddings=False)
    save_chat_model(folder / "plain", dtype=torch.float32, template=False)
    save_chat_model(folder / "bfloat16")
    tokenizer = AutoTokenizer.from_pretrained(folder / "chat")
    native_with("gpt2", vocab_size=len(tokenizer), n_positions=64).save_pretrained(folder / "gpt2")
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(folder / "ours")
    for name in ("gpt2", "ours"):
        tokenizer.save_pretrained(folder / name)
    rows = [{"prompt": f"{thing} {x}?", "completion": "red"} for thing in ("Rose", "Sky") for x in "abcdef"]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def tune(base, name, out, *arguments: str, check: bool = True):
    """Train adapters of one of the models."""
    options = ("--init_from", str(base / name), "--dataset", str(base / "chats.jsonl"), "--output_dir", str(out), *RUN)
    return run_here(SFT, *options, *arguments, check=check)


NAMES = ("chat", "untied", "plain", "gpt2", "ours")


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    """The runs of all models, and the largest differences between the logits of an adapter on its base and those of the
    merged model, and of the base."""
    folder = tmp_path_factory.mktemp("tuned")
    for name in NAMES:
        tune(base, name, folder / name)
    merged = [str(folder / name) for name in NAMES]
    result = run_python("-I", "-c", LOAD, *merged, cwd=folder, HF_MODULES_CACHE=str(folder / "modules"))
    lines = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("difference ")]
    return folder, dict(zip(NAMES, ([float(number) for number in line] for line in lines), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_peft_loads_the_adapter_and_it_equals_the_merged_model(name, base, tuned):
    """For natives with tied and untied embeddings, one whose tokenizer gets a chat template, one with Conv1D layers,
    and a model of ours. The adapter of the last checkpoint is the published one, since the last model is the best."""
    out, differences = tuned[0] / name, tuned[1]
    classes = [json.loads((folder / "config.json").read_text())["architectures"] for folder in (out, base / name)]
    assert classes[0] == classes[1]  # a native model is not imported, so that the adapter fits it
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base / name)
    assert (config["peft_type"], config["task_type"], config["inference_mode"]) == ("LORA", "CAUSAL_LM", True)
    assert {tensor.dtype for tensor in load_file(out / "adapter/adapter_model.safetensors").values()} == {torch.float32}
    from_merged, from_base = differences[name]
    assert from_merged < 2e-4 < 1e-2 < from_base
    checkpoint = out / "checkpoints/step-00000006"
    best = max((row for row in metrics(out) if "val_loss" in row), key=lambda row: -row["val_loss"])
    assert best["step"] == 6
    names = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
    assert all((checkpoint / name).read_bytes() == (out / name).read_bytes() for name in names)


@pytest.mark.parametrize("name", ["plain", "gpt2"])
def test_a_run_with_adapters_resumes_exactly(name, tuned):
    verified = run_here("scratch-gpt", "verify", str(tuned[0] / name)).stdout
    assert "✗" not in verified, verified
    assert "bit-equal" in verified


def test_only_the_adapter_is_published_on_request(base, tuned, tmp_path):
    """There is no merged model, the run is resumable and verifiable, and the adapter is that of the usual run."""
    out = tmp_path / "run"
    result = tune(base, "chat", out, "--adapter_only")
    assert f"is {out / 'adapter'}; the merged model was not published" in result.stdout
    assert {path.name for path in out.iterdir()} == {
        *("README.md", "adapter", "checkpoints", "loss.png", "metrics.jsonl", "run.yaml")
    }
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (out / "adapter" / name).read_bytes() == (tuned[0] / "chat" / "adapter" / name).read_bytes()
    verified = run_here("scratch-gpt", "verify", str(out)).stdout
    assert "✗" not in verified, verified
    assert "the published adapter" in verified
    refused = run_here("scratch-gpt", "generate", str(out), "--prompt", "a", check=False)
    assert "no model, only an adapter: merge it into its model" in refused.stderr
    run_here(SFT, "--output_dir", str(out), "--resume", "--max_steps", "8", "--allow_changed_settings")
    assert not (out / "model.safetensors").exists()
    (out / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    broken = run_here("scratch-gpt", "verify", str(out), check=False)
    assert broken.returncode == 2
    assert "can't be loaded on" in broken.stderr


def test_the_loss_of_a_rounded_merged_model_is_recorded(base, tmp_path):
    """In bfloat16 the merged weights lose a part of the update, which the evaluation shows: it is that of a plain
    fine-tuning run that starts from the published model and takes no effective step."""
    out = tmp_path / "run"
    tune(base, "bfloat16", out)
    assert {weight.dtype for weight in weights(out).values()} == {torch.bfloat16}
    expected = [row["val_loss"] for row in metrics(out) if "val_loss" in row][-1]
    options = ("--init_from", str(out), "--dataset", str(base / "chats.jsonl"), "--output_dir", str(tmp_path / "again"))
    run_here(SFT, *options, *RUN[:-6], "--max_steps", "1", "--learning_rate", "1e-12", "--optimizer", "adamw")
    assert metrics(tmp_path / "again")[-1]["val_loss_before"] == pytest.approx(expected, abs=1e-6)
    tune(base, "bfloat16", tmp_path / "exact", "--save_dtype", "float32")
    exact = [row["val_loss"] for row in metrics(tmp_path / "exact") if "val_loss" in row][-1]
    assert exact != pytest.approx(expected, abs=1e-5)


def test_adapter_only_and_muon_need_the_right_settings(base, tmp_path):
    options = ("--init_from", str(base / "chat"), "--dataset", str(base / "chats.jsonl"), "--output_dir")
    result = run_here(SFT, *options, str(tmp_path / "run"), "--adapter_only", check=False)
    assert (result.returncode, "--adapter_only has no effect without --lora_rank" in result.stderr) == (2, True)
    result = tune(base, "chat", tmp_path / "run", "--optimizer", "muon", check=False)
    assert (result.returncode, "LoRA trains factors: use adamw" in result.stderr) == (2, True)
    assert not (tmp_path / "run").exists()


def test_conv1d_layers_are_merged_as_peft_merges_them(base, tuned):
    """The weights of a GPT-2, whose `Conv1D` layers store (in, out)."""
    from peft import PeftModel

    out = tuned[0] / "gpt2"
    model = AutoModelForCausalLM.from_pretrained(base / "gpt2")
    merged = PeftModel.from_pretrained(model, str(out / "adapter")).merge_and_unload().state_dict()
    for name, weight in AutoModelForCausalLM.from_pretrained(out).state_dict().items():
        torch.testing.assert_close(weight, merged[name], atol=1e-5, rtol=1e-5)


def test_a_head_with_a_bias_is_refused_where_peft_would_ignore_the_bias(base, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(base / "plain")
    tokenizer.save_pretrained(tmp_path / "phi")
    tiny_model("phi", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "phi")
    shutil.copy(base / "chats.jsonl", tmp_path)
    result = tune(tmp_path, "phi", tmp_path / "out", check=False)
    assert result.returncode == 2
    assert "PEFT can't train the rows of the chat tokens in this model" in result.stderr
    assert not (tmp_path / "out").exists()
