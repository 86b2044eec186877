"""`--init_from` with models in transformers' own classes: they are imported on the way, or trained as they are."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.models import randomise
from helpers.native import BERT, DECODER, native_with
from helpers.processes import run_here
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    BloomConfig,
    BloomForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaForCausalLM,
)

from scratch_gpt import train_tokenizer
from scratch_gpt.train.tasks.initial_model import load_initial_model

TEXT = "".join(f"a fine film {i % 7}, a sad song {i % 5}.\n\n" for i in range(60))
LOOP = ("--max_steps", "1", "--num_threads", "1", "--precision", "fp32")
IDS = torch.randint(3, 30, (2, 12), generator=torch.Generator().manual_seed(0))


def save_native(model, folder: Path, template: str = "causal") -> Path:
    model.save_pretrained(folder)
    train_tokenizer([TEXT], "char", None, template, model_max_length=64).save_pretrained(folder)
    return folder


def bloom():
    torch.manual_seed(0)
    return BloomForCausalLM(BloomConfig(vocab_size=99, hidden_size=32, n_layer=1, n_head=2, eos_token_id=2))


def run(task: str, native: Path, folder: Path, *options: str, check: bool = True):
    """Train from a model with `scratch-gpt train`."""
    model = ("--init_from", str(native), "--output_dir", str(folder))
    return run_here("scratch-gpt", "train", task, *model, *LOOP, *options, cwd=folder.parent, check=check)


def write_data(folder: Path) -> None:
    (folder / "text.txt").write_text(TEXT)
    rows = {
        "labels.jsonl": [{"text": f"a film {i}", "label": "ab"[i % 2]} for i in range(20)],
        "pairs.jsonl": [{"de": f"ein {i}", "en": f"a {i}"} for i in range(20)],
        "chats.jsonl": [{"prompt": f"how {i}", "completion": f"a film {i}"} for i in range(20)],
        "preferences.jsonl": [{"prompt": f"how {i}", "chosen": "a film", "rejected": "song"} for i in range(20)],
    }
    for name, content in rows.items():
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in content))
    (folder / "prompts.txt").write_text("".join(f"a film {i}\n" for i in range(9)))


OPTIONS = {
    "language_modeling": ("--dataset", "text.txt", "--context_length", "32", "--batch_size", "2"),
    "masked_lm": ("--dataset", "text.txt", "--context_length", "32"),
    "sft": ("--dataset", "chats.jsonl", "--context_length", "64"),
    "dpo": ("--dataset", "preferences.jsonl"),
    "policy_gradient": (
        *("--dataset", "prompts.txt", "--validation_prompts", "2", "--max_new_tokens", "4", "--reward", "re:a"),
        *("--prompts_per_rollout", "4", "--batch_size", "4"),
    ),
    "translation": ("--dataset", "pairs.jsonl", "--source_lang", "de", "--target_lang", "en"),
    "classification": ("--dataset", "labels.jsonl", "--context_length", "32"),
}


@pytest.mark.parametrize(
    ("task", "family", "auto_class"),
    [
        ("language_modeling", "llama", AutoModelForCausalLM),
        ("language_modeling", "gpt2", AutoModelForCausalLM),
        ("masked_lm", "bert", AutoModelForMaskedLM),
    ],
)
def test_a_trained_model_goes_back_to_its_class(task, family, auto_class, tmp_path):
    write_data(tmp_path)
    native = native_with(family)
    save_native(native, tmp_path / "native", "encoder" if family == "bert" else "causal")
    said = run(task, tmp_path / "native", tmp_path / "run", *OPTIONS[task], "--max_steps", "10", "--save_every", "10")
    assert f"imported {tmp_path / 'native'} ({type(native).__name__})" in said.stdout
    ours = auto_class.from_pretrained(tmp_path / "run").eval()
    assert type(ours).__name__.startswith("Scratch")
    assert ours.config.imported_from["class"] == type(native).__name__
    run_here("scratch-gpt", "export", str(tmp_path / "run"), str(tmp_path / "exported"))
    back = auto_class.from_pretrained(tmp_path / "exported").eval()
    assert type(back) is type(native)
    with torch.no_grad():
        torch.testing.assert_close(back(IDS).logits, ours(IDS).logits, atol=1e-5, rtol=0)
        assert (native(IDS).logits - ours(IDS).logits).abs().max() > 1e-2
    if family == "llama":
        verified = run_here("scratch-gpt", "verify", str(tmp_path / "run"), cwd=tmp_path)
        assert "bit-equal" in verified.stdout


@pytest.mark.parametrize(
    ("task", "family", "more", "expected"),
    [
        ("sft", "gpt2", (), "ScratchGPTForCausalLM"),
        ("sft", "llama", (), "ScratchGPTForCausalLM"),
        ("dpo", "llama", (), "ScratchGPTForCausalLM"),
        ("policy_gradient", "llama", ("--algorithm", "reinforce"), "ScratchGPTForCausalLM"),
        ("translation", "marian", (), "ScratchSeq2SeqForConditionalGeneration"),
        ("classification", "llama", (), "ScratchGPTForSequenceClassification"),
        ("classification", "bert", (), "ScratchEncoderForSequenceClassification"),
    ],
)
def test_every_task_imports(task, family, more, expected, tmp_path):
    """The origin is in the config that is saved, also of a model with a new head."""
    write_data(tmp_path)
    native = native_with(family)
    template = {"bert": "encoder", "marian": "seq2seq"}.get(family, "causal")
    save_native(native, tmp_path / "native", template)
    said = run(task, tmp_path / "native", tmp_path / "run", *OPTIONS[task], *more)
    assert said.stdout.count(f"imported {tmp_path / 'native'} ({type(native).__name__})") == 1
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["architectures"] == [expected]
    assert config["imported_from"]["class"] == type(native).__name__
    assert config["imported_from"]["name_or_path"] is None


def test_a_classifier_starts_from_a_model_without_a_head(tmp_path):
    write_data(tmp_path)
    save_native(randomise(BertModel(BertConfig(**BERT))), tmp_path / "native", "encoder")
    said = run("classification", tmp_path / "native", tmp_path / "run", *OPTIONS["classification"])
    assert f"imported {tmp_path / 'native'} (BertModel)" in said.stdout
    refused = run("masked_lm", tmp_path / "native", tmp_path / "other", *OPTIONS["masked_lm"], check=False)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1


def test_folded_norms_are_published_in_float32(tmp_path):
    """Of a bfloat16 Gemma, whose norms are 1 + w: those that are not trained are the same after `export`. A model
    with merged adapters keeps the origin."""
    write_data(tmp_path)
    fields = {**DECODER, "vocab_size": len(train_tokenizer([TEXT], "char")), "head_dim": 8}
    native = randomise(GemmaForCausalLM(GemmaConfig(**fields, num_key_value_heads=2)), std=0.05).to(torch.bfloat16)
    save_native(native, tmp_path / "native")
    run_here("scratch-gpt", "import", str(tmp_path / "native"), str(tmp_path / "ours"))
    options = (*OPTIONS["sft"], "--lora_rank", "2", "--learning_rate", "0.05", "--max_steps", "3")
    run("sft", tmp_path / "ours", tmp_path / "run", *options)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["architectures"], config["imported_from"]["class"]) == (
        ["ScratchGPTForCausalLM"],
        "GemmaForCausalLM",
    )
    stored = load_file(tmp_path / "run" / "model.safetensors")
    assert {weight.dtype for name, weight in stored.items() if "norm" in name} == {torch.float32}
    assert {weight.dtype for name, weight in stored.items() if "norm" not in name} == {torch.bfloat16}
    out = (str(tmp_path / "run"), str(tmp_path / "exported"), "--quantization", "bfloat16")
    run_here("scratch-gpt", "export", *out)
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    for name, weight in native.state_dict().items():
        if "norm" in name:
            assert torch.equal(exported[name], weight), name
    assert not torch.equal(exported["model.layers.0.mlp.up_proj.weight"], native.model.layers[0].mlp.up_proj.weight)


def test_a_class_without_a_twin_is_trained_as_it_is_or_refused(tmp_path):
    write_data(tmp_path)
    native = save_native(bloom(), tmp_path / "native")
    said = run("language_modeling", native, tmp_path / "run", *OPTIONS["language_modeling"])
    reason = "is trained in its own class BloomForCausalLM: cannot import a BloomForCausalLM"
    assert f"{native} {reason}" in " ".join(said.stdout.split())
    assert json.loads((tmp_path / "run" / "config.json").read_text())["architectures"] == ["BloomForCausalLM"]
    for task in ("dpo", "policy_gradient"):
        refused = run(task, native, tmp_path / "other", *OPTIONS[task], check=False)
        assert refused.returncode == 2
        assert "is a bloom model, and this task tunes scratch_gpt models only: cannot import" in refused.stderr
        assert "GPT2LMHeadModel" in refused.stderr
        assert "MarianMTModel" not in refused.stderr  # it is not a causal model
    shape = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 32}
    shape |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 99}
    other = BlenderbotForConditionalGeneration(BlenderbotConfig(**shape))
    save_native(other, tmp_path / "blenderbot", "seq2seq")
    refused = run("translation", tmp_path / "blenderbot", tmp_path / "other", *OPTIONS["translation"], check=False)
    assert refused.returncode == 2
    assert "is a blenderbot model, and this task trains scratch_seq2seq models only: cannot import" in refused.stderr
    assert "MarianMTModel" in refused.stderr
    assert "GPT2LMHeadModel" not in refused.stderr


def test_a_setting_without_an_equivalent_is_named(tmp_path, capsys):
    save_native(native_with("llama", hidden_act="mish"), tmp_path)
    assert type(load_initial_model(tmp_path, False, "causal")) is LlamaForCausalLM
    said = " ".join(capsys.readouterr().out.split())
    assert "trained in its own class LlamaForCausalLM: cannot import this LlamaForCausalLM: its activation is" in said


@pytest.mark.parametrize(
    ("task", "family"),
    [
        ("language_modeling", "llama"),
        ("masked_lm", "bert"),
        ("sft", "llama"),
        ("translation", "marian"),
        ("classification", "bert"),
    ],
)
def test_a_run_is_resumed_without_the_model_that_it_started_from(task, family, tmp_path):
    write_data(tmp_path)
    template = {"bert": "encoder", "marian": "seq2seq"}.get(family, "causal")
    save_native(native_with(family), tmp_path / "native", template)
    run(task, tmp_path / "native", tmp_path / "run", *OPTIONS[task], "--max_steps", "2", "--save_every", "1")
    (tmp_path / "native").rename(tmp_path / "elsewhere")
    last = tmp_path / "run" / "checkpoints" / "step-00000002"
    shutil.rmtree(last)
    run_here("scratch-gpt", "train", task, "--output_dir", str(tmp_path / "run"), "--resume", cwd=tmp_path)
    assert last.is_dir()


def test_a_resumed_run_keeps_its_class(tmp_path):
    """A run that an earlier release started from a native model has that class in its checkpoints."""
    save_native(native_with("llama"), tmp_path)
    assert type(load_initial_model(tmp_path, False, "causal", resumed=True)) is LlamaForCausalLM
    ours = load_initial_model(tmp_path, False, "causal", attention_dropout=0.25)
    assert ours.config.attention_dropout == 0.25
    assert ours.model.layers[0].self_attn.attention_dropout == 0.25
