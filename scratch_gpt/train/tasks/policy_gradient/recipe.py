"""Tune a GPT with a reward on its completions: by PPO, REINFORCE or GRPO.

    scratch-gpt train policy_gradient --init_from runs/gpt --reward "re:glad|happy|proud"
    scratch-gpt train policy_gradient --init_from runs/gpt --reward rewards.py:short --dataset PROMPTS.txt
    scratch-gpt train policy_gradient --init_from runs/gpt --reward runs/sentiment#positive --algorithm grpo

The output directory contains weights, config, tokenizer, model code, card and plots. The value head that PPO trains
stays in the run's checkpoints.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ....data.readers.corpus import Corpus
from ....data.readers.prompts import Prompt, open_prompts
from ....data.readers.tables import ReadOptions
from ....errors import ScratchError
from ....evaluation.chat import report_completions
from ....hub import loading
from ....rl import rollouts
from ....rl.rewards import open_reward
from ....rl.value_head import add_value_head, without_value_head
from ....tokenization.chat import encode_prompt
from ...engine.recipe import DataPreview, Job, Recipe
from ...engine.startup import start
from ...performance.attention_choice import choose_attention
from .. import common
from ..common import ReadExamples
from ..initial_model import load_chat_tokenizer
from ..policy_arguments import PolicyModelArguments
from ..policy_model import check_policy, load_policy, stop_at_end_of_turn
from .arguments import ARGUMENTS, PolicyArguments, PromptArguments
from .card import CARD
from .task import PolicyGradient


def prepare(
    data: PromptArguments, model_args: PolicyModelArguments, args: PolicyArguments, resume_from: Path | None
) -> Job:
    """Prepare a run; see `Recipe.prepare`.

    Args:
        data: data arguments.
        model_args: model arguments.
        args: training arguments.
        resume_from: checkpoint to resume from, or None.
    """
    found = _read(data, model_args, args)
    accelerator = start(args, model_args, resume_from)
    args = args.resolve_defaults(accelerator.num_processes)
    assert data.reward is not None
    reward = open_reward(data.reward, model_args.trust_remote_code, accelerator.device)
    with accelerator.main_process_first():
        tokenizer = load_chat_tokenizer(model_args, resume_from)
        policy, reference = _load_models(model_args, tokenizer, resume_from)
    prompts = _encode(accelerator, found, policy, tokenizer, args)
    return _make_job(accelerator, policy, reference, tokenizer, reward, prompts, found, data, model_args, args)


def _read(data: PromptArguments, model_args: PolicyModelArguments, args: PolicyArguments) -> ReadExamples[Prompt]:
    """Read the prompts of each split."""
    check_policy(model_args)
    if data.reward is None:
        raise ScratchError("there is no reward: give one with --reward, such as 're:(glad|happy|proud)' (see --help)")
    found = read_prompts(data, args.seed)
    common.check_same_data(found.summary.fingerprint, args)
    return found


def read_prompts(data: PromptArguments, seed: int) -> ReadExamples[Prompt]:
    """Read the prompts of each split.

    Raises:
        ScratchError: the data is missing, or there are too few prompts.
    """

    def open_one(dataset: str, options: ReadOptions, validation: bool) -> Corpus[Prompt]:
        if validation:
            options = replace(options, max_rows=data.validation_prompts)
        own = {} if dataset == "stories" else {"prompt_column": data.prompt_column}
        return open_prompts(dataset, options, num_prompts=data.num_prompts, seed=seed + validation, **own)

    train, validation = common.open_parts(data, data.max_prompts, open_one)
    held_out = 0.0
    if validation is None:
        total = sum(1 for _ in train.read())
        if data.validation_prompts >= total:
            raise ScratchError(
                f"validation_prompts is {data.validation_prompts}, want fewer than the {total} prompts of {train.name}"
            )
        held_out = data.validation_prompts / total
    return common.read_examples(
        (train, validation),
        {"validation": held_out},
        data.split_seed,
        key=repr,
        row=lambda prompt: {"prompt": prompt},
        texts=lambda prompt: [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt],
    )


def _load_models(
    model_args: PolicyModelArguments, tokenizer: PreTrainedTokenizerFast, resume_from: Path | None
) -> tuple[Any, PreTrainedModel]:
    """Load the policy and the reference model."""
    policy, reference = load_policy(model_args, resume_from)
    loading.check_vocabulary(tokenizer, policy.config.vocab_size)
    loading.match_padding(policy, tokenizer)
    return policy, reference


def _encode(
    accelerator: Accelerator,
    found: ReadExamples[Prompt],
    policy: Any,
    tokenizer: PreTrainedTokenizerFast,
    args: PolicyArguments,
) -> dict[str, list[Prompt]]:
    """Select the prompts of each split that fit into the model's positions."""
    prompts = fitting_prompts(found, tokenizer, policy.config.max_position_embeddings, args.max_new_tokens)
    common.report_data(found.summary, accelerator.is_main_process)
    if not isinstance(prompts["train"][0], str):
        stop_at_end_of_turn(policy, tokenizer)
    return prompts


