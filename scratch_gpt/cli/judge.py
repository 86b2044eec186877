"""`scratch-gpt judge`: score the completions of a model with a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Device, Dtype, Trust, app, open_model
from .rewarded_completions import Asked, Batch, Longest, Rewarded, Seed, rewarded_completions
from .sampling import open_generator


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

    from ..evaluation.story_report import score_stories
    from ..rl import rollouts
    from ..terminal import SafeConsole

    policy, tokenizer = open_generator(model, trust_remote_code, device, dtype)
    other = policy if reference is None else open_model(reference, trust_remote_code, device, dtype)[0]
    found: list[Any] = []
    asked = (reward, dataset, num_prompts, max_new_tokens, batch_size, seed, trust_remote_code, dtype)
    for batch in rewarded_completions(policy, tokenizer, *asked):
        scoring = (batch, rollouts.pad_token_id_of(tokenizer), 1.0, batch_size)
        own = rollouts.score(policy, *scoring)
        far = own if other is policy else rollouts.score(other, *scoring)
        for rollout, (log_probs, _), (others, _) in zip(batch, own, far, strict=True):
            rollout.log_probs, rollout.reference_log_probs = log_probs, others
        found += batch
    figures = rollouts.metrics_of(found)
    rows = {"mean reward": f"{figures['reward']:.4f}", "distinct word bigrams": f"{figures['distinct_2']:.1%}"}
    rows["tokens per completion"] = f"{figures['length']:.1f}"
    if dataset == "stories":
        figures["parsed"] = score_stories([rollout.text for rollout in found], "").parsed
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
