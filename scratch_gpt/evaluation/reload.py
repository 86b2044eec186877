"""Open a finished directory as its user will, and show what comes out."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline, set_seed

from ..data.batching.token_shards import Shard
from ..terminal import SafeConsole
from .story_report import judge_stories

STORIES = 40
TEXTS = 2


def report_reloaded(folder: Path, shards: dict[str, Shard], is_stories: bool, trust_remote_code: bool) -> None:
    """Load `folder` through the Auto classes, write with it through the pipeline, and print the result.

    Stories are judged by the parser: how many sentences belong to the language, and how many are new.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # batches need one
    write = pipeline(
        "text-generation", model=model, tokenizer=tokenizer, device="cpu", trust_remote_code=trust_remote_code
    )
    set_seed(0)
    start = tokenizer.bos_token or tokenizer.eos_token
    count = STORIES if is_stories else TEXTS
    # The prompt is <bos> itself, so that the tokenizer's template must not add it once more.
    results = write([start] * count, batch_size=count, add_special_tokens=False, return_full_text=False)
    texts = [result[0]["generated_text"].strip() for result in results]

    console = SafeConsole()
    console.print(f"\nReloaded from {folder} and asked to write:\n")
    for text in texts[:TEXTS]:
        console.print(f"  {text}\n", style="italic")
    if is_stories:
        verdict = judge_stories(texts, str(tokenizer.decode(shards["train"].tokens)))
        table = Table("of the sentences in", f"{count} stories", title=None)
        table.add_row("belong to the language", f"{verdict.parsed:.1%}")
        table.add_row("are not in the training text", f"{verdict.new:.1%}")
        console.print(table)
