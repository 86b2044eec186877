"""Supervised fine-tuning: which tokens are scored, and a run end to end."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.data import CONVERSATION, USER_MESSAGE
from helpers.models import tiny_model
from helpers.processes import PROJECT, refusals, run_here, run_python
from torch.nn import functional as F
from transformers import AutoTokenizer

from scratch_gpt import ScratchGPTForCausalLM, train_tokenizer
from scratch_gpt.data.corpora.story_questions import SPLITS
from scratch_gpt.evaluation.chat import answer
from scratch_gpt.evaluation.language_modeling import sum_of_losses
from scratch_gpt.tokenization.chat import add_chat_template, encode_conversations
from scratch_gpt.train.tasks.sft.task import Instructions

COLOURS = (("Rose", "red"), ("Sky", "blue"))
SFT = str(PROJECT / "training" / "sft.py")


@pytest.fixture(params=["char", "bpe"])
def tokenizer(request):
    texts = ["".join(map(chr, range(32, 127)))] + [message["content"] for message in CONVERSATION] * 20
    tokenizer = train_tokenizer(texts, request.param, 280 if request.param == "bpe" else None)
    assert add_chat_template(tokenizer)
    assert not add_chat_template(tokenizer)
    return tokenizer


def test_only_assistant_tokens_are_scored(tokenizer):
    tokens = encode_conversations(tokenizer, [CONVERSATION], 1000)
    (ids,), (scored,) = tokens.ids, tokens.scored
    whole = tokenizer.decode([tokens.start, *ids])
    assert whole == "<bos>" + "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in CONVERSATION)
    assert tokenizer.decode(ids[scored]) == "I am well.<|end|>Still well.<|end|>"
    assert (tokens.start, tokens.ends) == (tokenizer.bos_token_id, [tokenizer.convert_tokens_to_ids("<|end|>")])
    assert (tokens.characters, tokens.num_too_long, tokens.num_unanswered) == (21, 0, 0)


def test_long_conversations_are_truncated_and_counted(tokenizer):
    whole = encode_conversations(tokenizer, [CONVERSATION], 1000).ids[0]
    first_answer = int(np.flatnonzero(encode_conversations(tokenizer, [CONVERSATION], 1000).scored[0])[0])
    truncated = encode_conversations(tokenizer, [CONVERSATION, CONVERSATION], first_answer + 2)
    assert (truncated.num_too_long, truncated.num_unanswered, len(truncated.ids)) == (2, 0, 2)
    assert truncated.ids[0].tolist() == whole[: first_answer + 2].tolist()
    unanswered = encode_conversations(tokenizer, [CONVERSATION], first_answer)
    assert (unanswered.num_too_long, unanswered.num_unanswered, unanswered.ids) == (1, 1, [])


def task_of(tokenizer, conversations, row_length: int = 128) -> Instructions:
    tokens = encode_conversations(tokenizer, conversations, row_length)
    return Instructions(
        Accelerator(), {"train": tokens, "validation": tokens}, conversations, tokenizer, row_length, 2, 0
    )


def test_prompts_are_never_scored(tokenizer):
    """Changing the labels of prompts does not change the gradient; changing those of answers does."""
    task = task_of(tokenizer, [CONVERSATION, CONVERSATION[:2]])
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=128)
    shard = task.shards["train"]

    def gradient(changed: np.ndarray | None) -> torch.Tensor:
        plan = task.rows.plan(0)
        rows = [(plan, row) for row in range(len(plan))]
        batch, kept = task.rows.batch(rows), shard.tokens.copy()
        if changed is not None:
            shard.tokens[changed] = 9
            batch["labels"] = task.rows.batch(rows)["labels"]
            shard.tokens[:] = kept
        model.zero_grad()
        task.loss(model, batch).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    expected = gradient(None)
    assert torch.equal(gradient(~shard.scored), expected)
    assert not torch.allclose(gradient(shard.scored), expected)


def test_packed_conversations_do_not_attend_to_each_other(tokenizer):
    conversations = [CONVERSATION, CONVERSATION[:2], [{"role": "system", "content": "Be kind."}, *CONVERSATION[2:]]]
    task = task_of(tokenizer, conversations, row_length=256)
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=256)
    plan = task.rows.plan(0)
    assert len(plan) == 1  # all of them in one row
    packed = task.loss(model, task.rows.batch([(plan, 0)]))
    separate = 0.0
    for conversation in conversations:
        encoded = tokenizer.apply_chat_template(conversation, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = torch.tensor([encoded["input_ids"]]), torch.tensor(encoded["assistant_masks"]).bool()
        losses = F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        separate = separate + losses[mask[1:]].sum()
    torch.testing.assert_close(packed, separate)
    assert task.count(task.rows.batch([(plan, 0)])) == sum(
        int(mask.sum()) for mask in task_masks(tokenizer, conversations)
    )
    assert sum_of_losses(model, task.rows.batch([(plan, 0)])).item() == pytest.approx(separate.item())


def task_masks(tokenizer, conversations):
    return encode_conversations(tokenizer, conversations, 1000).scored


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An untrained model, and conversations with a rule that holds for held-out ones too: roses are red, skies blue."""
    folder = tmp_path_factory.mktemp("base")
    texts = ["".join(map(chr, range(32, 127)))]
    tokenizer = train_tokenizer(texts, "char", model_max_length=64)
    torch.manual_seed(0)
    fields = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    fields |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = ScratchGPTForCausalLM(ScratchGPTForCausalLM.config_class.from_preset("llama", **fields))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [
        {"prompt": f"{thing} {x}?", "completion": colour} for thing, colour in COLOURS for x in "abcdefghijklmnop"
    ] * 4
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


