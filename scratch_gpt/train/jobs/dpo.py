"""GPTs: learning from preferences."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...data.preferences import open_preferences
from ...errors import ScratchError
from ...evaluation.chat import report_completions
from ...hub import opening
from .. import setup
from ..policy_arguments import PolicyModelArguments
from ..preference_arguments import PreferenceArguments, PreferenceDataArguments
from ..preferences import EncodedPairs, Preferences
from ..run import Job

TYPES = (PreferenceDataArguments, PolicyModelArguments, PreferenceArguments)


def prepare(
    data: PreferenceDataArguments,
    model_args: PolicyModelArguments,
    args: PreferenceArguments,
    resume_from: Path | None,
) -> Job:
    """Read the pairs, open policy and reference; what can't be trained is refused before anything is written."""
    if model_args.init_from is None:
        raise ScratchError("there is nothing to tune: name a model with --init_from")
    if data.dataset is None:
        raise ScratchError("there is nothing to learn: name pairs with --dataset ('scratch-gpt pairs' makes them)")
    wrong = [] if args.beta > 0 else [f"beta is {args.beta}, want more than 0"]
    if not 0 < data.validation_fraction < 1:
        wrong.append(f"validation_fraction is {data.validation_fraction}, want a share between 0 and 1")
    if wrong:
        raise ScratchError("; ".join(wrong))
    name, pairs = open_preferences(
        data.dataset, config=data.dataset_config, split=data.dataset_split, max_rows=data.max_pairs
    )
    held_out = round(len(pairs) * data.validation_fraction)
    if not 0 < held_out < len(pairs):
        raise ScratchError(f"{name} has {len(pairs)} pairs, too few to hold out a share of {data.validation_fraction}")

    accelerator = setup.start(args)
    dropouts = dict.fromkeys(setup.DROPOUTS, model_args.dropout)
    with accelerator.main_process_first():
        origin = resume_from or model_args.init_from
        tokenizer = opening.open_tokenizer(str(origin))
        reference = opening.load_model(model_args.init_from, model_args.trust_remote_code, "causal")
        policy = opening.load_model(origin, model_args.trust_remote_code, "causal", **dropouts)
    opening.check_vocabulary(tokenizer, policy.config.vocab_size)
    longest = policy.config.max_position_embeddings
    order = np.random.default_rng((args.seed, len(pairs))).permutation(len(pairs))
    parts = {"validation": [pairs[i] for i in order[:held_out]], "train": [pairs[i] for i in order[held_out:]]}
    encoded = {split: EncodedPairs(part, tokenizer, longest) for split, part in parts.items()}
    for split, part in encoded.items():
        if not len(part):
            raise ScratchError(f"every {split} pair of {name} is longer than the model's {longest} tokens")
    for model in (policy, reference):
        setup.choose_attention(model, accelerator.device, longest)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    reference = reference.to(accelerator.device).eval()
    task = Preferences(accelerator, encoded, reference, pad, args.tokens_per_batch, args.seed, args.beta)

    style = type(policy).__name__
    first = parts["validation"][0].prompt
    facts = {
        "task": "preferences",
        "title": f"{style} tuned on {name}",
        "style": style,
        "dataset": name,
        "license": data.dataset_license,
        "prompt": first if isinstance(first, str) else first[-1]["content"],
        "context_length": longest,
        **{split: {"pairs": len(part), "long": part.long} for split, part in encoded.items()},
    }

    def report(folder: Path) -> None:
        report_completions(folder, [pair.prompt for pair in parts["validation"]], model_args.trust_remote_code)

    return Job(accelerator, policy, tokenizer, task, args, facts, report)
