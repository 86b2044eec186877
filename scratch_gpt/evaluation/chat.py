"""Answers of a fine-tuned model, and the report on a published one: sample answers and held-out loss."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, pipeline

from ..data.batching.packing import PackedRows
from ..data.batching.token_shards import Shard
from ..data.readers.conversations import Conversation
from ..terminal import SafeConsole
from ..tokenization.chat import encode_prompt
from .language_modeling import language_metrics
from .positions import generate, new_tokens_within, pad_rows, position_limit

QUESTIONS, TEST_ROWS = 3, 8


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
    test: Shard | None,
    context_length: int,
    start: int,
    trust_remote_code: bool,
) -> None:
    """Load `folder` with the Auto classes, answer the first questions with the pipeline, and score test conversations.

    Args:
        folder: a model directory.
        conversations: the first questions of these are answered.
        test: conversations that were used for neither training nor model selection, or None.
        context_length: tokens per row.
        start: id of the token that conversations begin with.
        trust_remote_code: whether to run code from the directory.
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
        console.print(f"  {prompt[-1]['content']}")
        console.print(f"  → {text.strip()}\n", style="italic")
    if test is not None:
        rows = PackedRows.for_tokenizer(test, context_length, tokenizer, bos_token_id=start)
        metrics = language_metrics(Accelerator(cpu=True), model.eval(), rows, test, TEST_ROWS)
        console.print(
            f"On {len(test.ends)} conversations held out from all of the training: {metrics['val_loss']:.4f} nats per "
            "token of the answers.",
            highlight=False,
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