OPTIONS = ["--num_threads", "1", "--context_length", "64", "--precision", "fp32", "--batch_size", "2"]


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    """A model fine-tuned on the conversations."""
    out = tmp_path_factory.mktemp("tuned") / "tuned"
    options = [*OPTIONS, "--max_steps", "60", "--eval_every", "30", "--save_every", "30", "--test_fraction", "0.1"]
    options += ["--learning_rate", "0.01", "--muon_learning_rate", "0.02"]
    options += ["--output_dir", str(out), "--dataset", str(base / "chats.jsonl")]
    result = run_here(SFT, "--init_from", str(base / "model"), *options)
    assert "held out from all of the training" in result.stdout
    return out


def test_tuned_model_generates_the_trained_answers(tuned, tmp_path):
    """The loss falls, `verify` finds the run valid and exactly resumable, and a pipeline without the package generates
    the complete answers."""
    out = tuned
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "val_loss" in row][-1]
    assert last["val_loss"] < 0.1 < last["val_loss_before"]
    state = json.loads((out / "checkpoints/step-00000060/training_state.json").read_text())
    assert state["task"] == {"before": {"val_loss": last["val_loss_before"]}}  # a resumed run can't measure it again
    card = (out / "README.md").read_text()
    before_and_after = f"{last['val_loss']:.4f} | {last['val_loss_before']:.4f}"
    assert f"| loss, nats per token of the answers | {before_and_after} |" in card
    verified = run_here("scratch-gpt", "verify", str(out))
    assert verified.stdout.count("✓") == 5, verified.stdout
    code = """
import sys
from transformers import pipeline
answer = pipeline("text-generation", sys.argv[1], trust_remote_code=True, device="cpu")
for thing in ("Rose", "Sky"):
    conversation = answer([{"role": "user", "content": f"{thing} a?"}])[0]["generated_text"]
    print(conversation[-1]["role"], conversation[-1]["content"])
assert "scratch_gpt" not in sys.modules
"""
    without_package = run_python("-I", "-c", code, str(out), cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert without_package.stdout.splitlines()[-2:] == ["assistant red", "assistant blue"]


@pytest.mark.slow
def test_tuned_model_works_with_transformers_serve_and_chat(tuned, tmp_path):
    """`transformers serve`, in a process without the package, returns a complete answer and a streamed one;
    `transformers chat` prints one."""
    command = str(Path(sys.executable).with_name("transformers"))
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "0"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    options = ["--trust-remote-code", "--port", str(port), "--host", "127.0.0.1", "--device", "cpu"]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen([command, "serve", *options], env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health") as answer:
                if answer.status == 200:
                    break
            time.sleep(0.25)

        def ask(thing: str, stream: bool) -> str:
            fields = {"model": str(tuned), "messages": [{"role": "user", "content": f"{thing} a?"}]}
            body = json.dumps({**fields, "stream": stream}).encode()
            request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.read().decode()

        assert json.loads(ask("Rose", stream=False))["choices"][0]["message"] == {"role": "assistant", "content": "red"}
        lines = [line.removeprefix("data: ") for line in ask("Sky", stream=True).splitlines() if "chunk" in line]
        pieces = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines]
        assert "".join(pieces) == "blue"
        assert len([piece for piece in pieces if piece]) > 1
        chat = subprocess.run(
            [command, "chat", str(tuned), url, "do_sample=False"],  # the default is sampling
            input="Sky a?\n!exit\n",
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "\nblue" in chat.stdout, (chat.stdout + chat.stderr)[-3000:]
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_exact_answers_are_counted(tokenizer):
    """Two of three answers equal those of the model, which do not depend on left padding."""
    conversations = [
        [USER_MESSAGE, {"role": "assistant", "content": reply}] for reply in ("I am well.", "So so.", "No.")
    ]
    conversations[1] = [
        {"role": "user", "content": "A much longer question than the other ones, is it?"},
        conversations[1][1],
    ]
    tokens = encode_conversations(tokenizer, conversations, 128)
    task = Instructions(
        Accelerator(), dict.fromkeys(SPLITS[:2], tokens), conversations, tokenizer, 128, 2, 0, exact=True
    )
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=128)
    replies = [answer(model, tokenizer, [conversation[:1]])[0] for conversation in conversations]
    assert answer(model, tokenizer, [conversation[:1] for conversation in conversations]) == replies
    for conversation, reply in zip(conversations[:2], replies, strict=False):
        conversation[1] = {"role": "assistant", "content": reply}
    task.held_out = conversations
    assert task.evaluate(model)["val_exact"] == pytest.approx(
        2 / 3 if replies[0] != conversations[2][1]["content"] else 1
    )


BAD = {
    "no model to tune": ("--dataset chats.jsonl", "give a pre-trained one with --init_from"),
    "no such file": ("--init_from model --dataset ./none.json", "no such file or folder: ./none.json"),
    "no questions": ("--init_from model --num_questions 0", "num_questions is 0, want at least 1"),
    "no such split": ("--init_from model --dataset_split dev", "have the splits train, validation, test, not 'dev'"),
    "validation fraction 0": (
        "--init_from model --dataset chats.jsonl --validation_fraction 0",
        "validation_fraction is 0.0, want",
    ),
    "all held out": ("--init_from model --dataset chats.jsonl --test_fraction 0.97", "the held-out fractions are"),
    "context length": (
        "--init_from model --dataset chats.jsonl --context_length 65",
        "context_length is 65, want at least 1",
    ),
    "context without answers": (
        "--init_from model --dataset chats.jsonl --context_length 5",
        "has no answer for train",
    ),
    "a text file": ("--init_from model --dataset plain.txt", "plain.txt is plain text, want a table"),
    "rank 0": ("--init_from model --dataset chats.jsonl --lora_rank 0", "lora_rank is 0, want more than 0"),
    "alpha without adapters": (
        "--init_from model --dataset chats.jsonl --lora_alpha 4",
        "have no effect without --lora_rank",
    ),
    "unknown LoRA target": (
        "--init_from model --dataset chats.jsonl --lora_rank 4 --lora_targets wqkv",
        "lora_targets names wqkv, the model has down_proj, gate_proj",
    ),
    "template without roles": ("--init_from unmarked --dataset chats.jsonl", "ends an answer with no special token"),
}


@pytest.fixture(scope="module")
def outcomes(base):
    (base / "plain.txt").write_text("text")
    tokenizer = train_tokenizer(["a b c"], "char")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}{% endif %}"
    )
    ScratchGPTForCausalLM.from_pretrained(base / "model").save_pretrained(base / "unmarked")
    tokenizer.save_pretrained(base / "unmarked")
    before = sorted(base.rglob("*"))
    found = refusals(SFT, [[*arguments.split(), "--output_dir", "out"] for arguments, _ in BAD.values()], base)
    assert sorted(base.rglob("*")) == before
    return dict(zip(BAD, found, strict=True))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_a_one_line_error_and_exit_code_2(case, outcomes):
    code, errors = outcomes[case]
    lines = [line for line in errors.splitlines() if "error" in line.lower() or BAD[case][1] in line]
    assert code == 2, errors
    assert BAD[case][1] in errors, errors
    assert len(lines) == 1


