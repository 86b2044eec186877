"""Completions with their rewards, for `scratch-gpt judge` and `scratch-gpt pairs`, and the options of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .texts import report_skipped, report_texts

REWARD_HELP = (
    "Reward: 're:PATTERN' (1 if the regular expression matches), 'MODULE:FUNCTION', 'FILE.py:FUNCTION', or the "
    "probability that a classifier assigns to a label, 'MODEL#LABEL'."
)
PROMPTS_HELP = "Prompts: 'stories', a text file with one prompt per line, a table, a folder, or a Hub dataset."
MAX_NEW_TOKENS_HELP = (
    "Maximum number of new tokens. Default: the positions of the model that the longest prompt leaves; prompts that "
    "leave less than a quarter of the positions are skipped."
)

Reward = Annotated[str, typer.Option(help=REWARD_HELP)]
PromptDataset = Annotated[str, typer.Option(help=PROMPTS_HELP)]
Seed = Annotated[int, typer.Option(min=0, help="Random seed of the built-in prompts and of the sampling.")]
MaxNewTokens = Annotated[int | None, typer.Option("--max_new_tokens", min=1, help=MAX_NEW_TOKENS_HELP)]
BatchSize = Annotated[int, typer.Option("--batch_size", min=1, help="Completions per batch.")]


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
    """Sample completions of prompts and score them with a reward.

    Prompts that leave no room for a completion are skipped, and counted on standard error.

    Args:
        model: in evaluation mode; a classifier as reward runs on its device.
        tokenizer: of the model.
        reward: as the option `--reward`.
        dataset: the prompts, as the option `--dataset`.
        num_prompts: maximum number of prompts.
        max_new_tokens: as the option `--max_new_tokens`.
        batch_size: completions per batch.
        seed: of the built-in prompts and of the sampling.
        trust_remote_code: whether to run the code that a classifier's checkpoint contains.
        dtype: data type of a classifier's weights, as the option `--dtype`.
        samples: completions of each prompt.

    Yields:
        The rollouts of one prompt or, with one sample of each, of one batch of prompts.
    """
    import sys

    import numpy as np
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
    kept, max_length = rollouts.fitting_prompts(ids, positions, max_new_tokens)
    report_texts(tokenizer, [prompt for prompt in prompts if isinstance(prompt, str)])
    if skipped := len(ids) - len(kept):
        needed = positions // 4 if max_new_tokens is None else max_new_tokens
        print(
            f"{skipped:,} of {len(ids):,} prompts are skipped: they leave less than {needed} of the model's "
            f"{positions} positions",
            file=sys.stderr,
        )
        prompts, ids = [prompts[number] for number in kept], [ids[number] for number in kept]
    seeds = np.random.SeedSequence(seed).generate_state(len(prompts) * samples).tolist()
    prompts_per_batch = max(1, batch_size // samples)
    for start in tqdm(range(0, len(prompts), prompts_per_batch), unit=" batches", leave=False, disable=None):
        chosen = [i for i in range(start, min(start + prompts_per_batch, len(prompts))) for _ in range(samples)]
        own = seeds[start * samples : start * samples + len(chosen)]
        batch = rollouts.generate(model, tokenizer, [ids[i] for i in chosen], max_length, 1.0, batch_size, own)
        batch_prompts = [prompts[i] for i in chosen]
        values = rewards.judge(opened, batch_prompts, [rollout.text for rollout in batch])
        for rollout, prompt, value in zip(batch, batch_prompts, values, strict=True):
            rollout.original_prompt, rollout.reward = prompt, value
        if samples == 1:
            yield batch
        else:
            yield from (batch[i : i + samples] for i in range(0, len(batch), samples))
