"""GPTs: learning from rewards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ...data.corpus import Corpus
from ...data.prompts import Prompt, open_prompts
from ...data.tables import ReadOptions
from ...errors import ScratchError
from ...evaluation.chat import report_completions
from ...hub import opening
from ...models.configuration_scratch_gpt import ScratchGPTConfig
from ...rl import rollouts
from ...rl.rewards import open_reward
from ...rl.value_head import add_value_head, without_value_head
from ...tokenization.chat import encode_prompt
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
from ..policy_arguments import PolicyArguments, PolicyModelArguments, PromptArguments, check_policy
from ..policy_gradient import PolicyGradient

TYPES = (PromptArguments, PolicyModelArguments, PolicyArguments)


def read(data: PromptArguments, seed: int) -> ReadExamples[Prompt]:
    """The prompts of each split.

    Raises:
        ScratchError: there is no such data, or too few prompts.
    """
    if data.validation_prompts < 1:
        raise ScratchError(f"validation_prompts is {data.validation_prompts}, want at least 1")

    def open_one(dataset: str, options: ReadOptions, validation: bool) -> Corpus[Prompt]:
        if validation:
            options = replace(options, max_rows=data.validation_prompts)
        own = {} if dataset == "stories" else {"prompt_column": data.prompt_column}
        return open_prompts(dataset, options, num_prompts=data.num_prompts, seed=seed + validation, **own)

    train, validation = open_parts(data, data.max_prompts, open_one)
    held_out = 0.0
    if validation is None:
        there = sum(1 for _ in train.read())
        if data.validation_prompts >= there:
            raise ScratchError(
                f"{train.name} has {there} prompts, and validation_prompts is {data.validation_prompts}: want fewer "
                "than there are"
            )
        held_out = data.validation_prompts / there
    return read_examples(
        (train, validation),
        {"validation": held_out},
        data.split_seed,
        key=repr,
        row=lambda prompt: {"prompt": prompt},
        texts=lambda prompt: [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt],
    )


def fitting_prompts(
    found: ReadExamples[Prompt], tokenizer: PreTrainedTokenizerFast, positions: int, max_new_tokens: int | None
) -> dict[str, list[Prompt]]:
    """The prompts of each split that leave room for a completion; the others are counted as skipped.

    Args:
        positions: of the model, in tokens.
        max_new_tokens: that a completion may have (see `rollouts.fitting_prompts`).

    Raises:
        ScratchError: too many prompts are too long, or all of a split.
    """
    parts, unknown = {}, 0.0
    for split, prompts in found.parts.items():
        ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
        kept, _ = rollouts.fitting_prompts(ids, positions, max_new_tokens)
        parts[split] = [prompts[number] for number in kept]
        reason = f"a prompt that leaves too few of the model's {positions} positions"
        found.skip(split, reason, len(prompts) - len(kept))
        if split == "train":
            unknown = unknown_share(tokenizer, np.concatenate([np.asarray(own) for own in ids]))
    found.summary.unknown_share = unknown
    return parts


def prepare(
    data: PromptArguments, model_args: PolicyModelArguments, args: PolicyArguments, resume_from: Path | None
) -> Job:
    """Read the prompts, open policy, reference and reward; what can't be trained is refused before anything is
    written."""
    check_policy(args)
    if model_args.init_from is None:
        raise ScratchError("there is nothing to tune: name a model with --init_from")
    if data.reward is None:
        raise ScratchError("nothing is rewarded: name a --reward, such as 're:(glad|happy|proud)' (see --help)")
    found = read(data, args.seed)
    check_same_data(found.summary.fingerprint, args)
    name = found.summary.name

    accelerator = startup.start(args)
    check_sharding(PolicyGradient, accelerator)
    args = args.settled_for(accelerator.num_processes)
    reward = open_reward(data.reward, model_args.trust_remote_code, accelerator.device)
    with accelerator.main_process_first():
        origin = str(resume_from or model_args.init_from)
        tokenizer = opening.open_tokenizer(origin, trust_remote_code=model_args.trust_remote_code)
        policy, reference = open_policy(model_args, resume_from)
    opening.check_vocabulary(tokenizer, policy.config.vocab_size)
    parts = fitting_prompts(found, tokenizer, policy.config.max_position_embeddings, args.max_new_tokens)
    report_data(found.summary, accelerator.is_main_process)
    if args.algorithm == "ppo":
        add_value_head(policy)
    of_stories = found.summary.built_in
    task = PolicyGradient(accelerator, policy, reference, tokenizer, reward, parts, args, of_stories)
    for model in (policy, reference):
        choose_attention(model, accelerator.device, policy.config.max_position_embeddings)

    style = type(policy).__name__
    first = parts["validation"][0]
    facts = {
        "task": "rewards",
        "title": f"{style} tuned on {name} by {args.algorithm}",
        "style": style,
        "dataset": name,
        "rewarded": data.reward if data.reward.startswith("re:") else Path(data.reward).name,
        "license": "apache-2.0" if of_stories else data.dataset_license,
        "prompt": first if isinstance(first, str) else first[-1]["content"],
        "chat": not isinstance(first, str),
        "parameters": reference.num_parameters(),
        "context_length": policy.config.max_position_embeddings,
        "data": found.summary.record(),
        **{split: {"prompts": len(part)} for split, part in parts.items()},
    }

    def report(folder: Path) -> None:
        report_completions(folder, parts["validation"], model_args.trust_remote_code)

    return Job(accelerator, policy, tokenizer, task, args, facts, report, published=without_value_head)


def open_policy(args: PolicyModelArguments, resume_from: Path | None) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The model to tune, and the model as it was.

    Raises:
        ScratchError: it is none of our GPTs.
    """
    assert args.init_from is not None
    reference = opening.load_model(args.init_from, args.trust_remote_code, "causal")
    if reference.config.model_type != ScratchGPTConfig.model_type:
        raise ScratchError(
            f"{args.init_from} is a {reference.config.model_type} model: turn it into ours with 'scratch-gpt import' "
            "first"
        )
    dropouts = startup.chosen_dropouts(args)
    policy = opening.load_model(resume_from or args.init_from, args.trust_remote_code, "causal", **dropouts)
    return policy, reference
