"""`scratch-gpt judge`: score the completions of a model with a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Device, Dtype, Trust, app, open_model
from .rewarded_completions import BatchSize, MaxNewTokens, PromptDataset, Reward, Seed, rewarded_completions
from .sampling import open_generator


@app.command()
def judge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of a GPT.")],
    reward: Reward,
    dataset: PromptDataset = "stories",
    num_prompts: Annotated[int, typer.Option("--num_prompts", min=1, help="Maximum number of prompts.")] = 500,
    reference: Annotated[
        str | None, typer.Option(help="Reference model: also estimate the KL divergence of MODEL from it.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the metrics to this file, as JSON.")] = None,
    max_new_tokens: MaxNewTokens = None,
    batch_size: BatchSize = 64,
    seed: Seed = 1000,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Sample one completion of each prompt and print the mean reward.

    Example:

    ```
    scratch-gpt judge runs/ppo --reward "re:glad|happy|proud" --reference runs/gpt
    ```
    """
    import json

    from rich.table import Table

    from ..evaluation.story_report import score_stories
    from ..rl import rollouts
    from ..terminal import SafeConsole

    policy, tokenizer = open_generator(model, trust_remote_code, device, dtype)
    reference_model = policy if reference is None else open_model(reference, trust_remote_code, device, dtype)[0]
    completions: list[Any] = []
    options = (reward, dataset, num_prompts, max_new_tokens, batch_size, seed, trust_remote_code, dtype)
    for batch in rewarded_completions(policy, tokenizer, *options):
        scoring = (batch, rollouts.pad_token_id_of(tokenizer), 1.0, batch_size)
        scores = rollouts.score(policy, *scoring)
        reference_scores = scores if reference_model is policy else rollouts.score(reference_model, *scoring)
        for rollout, (log_probs, _), (reference_log_probs, _) in zip(batch, scores, reference_scores, strict=True):
            rollout.log_probs, rollout.reference_log_probs = log_probs, reference_log_probs
        completions += batch
    metrics = rollouts.metrics_of(completions)
    rows = {"mean reward": f"{metrics['reward']:.4f}", "distinct word bigrams": f"{metrics['distinct_2']:.1%}"}
    rows["tokens per completion"] = f"{metrics['length']:.1f}"
    if dataset == "stories":
        metrics["parsed"] = score_stories([rollout.text for rollout in completions], "").parsed
        rows["sentences that parse"] = f"{metrics['parsed']:.1%}"
    reference_name = "itself" if reference is None else reference
    rows[f"perplexity under {reference_name}"] = f"{metrics['reference_perplexity']:.3f}"
    if reference is not None:
        rows[f"KL to {reference_name}, nats per completion"] = f"{metrics['kl']:.3f}"
    table = Table(f"{len(completions)} completions by {model}", "")
    for title, value in rows.items():
        table.add_row(title, value)
    SafeConsole().print(table)
    if output is not None:
        output.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
