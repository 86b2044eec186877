"""`scratch-gpt judge` and `pairs`: completions of a model, scored by a reward function."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from . import Device, Dtype, Trust, app, open_model
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


@app.command()
def judge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of a GPT.")],
    reward: Rewarded,
    dataset: Asked = "stories",
    num_prompts: Annotated[int, typer.Option("--num_prompts", min=1, help="Maximum number of prompts.")] = 500,
    reference: Annotated[
        str | None, typer.Option(help="Reference model: also estimate the KL divergence of MODEL from it.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the metrics to this file, as JSON.")] = None,
    max_new_tokens: Longest = None,
    batch_size: Batch = 64,
    seed: Seed = 1000,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Sample one completion of each prompt and print the mean reward.

    Example: `scratch-gpt judge runs/ppo --reward "re:glad|happy|proud" --reference runs/gpt`
    """
    import json

    from rich.table import Table

    from ..evaluation.stories import judge_stories
    from ..rl import rollouts
    from ..terminal import SafeConsole

    policy, tokenizer = _open_writer(model, trust_remote_code, device, dtype)
    other = policy if reference is None else open_model(reference, trust_remote_code, device, dtype)[0]
    found: list[Any] = []
    asked = (reward, dataset, num_prompts, max_new_tokens, batch_size, seed, trust_remote_code, dtype)
    for batch in _judged(policy, tokenizer, *asked):
        scoring = (batch, rollouts.pad_of(tokenizer), 1.0, batch_size)
        own = rollouts.score(policy, *scoring)
        far = own if other is policy else rollouts.score(other, *scoring)
        for rollout, (log_probs, _), (others, _) in zip(batch, own, far, strict=True):
            rollout.log_probs, rollout.reference_log_probs = log_probs, others
        found += batch
    figures = rollouts.figures_of(found)
    rows = {"mean reward": f"{figures['reward']:.4f}", "distinct word bigrams": f"{figures['distinct_2']:.1%}"}
    rows["tokens per completion"] = f"{figures['length']:.1f}"
    if dataset == "stories":
        figures["parsed"] = judge_stories([rollout.text for rollout in found], "").parsed
        rows["sentences that parse"] = f"{figures['parsed']:.1%}"
    of = "itself" if reference is None else reference
    rows[f"perplexity under {of}"] = f"{figures['reference_perplexity']:.3f}"
    if reference is not None:
        rows[f"KL to {of}, nats per completion"] = f"{figures['kl']:.3f}"
    table = Table(f"{len(found)} completions by {model}", "")
    for title, value in rows.items():
        table.add_row(title, value)
    SafeConsole().print(table)
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


@app.command()
def pairs(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of a GPT.")],
    reward: Rewarded,
    output: Annotated[Path, typer.Option(help="Write the pairs to this file, as JSON lines.")],
    dataset: Asked = "stories",
    num_prompts: Annotated[int, typer.Option("--num_prompts", min=1, help="Maximum number of prompts.")] = 2000,
    samples: Annotated[int, typer.Option(min=2, help="Completions of each prompt.")] = 4,
    max_new_tokens: Longest = None,
    batch_size: Batch = 64,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Make preference pairs for finetune_dpo.py: of several completions of a prompt, one with the highest and one with
    the lowest reward. Where there are several such, the two closest in length are taken, so that length is not learned.

    A prompt whose completions all have the same reward makes no pair; completions without an end of text are ignored.

    Example: `scratch-gpt pairs runs/gpt --reward "re:glad|happy|proud" --output pairs.jsonl`
    """
    import json
    from itertools import product

    from ..atomic_files import replacing
    from ..errors import ScratchError
    from ..rl import rollouts

    if not output.parent.is_dir():
        raise ScratchError(f"no such folder: {output.parent}")
    policy, tokenizer = _open_writer(model, trust_remote_code, device, dtype)
    ends = rollouts.ends_of(policy, tokenizer)
    asked = (reward, dataset, num_prompts, max_new_tokens, batch_size, seed, trust_remote_code, dtype)
    written, ended = 0, 0
    with replacing(output) as staged, staged.open("w", encoding="utf-8") as file:
        for group in _judged(policy, tokenizer, *asked, samples=samples):
            whole = [rollout for rollout in group if rollout.completion[-1] in ends]
            ended += len(whole)
            if not whole:
                continue
            highest, lowest = (extreme(rollout.reward for rollout in whole) for extreme in (max, min))
            if highest == lowest:
                continue
            good, bad = ([r for r in whole if r.reward == extreme] for extreme in (highest, lowest))
            best, worst = min(product(good, bad), key=lambda p: abs(len(p[0].completion) - len(p[1].completion)))
            sides: list[Any] = [best.text, worst.text]
            if not isinstance(best.asked, str):
                sides = [[{"role": "assistant", "content": text}] for text in sides]
            file.write(json.dumps({"prompt": best.asked, "chosen": sides[0], "rejected": sides[1]}) + "\n")
            written += 1
        if not written:
            why = "all completions of each prompt had the same reward" if ended else "no completion has an end of text"
            raise ScratchError(f"{why}: no pairs; ask for more --samples")
    print(f"{written:,} pairs in {output}")


def _open_writer(name: str, trust_remote_code: bool, device: str, dtype: str) -> Any:
    """A model that continues texts, and its tokenizer; arguments as of `open_model`."""
    from ..errors import ScratchError

    model, tokenizer = open_model(name, trust_remote_code, device, dtype)
    if model.config.is_encoder_decoder or not model.can_generate():
        raise ScratchError(f"a {type(model).__name__} generates no text")
    return model, tokenizer


def _judged(
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

    from ..data.prompts import open_prompts
    from ..data.tables import ReadOptions
    from ..hub.opening import choose_dtype
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
        found = rollouts.write(model, tokenizer, [ids[i] for i in chosen], room, 1.0, batch_size)
        asked = [prompts[i] for i in chosen]
        given = rewards.judge(opened, asked, [rollout.text for rollout in found])
        for rollout, prompt, value in zip(found, asked, given, strict=True):
            rollout.asked, rollout.reward = prompt, value
        if samples == 1:
            yield found
        else:
            yield from (found[i : i + samples] for i in range(0, len(found), samples))
