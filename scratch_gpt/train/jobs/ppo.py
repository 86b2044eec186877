"""GPTs: learning from rewards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from accelerate import DistributedType
from transformers import PreTrainedModel

from ...data.prompts import open_prompts
from ...errors import ScratchError
from ...evaluation.chat import report_completions
from ...hub import opening
from ...models.configuration_scratch_gpt import ScratchGPTConfig
from ...rl.rewards import open_reward
from ...rl.value_head import add_value_head, without_value_head
from .. import setup
from ..policy_arguments import PolicyArguments, PolicyModelArguments, PromptArguments, check_policy
from ..policy_gradient import PolicyGradient
from ..run import Job

TYPES = (PromptArguments, PolicyModelArguments, PolicyArguments)


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
    name, prompts = open_prompts(
        data.dataset,
        config=data.dataset_config,
        split=data.dataset_split,
        max_rows=data.max_prompts,
        num_prompts=data.num_prompts,
        seed=args.seed,
    )
    if not 1 <= data.validation_prompts < len(prompts):
        raise ScratchError(
            f"{name} has {len(prompts)} prompts, and validation_prompts is {data.validation_prompts}: want at least 1, "
            "and fewer than there are"
        )

    accelerator = setup.start(args)
    if accelerator.distributed_type == DistributedType.FSDP:
        raise ScratchError("each process writes for itself, which FSDP can't: use data parallelism")
    args.settle(accelerator.num_processes)
    reward = open_reward(data.reward, model_args.trust_remote_code, accelerator.device)
    with accelerator.main_process_first():
        tokenizer = opening.open_tokenizer(str(resume_from or model_args.init_from))
        policy, reference = open_policy(model_args, resume_from)
    opening.check_vocabulary(tokenizer, policy.config.vocab_size)
    order = np.random.default_rng((args.seed, len(prompts))).permutation(len(prompts))
    held_out = data.validation_prompts
    parts = {"validation": [prompts[i] for i in order[:held_out]], "train": [prompts[i] for i in order[held_out:]]}
    if args.algorithm == "ppo":
        add_value_head(policy)
    of_stories = data.dataset == "stories"
    task = PolicyGradient(accelerator, policy, reference, tokenizer, reward, parts, args, of_stories)
    for model in (policy, reference):
        setup.choose_attention(model, accelerator.device, policy.config.max_position_embeddings)

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
    dropouts = setup.chosen_dropouts(args)
    policy = opening.load_model(resume_from or args.init_from, args.trust_remote_code, "causal", **dropouts)
    return policy, reference
