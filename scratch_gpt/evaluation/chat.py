"""Open a tuned model as its user will, ask it, and score what was held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, pipeline

from ..data.conversations import Conversation
from ..data.rows import Rows
from ..data.shards import Shard
from .language import language_figures

QUESTIONS, TEST_ROWS = 3, 8


def answer(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    conversations: list[Conversation],
    max_new_tokens: int = 60,
    batch_size: int = 64,
) -> list[str]:
    """The likeliest answer to each conversation, which ends with a question."""
    side, answers = tokenizer.padding_side, []
    tokenizer.padding_side = "left"
    try:
        for at in range(0, len(conversations), batch_size):
            inputs: Any = tokenizer.apply_chat_template(
                conversations[at : at + batch_size],
                add_generation_prompt=True,
                padding=True,
                return_tensors="pt",
                return_dict=True,
            )
            with torch.no_grad():
                tokens = model.generate(**inputs.to(model.device), max_new_tokens=max_new_tokens, do_sample=False)
            written = tokens[:, inputs["input_ids"].shape[1] :]
            answers += [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
    finally:
        tokenizer.padding_side = side
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
    talk = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    console = Console()
    console.print(f"\nReloaded from {folder} and asked:\n", highlight=False)
    for conversation in conversations[:QUESTIONS]:
        turns = [message["role"] for message in conversation]
        asked = conversation[: turns.index("assistant")]
        if not asked:
            continue
        said: Any = talk(asked, return_full_text=False)[0]["generated_text"]
        console.print(f"  {asked[-1]['content']}", highlight=False, markup=False)
        console.print(f"  → {said.strip()}\n", style="italic", highlight=False, markup=False)
    if test is not None:
        rows = Rows.for_tokenizer(test, context_length, tokenizer, bos_token_id=start)
        figures = language_figures(Accelerator(cpu=True), model.eval(), rows, test, TEST_ROWS)
        console.print(
            f"On {len(test.ends)} conversations held out from all of the training: {figures['val_loss']:.4f} nats a "
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
    go_on = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    console = Console()
    console.print(f"\nReloaded from {folder}:\n", highlight=False)
    for prompt in prompts[:QUESTIONS]:
        said: Any = go_on(prompt, return_full_text=False)[0]["generated_text"]
        asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        console.print(f"  {asked}", highlight=False, markup=False)
        console.print(f"  → {said.strip()}\n", style="italic", highlight=False, markup=False)
