"""GPTs: learning from preferences."""

from __future__ import annotations

from pathlib import Path

from accelerate import DistributedType

from ...data.conversations import split_conversations
from ...data.preferences import open_preferences
from ...errors import ScratchError
from ...evaluation.chat import report_completions
from ...hub import opening
from ...rl.rollouts import pad_of
from .. import setup
from ..policy_arguments import PolicyModelArguments
from ..preference_arguments import PreferenceArguments, PreferenceDataArguments
from ..preferences import EncodedPairs, Preferences
from ..run import Job
from .ppo import open_policy

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
    parts = split_conversations(pairs, {"validation": data.validation_fraction}, args.seed)
    if not all(parts.values()):
        raise ScratchError(f"{name} has {len(pairs)} pairs, too few to hold out a share of {data.validation_fraction}")

    accelerator = setup.start(args)
    if accelerator.distributed_type == DistributedType.FSDP:
        raise ScratchError(
            "processes have different numbers of pairs to validate on, which FSDP can't: use data parallelism"
        )
    with accelerator.main_process_first():
        tokenizer = opening.open_tokenizer(str(resume_from or model_args.init_from))
        policy, reference = open_policy(model_args, resume_from)
    opening.check_vocabulary(tokenizer, policy.config.vocab_size)
    longest = policy.config.max_position_embeddings
    encoded = {split: EncodedPairs(part, tokenizer, longest) for split, part in parts.items()}
    for split, part in encoded.items():
        if not len(part):
            raise ScratchError(f"every {split} pair of {name} is longer than the model's {longest} tokens")
    for model in (policy, reference):
        setup.choose_attention(model, accelerator.device, longest)
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
        **{split: {"pairs": len(part), "long": part.long} for split, part in encoded.items()},
    }

    def report(folder: Path) -> None:
        report_completions(folder, [pair.prompt for pair in parts["validation"]], model_args.trust_remote_code)

    return Job(accelerator, policy, tokenizer, task, args, facts, report)
