"""GPTs: learning from preferences."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...data.corpus import Corpus
from ...data.preferences import Preference, open_preferences
from ...data.tables import ReadOptions
from ...errors import ScratchError
from ...evaluation.chat import report_completions
from ...hub import opening
from ...rl.rollouts import pad_of
from ..data_setup import (
    ReadExamples,
    check_same_data,
    open_parts,
    read_examples,
    report_data,
    unknown_share,
)
from ..engine import startup
from ..engine.run import Job
from ..engine.task import check_sharding
from ..performance.attention_choice import choose_attention
from ..policy_arguments import PolicyModelArguments
from ..preference_arguments import PreferenceArguments, PreferenceDataArguments
from ..preferences import EncodedPairs, Preferences
from .ppo import open_policy

TYPES = (PreferenceDataArguments, PolicyModelArguments, PreferenceArguments)


def read(data: PreferenceDataArguments, seed: int) -> ReadExamples[Preference]:
    """The pairs of each split; those of one prompt are held out together.

    Raises:
        ScratchError: there is no such data, or nothing is left for a split.
    """
    if not data.dataset:
        raise ScratchError("there is nothing to learn: name pairs with --dataset ('scratch-gpt pairs' makes them)")

    def open_one(dataset: str, options: ReadOptions, validation: bool) -> Corpus[Preference]:
        return open_preferences(dataset, options)

    def texts(pair: Preference) -> list[str]:
        messages = [m for side in pair for m in ([side] if isinstance(side, str) else side)]
        return [m if isinstance(m, str) else m["content"] for m in messages]

    return read_examples(
        open_parts(data, data.max_pairs, open_one),
        {"validation": data.validation_fraction},
        data.split_seed,
        key=lambda pair: repr(pair.prompt),
        row=lambda pair: dict(pair._asdict()),
        texts=texts,
    )


def prepare(
    data: PreferenceDataArguments,
    model_args: PolicyModelArguments,
    args: PreferenceArguments,
    resume_from: Path | None,
) -> Job:
    """Read the pairs, open policy and reference; what can't be trained is refused before anything is written."""
    if model_args.init_from is None:
        raise ScratchError("there is nothing to tune: name a model with --init_from")
    if not args.beta > 0:
        raise ScratchError(f"beta is {args.beta}, want more than 0")
    found = read(data, args.seed)
    check_same_data(found.summary.fingerprint, args)
    parts, name = found.parts, found.summary.name

    accelerator = startup.start(args)
    check_sharding(Preferences, accelerator)
    with accelerator.main_process_first():
        origin = str(resume_from or model_args.init_from)
        tokenizer = opening.open_tokenizer(origin, trust_remote_code=model_args.trust_remote_code)
        policy, reference = open_policy(model_args, resume_from)
    opening.check_vocabulary(tokenizer, policy.config.vocab_size)
    longest = policy.config.max_position_embeddings
    encoded = {split: EncodedPairs(part, tokenizer, longest) for split, part in parts.items()}
    for split, part in encoded.items():
        if not len(part):
            raise ScratchError(f"every {split} pair of {name} is longer than the model's {longest} tokens")
        found.skip(split, f"longer than the model's {longest} tokens", part.long)
    ids = [rollout.prompt + rollout.completion for rollout in encoded["train"].chosen + encoded["train"].rejected]
    found.summary.unknown_share = unknown_share(tokenizer, np.concatenate(ids))
    report_data(found.summary, accelerator.is_main_process)
    for model in (policy, reference):
        choose_attention(model, accelerator.device, longest)
    reference = reference.to(accelerator.device).eval()
    task = Preferences(accelerator, encoded, reference, pad_of(tokenizer), args.tokens_per_batch, args.seed, args.beta)

    style = type(policy).__name__
    first = parts["validation"][0].prompt
    facts = {
        "task": "preferences",
        "title": f"{style} tuned on {name}",
        "style": style,
        "dataset": name,
        "license": data.dataset_license,
        "prompt": first if isinstance(first, str) else first[-1]["content"],
        "chat": not isinstance(first, str),
        "context_length": longest,
        "data": found.summary.record(),
        **{split: {"pairs": len(part), "long": part.long} for split, part in encoded.items()},
    }

    def report(folder: Path) -> None:
        report_completions(folder, [pair.prompt for pair in parts["validation"]], model_args.trust_remote_code)

    return Job(accelerator, policy, tokenizer, task, args, facts, report)
