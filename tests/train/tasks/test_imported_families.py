"""Every family of decoders: a pretrained model in bfloat16, with a tokenizer as on the Hub, is tuned and exported."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.decoders import VARIANTS, native_decoder
from helpers.processes import run_here
from helpers.published import TEXTS, WORDS, gpt2_tokenizer, llama3_tokenizer, llama_tokenizer, qwen2_tokenizer
from helpers.training import metrics
from peft import PeftModel
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from scratch_gpt import import_native
from scratch_gpt.hub.loading import load_model
from scratch_gpt.tokenization.chat import encode_conversations

pytestmark = pytest.mark.slow
LENGTH = 64
SENTENCEPIECE = ("Mistral", "Mixtral", "Gemma", "Gemma2", "Gemma3", "Phi3")
TOKENIZERS = dict.fromkeys(SENTENCEPIECE, llama_tokenizer) | {"SmolLM3": llama3_tokenizer}
TOKENIZERS |= dict.fromkeys(("Qwen2", "Qwen3", "Qwen3Moe"), qwen2_tokenizer)
RUN = ("--max_steps", "2", "--num_threads", "1", "--precision", "fp32", "--compile", "off", "--general_text", "none")
REWARD = ("--reward", "re:[a-m]", "--prompts_per_rollout", "8", "--validation_prompts", "4", "--max_new_tokens", "8")
# The runs beside SFT, of which every family has one.
RUNS: dict[str, tuple[str, ...]] = {
    "dpo": ("dpo",),
    "policy_gradient": ("policy_gradient", *REWARD),
    "language_modeling": ("language_modeling", "--context_length", str(LENGTH)),
    "lora": ("sft", "--lora_rank", "4", "--save_dtype", "float32", "--context_length", str(LENGTH)),
}
CASES = [(family, list(RUNS)[number % len(RUNS)]) for number, family in enumerate(VARIANTS)]
# LoRA refuses heads with a bias, see test_adapters.py
CASES = [(family, "dpo" if family in ("GPTJ", "Phi") else other) for family, other in CASES]


# The import multiplies weights of these by constants, which changes the effect of a step of SGD.
RESCALED = ("Granite", "Gemma", "Gemma2", "Gemma3", "GPTNeo")
EXPERTS = ("Mixtral", "Olmoe", "Qwen3Moe")  # trained here with the load balancing loss, which is off in transformers


def talk(number: int) -> list[dict[str, str]]:
    """A short conversation, of which several fit into a row."""
    words = (WORDS * 3)[number:]
    asked, answer = " ".join(words[:3]), " ".join(words[4 : 6 + number % 3])
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder of data for every task, with a validation split."""
    folder = tmp_path_factory.mktemp("data")
    rows: dict[str, Any] = {
        "sft": [{"messages": talk(number)} for number in range(20)],
        "dpo": [{"prompt": text[:20], "chosen": text[20:40], "rejected": text[:9]} for text in TEXTS],
        "policy_gradient": [{"prompt": text[:20]} for text in TEXTS],
        "language_modeling": [{"text": text} for text in TEXTS],
    }
    for task, examples in rows.items():
        (folder / task).mkdir()
        for split, part in (("train", examples[8:]), ("validation", examples[:8])):
            (folder / task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    return folder


def pretrained(family: str, folder: Path) -> Any:
    """Save a model of the first variant of a family in bfloat16 and its tokenizer; return the model in float32."""
    tokenizer = TOKENIZERS.get(family, gpt2_tokenizer)()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    fields = {"vocab_size": len(tokenizer) + 5, "max_position_embeddings": LENGTH, **ids}
    fields |= {"dropout": 0.0} if family == "OPT" else {}
    model = native_decoder(family, next(iter(VARIANTS[family])), **fields).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def train(kind: str, start: Path, data: Path, folder: Path) -> Path:
    """Train with a command; return the directory of the run."""
    task, *options = RUNS.get(kind, (kind, "--context_length", str(LENGTH)))
    common = [arg for arg in RUN if task != "language_modeling" or arg not in ("--general_text", "none")]
    paths = ("--init_from", str(start), "--dataset", str(data / task), "--output_dir", str(folder))
    run_here("scratch-gpt", "train", task, *paths, *common, *options)
    assert metrics(folder)[-1]["step"] == 2
    generated = run_here("scratch-gpt", "generate", str(folder), "--prompt", "the cat", "--max_new_tokens", "4")
    assert generated.stdout  # of a random model, perhaps white space only
    return folder


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    """The logits of one row (length, vocabulary)."""
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0]


