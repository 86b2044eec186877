"""`scratch-gpt pairs`: make preference pairs from completions and a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Device, Dtype, Trust, app
from .rewarded_completions import BatchSize, MaxNewTokens, PromptDataset, Reward, Seed, rewarded_completions
from .sampling import open_generator


@app.command()
def pairs(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of a GPT.")],
    reward: Reward,
    output: Annotated[Path, typer.Option(help="Write the pairs to this file, as JSON lines.")],
    dataset: PromptDataset = "stories",
    num_prompts: Annotated[int, typer.Option("--num_prompts", min=1, help="Maximum number of prompts.")] = 2000,
    samples: Annotated[int, typer.Option(min=2, help="Completions of each prompt.")] = 4,
    max_new_tokens: MaxNewTokens = None,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Make preference pairs for `scratch-gpt train dpo`: of several completions of a prompt, one with the highest and
    one with the lowest reward. Ties are broken by the smallest difference in length, to avoid a length bias.

    A prompt whose completions all have the same reward yields no pair; completions without an end of text are ignored.

    Example:

    ```
    scratch-gpt pairs runs/gpt --reward "re:glad|happy|proud" --output pairs.jsonl
    ```
    """
    import json
    from itertools import product

    from ..atomic_files import replacing
    from ..errors import ScratchError
    from ..rl import rollouts

    if not output.parent.is_dir():
        raise ScratchError(f"no such folder: {output.parent}")
    policy, tokenizer = open_generator(model, trust_remote_code, device, dtype)
    ends = rollouts.end_token_ids(policy, tokenizer)
    options = (reward, dataset, num_prompts, max_new_tokens, batch_size, seed, trust_remote_code, dtype)
    written, num_complete = 0, 0
    with replacing(output) as staged, staged.open("w", encoding="utf-8") as file:
        for group in rewarded_completions(policy, tokenizer, *options, samples=samples):
            complete = [rollout for rollout in group if rollout.completion[-1] in ends]
            num_complete += len(complete)
            if not complete:
                continue
            highest, lowest = (extreme(rollout.reward for rollout in complete) for extreme in (max, min))
            if highest == lowest:
                continue
            good, bad = ([r for r in complete if r.reward == extreme] for extreme in (highest, lowest))
            best, worst = min(product(good, bad), key=lambda p: abs(len(p[0].completion) - len(p[1].completion)))
            sides: list[Any] = [best.text, worst.text]
            if not isinstance(best.original_prompt, str):
                sides = [[{"role": "assistant", "content": text}] for text in sides]
            file.write(json.dumps({"prompt": best.original_prompt, "chosen": sides[0], "rejected": sides[1]}) + "\n")
            written += 1
        if not written:
            same_reward = "all completions of each prompt had the same reward"
            reason = same_reward if num_complete else "no completion has an end of text"
            raise ScratchError(f"no pairs: {reason}; increase --samples")
    print(f"{written:,} pairs in {output}")
