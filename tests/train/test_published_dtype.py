"""A model is trained with float32 weights and published in the data type it came in, or in another on request."""

import json

import pytest
import torch
from helpers.models import randomise, tiny_model
from helpers.native import save_chat_model
from helpers.processes import PRETRAIN, PROJECT, run_here
from helpers.training import weights
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.hub.base_model import stored_dtype
from scratch_gpt.hub.engines.export import default_quantization
from scratch_gpt.hub.engines.formats import FORMATS
from scratch_gpt.hub.loading import DTYPES

SFT = str(PROJECT / "training" / "sft.py")
RUN = ("--num_threads", "1", "--context_length", "64", "--batch_size", "2", "--precision", "fp32", "--log_every", "1")
RUN += ("--max_steps", "6", "--optimizer", "adamw", "--learning_rate", "1e-3")
HELD_OUT = [("Rose z?", "red"), ("Sky z?", "blue")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Qwen2 in bfloat16, conversations, and held-out ones."""
    folder = tmp_path_factory.mktemp("base")
    save_chat_model(folder / "model")
    for name, rows in (("chats", [("Rose a?", "red"), ("Sky b?", "blue"), ("Sky c?", "blue")]), ("held", HELD_OUT)):
        lines = [json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def tune(base, out, *arguments: str):
    """Fine-tune the model on the conversations."""
    data = ("--dataset", str(base / "chats.jsonl"), "--validation_dataset", str(base / "held.jsonl"))
    return run_here(SFT, "--init_from", str(base / "model"), *data, "--output_dir", str(out), *RUN, *arguments)


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    """The run, its output and its last row of metrics."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    result = tune(base, out, "--eval_every", "1", "--save_every", "3")
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    return out, result.stdout, last


def answer_loss(folder) -> float:
    """The mean loss of the held-out answers, in float32, by transformers alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), load_tokenizer(folder)
    total, count = 0.0, 0
    for prompt, completion in HELD_OUT:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, scored = torch.tensor([encoded["input_ids"]]), torch.tensor(encoded["assistant_masks"]).bool()
        with torch.no_grad():
            losses = F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        total, count = total + losses[scored[1:]].sum().item(), count + int(scored.sum())
    return total / count


def load_tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def test_a_bfloat16_model_comes_back_in_bfloat16(base, tuned):
    """Weights, config and size are as they came; the checkpoint has the float32 weights, which were rounded."""
    out, printed, _ = tuned
    published, given = weights(out), weights(base / "model")
    assert {name: weight.dtype for name, weight in published.items()} == dict.fromkeys(given, torch.bfloat16)
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (out, base / "model")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    assert f"published in bfloat16: {base / 'model'} is stored in torch.bfloat16" in printed
    checkpoint = out / "checkpoints/step-00000006"
    trained = weights(checkpoint)
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert json.loads((checkpoint / "config.json").read_text())["dtype"] == "float32"
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in trained.values())
    assert all(torch.equal(weight.bfloat16(), published[name]) for name, weight in trained.items())
    assert any(not torch.equal(weight, given[name]) for name, weight in published.items())


def test_the_recorded_loss_is_that_of_the_published_weights(tuned):
    out, _, last = tuned
    assert answer_loss(out) == pytest.approx(last["val_loss"], abs=2e-6)
    assert answer_loss(out / "checkpoints/step-00000006") != pytest.approx(last["val_loss"], abs=2e-6)


def test_rounding_for_an_evaluation_does_not_change_the_training(base, tuned, tmp_path):
    """A run that evaluates only at its end has the same float32 weights; `verify` finds the resume bit-equal, and the
    recorded loss again."""
    out, _, last = tuned
    tune(base, tmp_path / "run", "--eval_every", "0")
    name = "checkpoints/step-00000006"
    expected = weights(out / name)
    assert all(torch.equal(weight, expected[n]) for n, weight in weights(tmp_path / "run" / name).items())
    verified = run_here("scratch-gpt", "verify", str(out)).stdout
    assert "✗" not in verified, verified
    assert f"{last['val_loss']:.6f}, recorded {last['val_loss']:.6f}" in verified
    assert "bit-equal" in verified
    assert "parameters in bfloat16" in verified


def test_a_resumed_run_keeps_the_data_type_unless_asked_otherwise(base, tmp_path):
    out = tmp_path / "run"
    tune(base, out, "--save_every", "3")
    run_here(SFT, "--output_dir", str(out), "--resume", "--max_steps", "8", "--allow_changed_settings")
    assert {weight.dtype for weight in weights(out).values()} == {torch.bfloat16}
    more = ("--max_steps", "9", "--allow_changed_settings", "--save_dtype", "float32")
    run_here(SFT, "--output_dir", str(out), "--resume", *more)
    assert {weight.dtype for weight in weights(out).values()} == {torch.float32}


@pytest.mark.parametrize("family", ["language_modeling", "masked_lm", "classification", "translation", "distillation"])
def test_every_family_publishes_in_the_requested_type(family, tmp_path):
    """A new model, in its run's own demonstration and in `from_pretrained`; the model card says it. A model that starts
    from it keeps the type."""
    (tmp_path / "text.txt").write_text("\n".join(stories(seed=3, count=60)))
    sizes = ("--num_threads", "1", "--max_steps", "2", "--hidden_size", "16", "--num_attention_heads", "2")
    text = ("--dataset", str(tmp_path / "text.txt"), "--tokenizer", "char")
    options = {
        "language_modeling": (*text, "--context_length", "32"),
        "masked_lm": (*text, "--context_length", "32"),
        "classification": ("--num_texts", "80", "--context_length", "32"),
        "translation": ("--num_pairs", "80", "--max_length", "24", "--encoder_layers", "1", "--decoder_layers", "1"),
        "distillation": (*text[:2], "--context_length", "32"),
    }[family]
    if family == "distillation":
        teacher = tiny_model("llama", vocab_size=120)
        teacher.save_pretrained(tmp_path / "teacher")
        load_tokenizer(save_chat_model(tmp_path / "other")).save_pretrained(tmp_path / "teacher")
        options += ("--teacher", str(tmp_path / "teacher"))
    script = str(PROJECT / "training" / f"{family}.py")
    out = tmp_path / "run"
    result = run_here(script, *options, *sizes, "--output_dir", str(out), "--save_dtype", "float16")
    assert {weight.dtype for weight in weights(out).values()} == {torch.float16}
    assert "trained with float32 weights" not in result.stdout
    if family != "distillation":
        kept = [value for value in options if value not in ("--tokenizer", "char", "--encoder_layers", "1")]
        kept = [value for value in kept if value != "--decoder_layers"]
        more = ("--init_from", str(out), "--num_threads", "1", "--max_steps", "2", "--output_dir")
        run_here(script, *kept, *more, str(tmp_path / "further"))
        assert {weight.dtype for weight in weights(tmp_path / "further").values()} == {torch.float16}


def test_a_weight_that_does_not_fit_ends_the_run_with_the_reason(tmp_path, text_file):
    model = randomise(AutoModelForCausalLM.from_pretrained(save_chat_model(tmp_path / "model"), dtype=torch.float32))
    with torch.no_grad():
        model.model.norm.weight[0] = 1e6
    model.save_pretrained(tmp_path / "model")
    options = ("--init_from", str(tmp_path / "model"), "--dataset", str(text_file), "--max_steps", "1")
    options += ("--optimizer", "adamw", "--save_dtype", "float16", "--output_dir", str(tmp_path / "run"))
    result = run_here(PRETRAIN, *options, "--num_threads", "1", "--precision", "fp32", check=False)
    assert result.returncode == 1
    assert "model.norm.weight is too large for float16: choose another --save_dtype" in result.stderr


def test_the_stored_type_is_that_of_most_weights(tmp_path):
    """Of the files, whatever the config says; also of a checkpoint in shards."""
    folder = save_chat_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    assert stored_dtype(folder) == torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    model.model.norm.float()
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    assert stored_dtype(tmp_path / "shards") == torch.float16


def test_an_export_keeps_the_data_type_of_the_checkpoint(base, tmp_path):
    run_here("scratch-gpt", "import", str(base / "model"), "ours", cwd=tmp_path)
    for folder, quantization, dtype in (("same", None, torch.bfloat16), ("asked", "float32", torch.float32)):
        options = () if quantization is None else ("--quantization", quantization)
        run_here("scratch-gpt", "export", "ours", folder, *options, cwd=tmp_path)
        assert stored_dtype(tmp_path / folder) is dtype
    expected, found = weights(base / "model"), weights(tmp_path / "same")
    assert all(torch.equal(expected[name], found[name]) for name in found)


def test_the_default_quantization_of_each_format():
    chosen = {
        name: [default_quantization(format, dtype) for dtype in DTYPES.values()] for name, format in FORMATS.items()
    }
    assert list(DTYPES) == ["float32", "bfloat16", "float16"]
    assert chosen == {
        "transformers": ["float32", "bfloat16", "float16"],
        "gguf": ["f32", "bf16", "f16"],
        "ctranslate2": ["float32", "float32", "float16"],
        "onnx": ["float32", "float32", "float32"],
    }
