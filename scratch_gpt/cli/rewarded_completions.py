"""Completions with their rewards, for `scratch-gpt judge` and `scratch-gpt pairs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .texts import report_skipped, report_texts

REWARD_HELP = (
    "Reward: 're:PATTERN' (1 where the regular expression matches), 'MODULE:FUNCTION', 'FILE.py:FUNCTION', or the "
    "probability of a label by a classifier, 'MODEL#LABEL'."
)


PROMPTS_HELP = "Prompts: 'stories', a text file with one prompt per line, a table, a folder, or a Hub dataset."


LONGEST_HELP = (
    "Maximum number of new tokens. Default: what the longest prompt leaves of the model's positions; prompts that "
    "leave less than a quarter of them are skipped."
)


Rewarded = Annotated[str, typer.Option(help=REWARD_HELP)]


Asked = Annotated[str, typer.Option(help=PROMPTS_HELP)]


Seed = Annotated[int, typer.Option(min=0, help="Random seed of the built-in prompts and of the sampling.")]


Longest = Annotated[int | None, typer.Option("--max_new_tokens", min=1, help=LONGEST_HELP)]


Batch = Annotated[int, typer.Option("--batch_size", min=1, help="Completions per batch.")]


def rewarded_completions(
    model: Any,
    tokenizer: Any,
    reward: str,
    dataset: str,
    num_prompts: int,
    max_new_tokens: int | None,
    batch_size: int,
    seed: int,
    trust_remote_code: bool,
    dtype: str,
    samples: int = 1,
) -> Iterator[list[Any]]:
    """Completions with their rewards: those of a prompt together or, if there is one of each, a batch together.

    The classifier of a reward runs on the model's device. Prompts that leave no room for a completion are
    counted on standard error and skipped.
    """
    import sys

    import torch
    from tqdm import tqdm

    from ..data.readers.prompts import open_prompts
    from ..data.readers.tables import ReadOptions
    from ..hub.loading import choose_dtype
    from ..rl import rewards, rollouts
    from ..tokenization.chat import encode_prompt

    opened = rewards.open_reward(reward, trust_remote_code, model.device, choose_dtype(dtype, model.device))
    options = ReadOptions(max_rows=num_prompts)
    source = open_prompts(dataset, options, num_prompts=num_prompts, seed=seed)
    prompts = list(source.read())
    report_skipped(source.name, source.count)
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    positions = model.config.max_position_embeddings
    kept, room = rollouts.fitting_prompts(ids, positions, max_new_tokens)
    report_texts(tokenizer, [prompt for prompt in prompts if isinstance(prompt, str)])
    if skipped := len(ids) - len(kept):
        needed = positions // 4 if max_new_tokens is None else max_new_tokens
        print(
            f"{skipped:,} of {len(ids):,} prompts are skipped: they leave less than {needed} of the model's "
            f"{positions} positions",
            file=sys.stderr,
        )
        prompts, ids = [prompts[number] for number in kept], [ids[number] for number in kept]
    torch.manual_seed(seed)
    at_once = max(1, batch_size // samples)
    for at in tqdm(range(0, len(prompts), at_once), unit=" batches", leave=False, disable=None):
        chosen = [i for i in range(at, min(at + at_once, len(prompts))) for _ in range(samples)]
        found = rollouts.generate(model, tokenizer, [ids[i] for i in chosen], room, 1.0, batch_size)
        asked = [prompts[i] for i in chosen]
        given = rewards.judge(opened, asked, [rollout.text for rollout in found])
        for rollout, prompt, value in zip(found, asked, given, strict=True):
            rollout.original_prompt, rollout.reward = prompt, value
        if samples == 1:
            yield found
        else:
            yield from (found[i : i + samples] for i in range(0, len(found), samples))