def fitting_prompts(
    found: ReadExamples[Prompt], tokenizer: PreTrainedTokenizerFast, positions: int, max_new_tokens: int | None
) -> dict[str, list[Prompt]]:
    """Select the prompts of each split that leave room for a completion; the others are counted as skipped.

    Args:
        found: the prompts.
        tokenizer: tokenizer of the model.
        positions: number of positions of the model.
        max_new_tokens: maximum length of a completion in tokens (see `rollouts.fitting_prompts`).

    Raises:
        ScratchError: too many prompts, or all prompts of a split, are too long.
    """
    parts, unknown = {}, 0.0
    for split, prompts in found.parts.items():
        ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
        kept, _ = rollouts.fitting_prompts(ids, positions, max_new_tokens)
        parts[split] = [prompts[number] for number in kept]
        reason = f"a prompt that leaves too few of the model's {positions} positions"
        found.skip(split, reason, len(prompts) - len(kept))
        if split == "train":
            unknown = common.unknown_share(tokenizer, np.concatenate([np.asarray(own) for own in ids]))
    found.summary.unknown_share = unknown
    return parts


def _make_job(
    accelerator: Accelerator,
    policy: Any,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    reward: Any,
    prompts: dict[str, list[Prompt]],
    found: ReadExamples[Prompt],
    data: PromptArguments,
    model_args: PolicyModelArguments,
    args: PolicyArguments,
) -> Job:
    """Build the job from the results of the previous steps."""
    if args.algorithm == "ppo":
        add_value_head(policy)
    of_stories = found.summary.built_in
    task = PolicyGradient(accelerator, policy, reference, tokenizer, reward, prompts, args, of_stories)
    for model in (policy, reference):
        choose_attention(model, accelerator.device, policy.config.max_position_embeddings)
    general = common.open_general_text(args.general_text, tokenizer, policy.config.max_position_embeddings)
    style, first, rule = type(policy).__name__, prompts["validation"][0], data.reward or ""
    facts = common.run_facts(
        style,
        found.summary,
        data.dataset_license,
        prompt=first if isinstance(first, str) else first[-1]["content"],
        context_length=policy.config.max_position_embeddings,
        rewarded=rule if rule.startswith("re:") else Path(rule).name,
        chat=not isinstance(first, str),
        parameters=reference.num_parameters(),
        **{split: {"prompts": len(part)} for split, part in prompts.items()},
    )

    def report(folder: Path) -> None:
        report_completions(folder, prompts["validation"], model_args.trust_remote_code)

    return Job(
        accelerator, policy, tokenizer, task, args, facts, report, published=without_value_head, general_text=general
    )


RECIPE = Recipe("policy_gradient", ARGUMENTS, prepare, CARD, DataPreview(common.preview_of(read_prompts)))
