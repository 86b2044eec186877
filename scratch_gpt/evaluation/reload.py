"""Report on a published language model: load it as a user would, and print generated texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from ..data.batching.token_shards import Shard
from ..terminal import SafeConsole
from ..tokenization.special_tokens import choose_padding, first_token_id
from .positions import new_tokens_within
from .story_report import score_stories

STORIES, TEXTS = 40, 8  # generated texts
SHOWN = 2


def report_reloaded(
    folder: Path, shards: dict[str, Shard], is_stories: bool, trust_remote_code: bool
) -> tuple[Any, Any, list[str]]:
    """Load `folder` with the Auto classes, generate texts with the pipeline, and print them.

    Generated stories are also scored by the parser: the fractions of grammatical and of new sentences.

    Args:
        folder: a model directory.
        shards: the training text, for stories.
        is_stories: whether the model was trained on the built-in stories.
        trust_remote_code: whether to run code from the directory.

    Returns:
        The model, its tokenizer, and the generated texts.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    choose_padding(tokenizer)  # required for batches
    generator = pipeline(
        "text-generation", model=model, tokenizer=tokenizer, device="cpu", trust_remote_code=trust_remote_code
    )
    start = tokenizer.convert_ids_to_tokens(first_token_id(tokenizer))
    count = STORIES if is_stories else TEXTS
    # The prompt is <bos> itself, so the tokenizer must not add it again.
    options = {"max_new_tokens": max(1, new_tokens_within(model, 1)), "add_special_tokens": False}
    with torch.random.fork_rng():  # the random state of the caller is restored
        torch.manual_seed(0)
        results = generator([start] * count, batch_size=count, return_full_text=False, **options)
    texts = [result[0]["generated_text"].strip() for result in results]

    console = SafeConsole()
    console.print(f"\nReloaded from {folder}; generated texts:\n")
    for text in texts[:SHOWN]:
        console.print(f"  {text}\n", style="italic")
    if is_stories:
        scores = score_stories(texts, str(tokenizer.decode(shards["train"].tokens)))
        table = Table("sentences in", f"{count} stories", title=None)
        table.add_row("grammatical", f"{scores.parsed:.1%}")
        table.add_row("not in the training text", f"{scores.new:.1%}")
        console.print(table)
    return model, tokenizer, texts
