"""Answers of a fine-tuned model, and the report on a published one: sample answers and held-out loss."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, pipeline

from ..data.batching.packing import PackedRows
from ..data.batching.token_shards import Shard
from ..data.readers.conversations import Conversation
from ..terminal import SafeConsole
from ..tokenization.chat import encode_prompt
from .baselines import SCORED_TOKENS
from .language_modeling import language_metrics
from .memorisation import compare_losses
from .positions import generate, new_tokens_within, pad_rows, position_limit

QUESTIONS, TEST_ROWS = 3, 8


def exchange(question: str, reply: str, expected: str) -> str:
    """Three lines with a question, the model's answer and the expected one; line ends in them become spaces."""
    parts = {"question": question, "answer": reply, "expected": expected}
    return "\n".join(f"{name}: {' '.join(text.split())}" for name, text in parts.items())


def answer(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    conversations: list[Conversation],
    max_new_tokens: int = 60,
    batch_size: int = 64,
) -> list[str]:
    """Generate the greedy answer to each conversation, which ends with a question.

    Prompt and answer stay within the model's positions: an answer is limited to the positions that its prompt leaves.
    If a prompt leaves none, its answer is "", and the number of these is printed to standard error. An answer does not
    depend on its batch, except for rounding.

    Args:
        model: a causal language model.
        tokenizer: a tokenizer with a chat template.
        conversations: each ends with a message of the user.
        max_new_tokens: maximum length of an answer.
        batch_size: conversations per batch.

    Returns:
        One answer per conversation, in order.
    """
    prompts = [encode_prompt(tokenizer, conversation) for conversation in conversations]
    limits = [new_tokens_within(model, len(prompt), max_new_tokens) for prompt in prompts]
    unlimited = [i for i, tokens in enumerate(limits) if tokens == max_new_tokens]
    batches = [unlimited[start : start + batch_size] for start in range(0, len(unlimited), batch_size)]
    batches += [[i] for i, tokens in enumerate(limits) if 0 < tokens < max_new_tokens]
    answers = [""] * len(prompts)
    for batch in batches:
        inputs = pad_rows([prompts[i] for i in batch], tokenizer, "left", model.device)
        with torch.no_grad():
            tokens = generate(model, **inputs, max_new_tokens=limits[batch[0]], do_sample=False)
        texts = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(batch, texts, strict=True):
            answers[i] = text.strip()
    if full := limits.count(0):
        limit = position_limit(model.config)
        print(
            f"{full:,} of {len(limits):,} conversations fill the model's {limit} positions: no answer", file=sys.stderr
        )
    return answers


def report_answers(
    folder: Path,
    conversations: list[Conversation],
    shards: dict[str, Shard],
    context_length: int,
    start: int,
    trust_remote_code: bool,
) -> str:
    """Load `folder` with the Auto classes, answer the first questions with the pipeline, and score conversations.

    Args:
        folder: a model directory.
        conversations: the first questions of these are answered.
        shards: conversations of "train" and "validation" and, if some were used for neither, "test".
        context_length: tokens per row.
        start: id of the token that conversations begin with.
        trust_remote_code: whether to run code from the directory.

    Returns:
        Whether the model overfits, in a sentence.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    generator = pipeline(
        "text-generation", model=model, tokenizer=tokenizer, device="cpu", trust_remote_code=trust_remote_code
    )
    console = SafeConsole()
    console.print(f"\nReloaded from {folder}; answers to held-out questions:\n")
    for conversation in conversations[:QUESTIONS]:
        turns = [message["role"] for message in conversation]
        prompt = conversation[: turns.index("assistant")]
        if not prompt:
            continue
        text = _generated(generator, prompt, len(encode_prompt(tokenizer, prompt)))
        lines = exchange(prompt[-1]["content"], text, conversation[len(prompt)]["content"]).splitlines()
        console.print("".join(f"  {line}\n" for line in lines))

    def loss(shard: Shard) -> float:
        rows = PackedRows.for_tokenizer(shard, context_length, tokenizer, bos_token_id=start)
        return language_metrics(None, model.eval(), rows, shard, TEST_ROWS)["val_loss"]

    if (test := shards.get("test")) is not None:
        console.print(
            f"On {len(test.ends)} conversations held out from all of the training: {loss(test):.4f} nats per "
            "token of the answers.",
            highlight=False,
        )
    held_out = first_documents(shards["validation"], SCORED_TOKENS)
    training = first_documents(shards["train"], len(held_out.tokens))
    unit = f"nats per token of the answers, on {len(training.ends):,} and {len(held_out.ends):,} conversations"
    verdict = compare_losses(loss(training), loss(held_out), unit, "conversations")
    console.print(f"memorisation: {verdict}", soft_wrap=True)
    return verdict[0].upper() + verdict[1:] + "."


def first_documents(shard: Shard, tokens: int) -> Shard:
    """Return the first documents of a shard: as many as have at most this number of tokens, and at least one.

    Args:
        shard: conversations, with a mask of scored tokens.
        tokens: maximum number of tokens.
    """
    count = max(1, int(np.searchsorted(shard.ends, tokens, side="right")))
    stop, scored = int(shard.ends[count - 1]), shard.scored
    characters, utf8_bytes = (
        math.ceil(size * stop / len(shard.tokens)) for size in (shard.characters, shard.utf8_bytes)
    )
    return Shard(
        shard.tokens[:stop],
        shard.ends[:count],
        characters,
        utf8_bytes,
        scored=None if scored is None else scored[:stop],
    )


def report_completions(folder: Path, prompts: list[Any], trust_remote_code: bool) -> None:
    """Load `folder` with the Auto classes, and complete the first prompts with the pipeline.

    Args:
        folder: a model directory.
        prompts: texts, or conversations to answer.
        trust_remote_code: whether to run code from the directory.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    generator = pipeline(
        "text-generation", model=model, tokenizer=tokenizer, device="cpu", trust_remote_code=trust_remote_code
    )
    console = SafeConsole()
    console.print(f"\nReloaded from {folder}:\n")
    for prompt in prompts[:QUESTIONS]:
        text = _generated(generator, prompt, len(encode_prompt(tokenizer, prompt)))
        console.print(f"  {prompt if isinstance(prompt, str) else prompt[-1]['content']}")
        console.print(f"  → {text.strip()}\n", style="italic")


def _generated(generator: Any, prompt: Any, prompt_length: int) -> str:
    """Complete a prompt of `prompt_length` tokens with a pipeline, within the model's positions."""
    limit = new_tokens_within(generator.model, prompt_length)
    if not limit:
        positions = position_limit(generator.model.config)
        return f"(no answer: {prompt_length} tokens fill the model's {positions} positions)"
    return str(generator(prompt, return_full_text=False, max_new_tokens=limit)[0]["generated_text"])
