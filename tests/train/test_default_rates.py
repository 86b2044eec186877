"""Default learning rates by what is tuned, and the loss on general text before and after."""

import json
import math

import pytest
import torch
import yaml
from helpers.models import lift_norms, tiny_model
from helpers.native import save_chat_model
from helpers.processes import PROJECT, run_here
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from scratch_gpt import train_tokenizer
from scratch_gpt.data.corpora.general_english import PARAGRAPHS
from scratch_gpt.errors import ScratchError
from scratch_gpt.evaluation.general_text import GeneralText, describe_change, open_general_text
from scratch_gpt.train.arguments import default_rates
from scratch_gpt.train.arguments.default_rates import SMALL_MODEL, with_default_rates
from scratch_gpt.train.tasks import FAMILIES, recipe_of
from scratch_gpt.train.tasks.sft.arguments import InstructionArguments

# Optimizer, rate of AdamW and rate of Muon of new and small models, and the rate of larger ones.
EXPECTED = {
    **dict.fromkeys(("language_modeling", "masked_lm", "distillation"), ("muon", 1e-2, 2e-2, 5e-5)),
    **dict.fromkeys(("classification", "translation"), ("muon", 1e-2, 2e-2, 2e-5)),
    "sft": ("muon", 2.5e-3, 5e-3, 2e-5),
    "dpo": ("adamw", 2e-4, 2e-2, 1e-6),
    "policy_gradient": ("adamw", 5e-4, 2e-2, 1e-6),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_depend_on_the_size_of_a_tuned_model(family):
    """A new model of any size and a small one have those that were found on small models; `--optimizer adamw` alone has
    its own rate; what is given is kept."""
    kind = recipe_of(family).arguments[2]
    optimizer, adamw, muon, tuned = EXPECTED[family]
    for parameters, is_tuned in ((10**9, False), (SMALL_MODEL, True)):
        args, line = with_default_rates(kind(), parameters, is_tuned)
        assert (args.optimizer, args.learning_rate, args.muon_learning_rate) == (optimizer, adamw, muon)
        assert line.startswith(f"optimizer: {optimizer}, learning rate ")
    alone, _ = with_default_rates(kind(optimizer="adamw"), SMALL_MODEL, is_tuned=True)
    assert alone.learning_rate == (adamw if optimizer == "adamw" else 2.5e-3 if family == "sft" else 2e-3)
    large, line = with_default_rates(kind(), SMALL_MODEL + 1, is_tuned=True)
    assert (large.optimizer, large.learning_rate) == ("adamw", tuned)
    assert line == (
        f"optimizer: adamw, learning rate {tuned:g} (the default for tuning a model of 10,000,001 parameters, more "
        "than 10,000,000)"
    )
    assert with_default_rates(kind(muon_learning_rate=0.1), SMALL_MODEL + 1, is_tuned=True)[1] == (
        f"{line}; muon_learning_rate has no effect"
    )
    by_muon, _ = with_default_rates(kind(optimizer="muon"), SMALL_MODEL + 1, is_tuned=True)
    assert (by_muon.learning_rate, by_muon.muon_learning_rate) == (tuned, tuned)
    given = kind(optimizer="adamw", learning_rate=0.5)
    assert with_default_rates(given, SMALL_MODEL + 1, is_tuned=True)[0].learning_rate == 0.5
    assert with_default_rates(given, SMALL_MODEL + 1, is_tuned=True)[1] is None


def test_adapters_have_rates_of_their_own_and_no_muon():
    args, line = with_default_rates(InstructionArguments(), SMALL_MODEL + 1, is_tuned=True, lora=True)
    assert (args.optimizer, args.learning_rate) == ("adamw", 2e-4)
    assert "adapters of a model of 10,000,001 parameters" in line
    small, _ = with_default_rates(InstructionArguments(), SMALL_MODEL, is_tuned=True, lora=True)
    assert (small.optimizer, small.learning_rate) == ("adamw", 2.5e-3)
    with pytest.raises(ScratchError, match="LoRA trains factors: use adamw"):
        with_default_rates(InstructionArguments(optimizer="muon"), 10, is_tuned=True, lora=True)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Models that are too large for the rates of small ones, whose limit is lowered, and data for each family."""
    folder = tmp_path_factory.mktemp("large")
    save_chat_model(folder / "native")
    tokenizer = AutoTokenizer.from_pretrained(folder / "native")
    ours = lift_norms(tiny_model("llama", vocab_size=len(tokenizer)))
    ours.generation_config.eos_token_id, ours.generation_config.max_new_tokens = 2, 4
    ours.save_pretrained(folder / "ours")
    tokenizer.save_pretrained(folder / "ours")
    rows = {
        "sft": [{"prompt": f"how {i}", "completion": "so"} for i in range(6)],
        "dpo": [{"prompt": f"how {i}", "chosen": "a", "rejected": "b"} for i in range(6)],
        "policy_gradient": [{"prompt": f"how {i}"} for i in range(6)],
    }
    for family, own in rows.items():
        (folder / f"{family}.jsonl").write_text("\n".join(map(json.dumps, own)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(default_rates, "SMALL_MODEL", 10_000)
        yield folder


OPTIONS = ("--num_threads", "1", "--precision", "fp32", "--max_steps", "2", "--eval_every", "1", "--log_every", "1")
MORE = {
    "sft": ("--batch_size", "1", "--context_length", "64"),
    "dpo": ("--tokens_per_batch", "32"),
    "policy_gradient": ("--reward", "re:[a-m]", "--prompts_per_rollout", "4", "--validation_prompts", "2"),
}
MORE["policy_gradient"] += ("--max_new_tokens", "4")


def tune(large, family, out, *arguments: str):
    """Tune a large model by two steps."""
    script, data = str(PROJECT / "training" / f"{family}.py"), str(large / f"{family}.jsonl")
    model = large / ("native" if family == "sft" else "ours")
    options = ("--init_from", str(model), "--dataset", data, "--output_dir", str(out), *OPTIONS, *MORE[family])
    return run_here(script, *options, *arguments)


@pytest.mark.parametrize("family", MORE)
def test_a_pretrained_model_is_tuned_gently_and_shows_what_it_forgets(family, large, tmp_path):
    """The steps are those of AdamW with the literature's rate, which is said and recorded; the loss on general text is
    said, recorded before and after, and in the card. At a high rate it changes, and is seen to."""
    gentle = tune(large, family, tmp_path / "gentle")
    record = yaml.safe_load((tmp_path / "gentle/run.yaml").read_text())["arguments"]
    assert (record["optimizer"], record["learning_rate"]) == ("adamw", EXPECTED[family][3])
    assert gentle.stdout.count(f"optimizer: adamw, learning rate {EXPECTED[family][3]:g} (the default for tuning") == 1
    rough = tune(large, family, tmp_path / "rough", "--learning_rate", "0.05", "--warmup_steps", "1")
    changes = []
    for name, result in (("gentle", gentle), ("rough", rough)):
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        before, after = rows[-1]["general_loss_before"], rows[-1]["general_loss"]
        changes.append(abs(after - before))
        assert result.stdout.count("loss on general text: measured on a built-in English sample, ") == 1
        said = result.stdout + result.stderr
        assert f": {before:.4f} before, " in said
        assert f"general {after:.4f}" in said
        assert "| loss on general text, nats per token | " in (tmp_path / name / "README.md").read_text()
    assert changes[0] < 1e-3 < 1e-2 < changes[1]


def test_a_resumed_run_knows_the_loss_before_it_was_tuned(large, tmp_path):
    out = tmp_path / "run"
    tune(large, "sft", out, "--learning_rate", "0.01")
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    more = ("--max_steps", "3", "--allow_changed_settings")
    run_here(str(PROJECT / "training/sft.py"), "--output_dir", str(out), "--resume", *more)
    after = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert after["step"] == 3
    assert after["general_loss_before"] == row["general_loss_before"] != after["general_loss"]


def test_the_loss_on_general_text_is_that_of_transformers(tmp_path):
    """Of each document with `<bos>` before it, in windows; on a file of one's own too."""
    folder = save_chat_model(tmp_path / "model", dtype=torch.float32)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    from accelerate import Accelerator

    text, line = open_general_text(None, tokenizer, 64)
    assert line == f"loss on general text: measured on {text.name}"
    total, count = 0.0, 0
    for paragraph in PARAGRAPHS:
        ids = tokenizer(paragraph, add_special_tokens=False)["input_ids"]
        for begin in range(0, len(ids), 64):
            labels = torch.tensor(ids[begin : begin + 64])
            inputs = torch.cat([torch.tensor([tokenizer.bos_token_id]), labels[:-1]])
            with torch.no_grad():
                total += F.cross_entropy(model(inputs[None]).logits[0], labels, reduction="sum").item()
            count += len(labels)
    assert text.loss(Accelerator(cpu=True), model) == pytest.approx(total / count, abs=1e-4)
    (tmp_path / "own.txt").write_text("A text of my own.")
    _, line = open_general_text(str(tmp_path / "own.txt"), tokenizer, 64)
    count = len(tokenizer("A text of my own.", add_special_tokens=False)["input_ids"])
    assert f"own.txt, {count} tokens" in line


def test_general_text_can_be_omitted_missing_or_unknown(tmp_path):
    tokenizer = train_tokenizer(["abc"], "char")
    assert open_general_text("none", tokenizer, 64) == (None, "loss on general text: not measured, as requested")
    text, line = open_general_text(None, tokenizer, 64)
    assert text is None
    assert "the tokenizer does not know 9" in line
    with pytest.raises(ScratchError, match="no such file or folder"):
        open_general_text("./none.txt", tokenizer, 64)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ScratchError):
        open_general_text(str(tmp_path / "empty.txt"), tokenizer, 64)


def test_a_rise_is_a_warning_if_the_model_knew_the_text(story_tokenizer):
    text = GeneralText("a text", PARAGRAPHS, story_tokenizer, 64)
    uniform = math.log(len(story_tokenizer))
    assert describe_change(text, 2.0, 2.4)[1] is False
    line, warns = describe_change(text, 2.0, 2.6)
    assert warns
    assert "2.0000 before, 2.6000 after, nats per token (+0.6000: perplexity 7.389 before, 13.46 after)" in line
    assert "It has forgotten much of it" in line
    assert "forgotten some of it" in describe_change(text, 2.0, 2.4)[0]
    assert "forgotten nothing that this text shows" in describe_change(text, 2.0, 2.04)[0]
    assert "hardly knew this text before" in describe_change(text, 0.9 * uniform, 9.0)[0]
    assert describe_change(text, 0.9 * uniform, 9.0)[1] is False  # there was nothing to forget
