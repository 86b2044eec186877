"""Runs on conversations, with the chat templates of models on the Hub and with `--chat_template`."""

import json

import pytest
import torch
from helpers.processes import run_here
from helpers.published import CHATML, MODELS, TEXTS, ZEPHYR, save_published
from transformers import AutoModelForCausalLM, AutoTokenizer

QUICK = ("--num_threads", "1", "--precision", "fp32", "--compile", "off", "--eval_every", "0")
REWARD = ("--reward", "re:a", "--validation_prompts", "2", "--prompts_per_rollout", "8", "--max_new_tokens", "8")


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("templates")
    (root / "zephyr.jinja").write_text(ZEPHYR)
    (root / "chatml.jinja").write_text(CHATML)
    rows = [{"prompt": ask(text[:20]), "completion": text[:8]} for text in TEXTS]
    (root / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [
        {"prompt": ask(text[:20]), "chosen": [{"role": "assistant", "content": "the"}]}
        | {"rejected": [{"role": "assistant", "content": text[:9]}]}
        for text in TEXTS
    ]
    (root / "dpo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    prompts = [{"messages": ask(f"{text[:20]} {i}")} for i, text in enumerate(TEXTS)]
    (root / "policy_gradient.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    save_published("gpt2", root / "gpt2")
    save_published("qwen2", root / "qwen2")
    tokenizer = MODELS["qwen2"][-1]()
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(root / "qwen2")
    run_here("scratch-gpt", "import", str(root / "gpt2"), str(root / "gpt"))
    return root


def test_a_model_with_chatml_learns_answers_and_stops(base):
    """The template does not mark answers; the published model answers from its own prompt, and stops."""
    run_here(
        *("scratch-gpt", "train", "sft", "--init_from", str(base / "qwen2"), "--dataset", str(base / "sft.jsonl")),
        *("--output_dir", str(base / "tuned"), "--epochs", "60", "--learning_rate", "0.01", "--optimizer", "adamw"),
        *("--warmup_steps", "5", *QUICK),
    )
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base / "tuned"),
        AutoTokenizer.from_pretrained(base / "tuned"),
    )
    assert tokenizer.chat_template == CHATML
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in model.generation_config.eos_token_id
    inputs = tokenizer.apply_chat_template(
        ask(TEXTS[0][:20]), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        answer = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == f"{TEXTS[0][:8]}<|im_end|>"


def test_what_is_learned_is_shown(base):
    result = run_here(
        *("scratch-gpt", "train", "sft", "--init_from", str(base / "qwen2"), "--dataset", str(base / "sft.jsonl")),
        *("--output_dir", str(base / "shown"), "--max_steps", "1", *QUICK),
    )
    assert result.stdout.count("what stands between « and » is learned") == 1
    shown = result.stdout.split("is learned:")[1]
    assert "<|im_start|>assistant\n«" in shown
    assert "<|im_end|>»" in shown


@pytest.mark.parametrize("family", ["sft", "dpo", "policy_gradient"])
def test_a_chat_template_from_a_file(base, family):
    """A tokenizer without a template gets it; it is saved, and generation stops at the end of an answer."""
    data = ("--dataset", str(base / f"{family}.jsonl"), *(REWARD if family == "policy_gradient" else ()))
    folder = base / f"filed-{family}"
    result = run_here(
        *("scratch-gpt", "train", family, "--init_from", str(base / "gpt"), *data, "--output_dir", str(folder)),
        *("--chat_template", str(base / "zephyr.jinja"), "--max_steps", "2", *QUICK),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == ZEPHYR
    assert len(tokenizer) == len(MODELS["gpt2"][-1]())  # no new tokens
    if family != "policy_gradient":
        assert "<|assistant|>\n«" in result.stdout
        assert "<|endoftext|>»" in result.stdout
    assert "zephyr.jinja" not in (folder / "README.md").read_text()
    again = ("--resume", "--output_dir", str(folder), "--max_steps", "3", "--allow_changed_settings")
    (base / "zephyr.jinja").rename(base / "moved.jinja")  # the checkpoint has the template
    try:
        run_here("scratch-gpt", "train", family, *again)
    finally:
        (base / "moved.jinja").rename(base / "zephyr.jinja")


def test_messages_need_a_template(base):
    for family, more in (("dpo", ()), ("policy_gradient", REWARD)):
        result = run_here(
            *("scratch-gpt", "train", family, "--init_from", str(base / "gpt"), *more),
            *("--dataset", str(base / f"{family}.jsonl"), "--output_dir", str(base / "none")),
            check=False,
        )
        assert result.returncode == 2
        assert "give one with --chat_template FILE" in result.stderr


def test_chat_with_a_template_from_a_file(base):
    options = ("--temperature", "0", "--max_new_tokens", "5", "--device", "cpu")
    refused = run_here("scratch-gpt", "chat", str(base / "gpt"), *options, stdin="the cat\n", check=False)
    assert refused.returncode == 2
    assert "give one with --chat_template FILE" in refused.stderr
    template = ("--chat_template", str(base / "zephyr.jinja"))
    assert run_here("scratch-gpt", "chat", str(base / "gpt"), *options, *template, stdin="the cat\n").stdout.strip()
