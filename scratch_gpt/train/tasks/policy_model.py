"""Loading of the policy and the reference model, for DPO and policy-gradient methods."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ...errors import ScratchError
from ...hub.loading import load_model, open_tokenizer
from ...models.configuration_scratch_gpt import ScratchGPTConfig
from .common import dropout_fields
from .policy_arguments import PolicyModelArguments


def load_policy(args: PolicyModelArguments, resume_from: Path | None) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Load the model to tune and the reference model.

    Args:
        args: which model.
        resume_from: checkpoint with the weights of the policy; by default those of `init_from`.

    Raises:
        ScratchError: it is not a `ScratchGPTForCausalLM`.
    """
    assert args.init_from is not None  # checked before data is read
    reference = load_model(args.init_from, args.trust_remote_code, "causal")
    if reference.config.model_type != ScratchGPTConfig.model_type:
        raise ScratchError(
            f"{args.init_from} is a {reference.config.model_type} model: convert it with 'scratch-gpt import' first"
        )
    policy = load_model(resume_from or args.init_from, args.trust_remote_code, "causal", **dropout_fields(args))
    return policy, reference


def load_tokenizer(args: PolicyModelArguments, resume_from: Path | None) -> PreTrainedTokenizerFast:
    """Load the tokenizer of the model to tune; arguments as of `load_policy`."""
    return open_tokenizer(str(resume_from or args.init_from), trust_remote_code=args.trust_remote_code)