@pytest.mark.parametrize("preset", ["gpt2", "llama", "nanochat"])
def test_published_lora_weights_equal_the_adapted_model(preset, tokenizer):
    """With random adapters and embedding rows, the published weights give the logits of the adapted model."""
    from scratch_gpt.train.tasks.sft.lora import add_lora

    model = tiny_model(preset, vocab_size=len(tokenizer))
    plain = set(model.state_dict())
    published = add_lora(model, tokenizer, 4, 6.0, ["all-linear"]).merged
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "trainable_tokens" in name for name in trained)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(["<bos>", "<|user|>", "H", "<|end|>", "<|assistant|>", "I"])])
    weights = published(model.state_dict())
    assert set(weights) == plain
    other = tiny_model(preset, vocab_size=len(tokenizer))
    other.load_state_dict(weights)
    torch.testing.assert_close(other(ids).logits, model.eval()(ids).logits, atol=1e-4, rtol=1e-4)
    batch = {"input_ids": ids, "labels": ids}
    assert sum_of_losses(model, batch).item() == pytest.approx(sum_of_losses(other, batch).item(), abs=1e-3)


@pytest.mark.parametrize("tied", [False, True])
def test_model_tuned_with_lora_is_published_as_a_plain_model(base, tmp_path, tied):
    """Only the adapted matrices and the rows of the chat tokens differ from the base model."""
    before = ScratchGPTForCausalLM.from_pretrained(base / "model", tie_word_embeddings=tied)
    before.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(base / "model").save_pretrained(tmp_path / "model")
    out = tmp_path / "tuned"
    options = [*OPTIONS, "--max_steps", "80", "--eval_every", "40", "--save_every", "40", "--lora_rank", "8"]
    options += ["--learning_rate", "0.03", "--output_dir", str(out), "--dataset", str(base / "chats.jsonl")]
    run_here(SFT, "--init_from", str(tmp_path / "model"), *options)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["val_loss"] < 0.8 * rows[-1]["val_loss_before"]  # the base model is untrained
    after = ScratchGPTForCausalLM.from_pretrained(out)
    old = len(before.get_input_embeddings().weight)
    assert torch.equal(after.get_input_embeddings().weight[:old], before.get_input_embeddings().weight)
    assert torch.equal(after.model.norm.weight, before.model.norm.weight)
    assert not torch.equal(after.model.layers[0].mlp.up_proj.weight, before.model.layers[0].mlp.up_proj.weight)
    verified = run_here("scratch-gpt", "verify", str(out))
    assert "✗" not in verified.stdout, verified.stdout
    assert "bit-equal" in verified.stdout