def validation_loss(model: Any, tokenizer: Any) -> float:
    """The loss of the answers of the validation split, each conversation alone."""
    talks = [talk(number) for number in range(8)]
    total, count = 0.0, 0
    for messages, scored in zip(talks, encode_conversations(tokenizer, talks, LENGTH).scored, strict=True):
        ids = tokenizer.apply_chat_template(messages, return_dict=False)  # with the start token of a row
        labels = torch.tensor(ids)[-len(scored) :].masked_fill(~torch.tensor(scored.tolist()), -100)
        losses = F.cross_entropy(logits(model, ids)[:-1][-len(scored) :], labels[-len(ids) + 1 :], reduction="sum")
        total, count = total + losses.item(), count + int(scored.sum())
    return total / count


def trained_by_transformers(model: Any, rows: list[dict[str, list[int]]], folder: Path) -> float:
    """Take a step with transformers' Trainer; return the loss."""
    settings = {"report_to": [], "use_cpu": True, "save_strategy": "no", "bf16": False, "disable_tqdm": True}
    args = TrainingArguments(str(folder), max_steps=1, optim="sgd", learning_rate=0.01, **settings)
    return Trainer(model, args, train_dataset=rows).train().training_loss


@pytest.mark.parametrize(("family", "other"), CASES)
def test_a_pretrained_model_is_tuned_and_exported(family, other, data, tmp_path):
    """The recorded loss of SFT, of packed rows, is that of the exported model of transformers for single
    conversations; a step of transformers' Trainer has the same effect on both classes."""
    native = pretrained(family, tmp_path / "start")
    run = train("sft", tmp_path / "start", data, tmp_path / "sft")
    run_here("scratch-gpt", "export", str(run), str(tmp_path / "exported"), "--quantization", "float32")
    ours = load_model(str(run)).float()
    exported, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "exported"),
        AutoTokenizer.from_pretrained(run),
    )
    assert type(exported) is type(native)
    assert exported.dtype == torch.float32
    ids = tokenizer(TEXTS[0])["input_ids"][:LENGTH]
    torch.testing.assert_close(logits(exported, ids), logits(ours, ids), atol=1e-4, rtol=1e-5)
    vocabulary = native.config.vocab_size
    assert (logits(ours, ids)[:, :vocabulary] - logits(native, ids)).abs().max() > 1e-2  # it was trained
    assert metrics(run)[-1]["val_loss"] == pytest.approx(validation_loss(exported, tokenizer), rel=1e-5)

    second = train(other, tmp_path / "start", data, tmp_path / other)
    if other == "lora":
        assert type(load_model(str(second))) is type(native)
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "start", dtype=torch.float32)
        if len(tokenizer) > base.config.vocab_size:
            base.resize_token_embeddings(len(tokenizer))
        adapted = PeftModel.from_pretrained(base, second / "adapter").merge_and_unload()
        found, expected = (logits(model, ids)[:, :vocabulary] for model in (adapted, load_model(str(second))))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)

    imported, rows = import_native(copy.deepcopy(native)), [{"input_ids": ids[:12], "labels": ids[:12]}] * 8
    losses = [trained_by_transformers(model.train(), rows, tmp_path / "out") for model in (native, imported)]
    assert losses[1] == pytest.approx(losses[0], rel=5e-3 if family in EXPERTS else 1e-5)
    if family not in RESCALED:
        tolerance = 2e-3 if family in EXPERTS else 1e-4
        torch.testing.assert_close(logits(imported, ids), logits(native, ids), atol=tolerance, rtol=1e-4)
