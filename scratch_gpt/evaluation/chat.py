"""Open a tuned model as its user will, ask it, and score what was held out."""

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
from .language_modeling import language_figures
from .positions import generate, new_tokens_within, pad_rows, position_limit

QUESTIONS, TEST_ROWS = 3, 8


def answer(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    conversations: list[Conversation],
    max_new_tokens: int = 60,
    batch_size: int = 64,
) -> list[str]:
    """The greedy answer to each conversation, which ends with a question.

    Prompt and answer stay within the model's positions: an answer is shorter than `max_new_tokens` where they leave
    less, and "" where they leave nothing, which is counted on standard error. An answer does not depend on the batch,
    except for rounding.
    """
    prompts = [encode_prompt(tokenizer, talk) for talk in conversations]
    room = [new_tokens_within(model, len(prompt), max_new_tokens) for prompt in prompts]
    whole = [i for i, tokens in enumerate(room) if tokens == max_new_tokens]
    batches = [whole[at : at + batch_size] for at in range(0, len(whole), batch_size)]
    batches += [[i] for i, tokens in enumerate(room) if 0 < tokens < max_new_tokens]
    answers = [""] * len(prompts)
    for batch in batches:
        inputs = pad_rows([prompts[i] for i in batch], tokenizer, "left", model.device)
        with torch.no_grad():
            tokens = generate(model, **inputs, max_new_tokens=room[batch[0]], do_sample=False)
        written = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(batch, written, strict=True):
            answers[i] = text.strip()
    if full := room.count(0):
        limit = position_limit(model.config)
        print(f"{full:,} of {len(room):,} conversations fill the model's {limit} positions: no answer", file=sys.stderr)
    return answers


def report_answers(
    folder: Path,
    conversations: list[Conversation],
    test: Shard | None,
    context_length: int,
    start: int,
    trust_remote_code: bool,
) -> None:
    """Load `folder` through the Auto classes, answer the first questions through the pipeline, and score the test
    conversations if there are any.

    Args:
        conversations: their first questions are asked.
        test: conversations that nothing was chosen by.
        context_length: tokens of a row.
        start: the token that conversations begin with.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    talk = pipeline(
        "text-generation", model=model, tokenizer=tokenizer, device="cpu", trust_remote_code=trust_remote_code
    )
    console = SafeConsole()
    console.print(f"\nReloaded from {folder} and asked:\n")
    for conversation in conversations[:QUESTIONS]:
        turns = [message["role"] for message in conversation]
        asked = conversation[: turns.index("assistant")]
        if not asked:
            continue
        said = _generated(talk, asked, len(encode_prompt(tokenizer, asked)))
        console.print(f"  {asked[-1]['content']}")
        console.print(f"  → {said.strip()}\n", style="italic")
    if test is not None:
        rows = PackedRows.for_tokenizer(test, context_length, tokenizer, bos_token_id=start)
        figures = language_figures(Accelerator(cpu=True), model.eval(), rows, test, TEST_ROWS)
        console.print(
            f"On {len(test.ends)} conversations held out from all of the training: {figures['val_loss']:.4f} nats per "
            "token of the answers.",
            highlight=False,
        )


def report_completions(folder: Path, prompts: list[Any], trust_remote_code: bool) -> None:
    """Load `folder` through the Auto classes, and write on after the first prompts through the pipeline.

    Args:
        prompts: texts, or conversations to answer.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    go_on = pipeline(
        "text-generation", model=model, tokenizer=tokenizer, device="cpu", trust_remote_code=trust_remote_code
    )
    console = SafeConsole()
    console.print(f"\nReloaded from {folder}:\n")
    for prompt in prompts[:QUESTIONS]:
        said = _generated(go_on, prompt, len(encode_prompt(tokenizer, prompt)))
        asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        console.print(f"  {asked}")
        console.print(f"  → {said.strip()}\n", style="italic")


def _generated(generate: Any, prompt: Any, prompt_length: int) -> str:
    """What a pipeline generates after a prompt of `prompt_length` tokens, within the model's positions."""
    room = new_tokens_within(generate.model, prompt_length)
    if not room:
        return f"(no answer: {prompt_length} tokens fill the model's {position_limit(generate.model.config)} positions)"
    return str(generate(prompt, return_full_text=False, max_new_tokens=room)[0]["generated_text"])
