"""`scratch-gpt pairs`: make preference pairs from completions and a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Device, Dtype, Trust, app
from .rewarded_completions import Asked, Batch, Longest, Rewarded, Seed, rewarded_completions
from .sampling import open_generator


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
    """Make preference pairs for `scratch-gpt train dpo`: of several completions of a prompt, one with the highest and
    one with the lowest reward. Of several such, the two closest in length are taken, so that length is not learned.

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
    policy, tokenizer = open_generator(model, trust_remote_code, device, dtype)
    ends = rollouts.end_token_ids(policy, tokenizer)
    asked = (reward, dataset, num_prompts, max_new_tokens, batch_size, seed, trust_remote_code, dtype)
    written, ended = 0, 0
    with replacing(output) as staged, staged.open("w", encoding="utf-8") as file:
        for group in rewarded_completions(policy, tokenizer, *asked, samples=samples):
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
            if not isinstance(best.original_prompt, str):
                sides = [[{"role": "assistant", "content": text}] for text in sides]
            file.write(json.dumps({"prompt": best.original_prompt, "chosen": sides[0], "rejected": sides[1]}) + "\n")
            written += 1
        if not written:
            why = "all completions of each prompt had the same reward" if ended else "no completion has an end of text"
            raise ScratchError(f"{why}: no pairs; ask for more --samples")
    print(f"{written:,} pairs in {output}")
