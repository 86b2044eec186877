"""Loading of the policy and the reference model, for DPO and policy-gradient methods."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ...errors import ScratchError
from ...hub.model_directory import add_end_of_turn, limit_new_tokens
from ...models.configuration_scratch_gpt import ScratchGPTConfig
from .common import dropout_fields, note
from .initial_model import check_initial_model, load_initial_model
from .policy_arguments import PolicyModelArguments


def check_policy(args: PolicyModelArguments) -> None:
    """Check the model to tune, before data is read.

    Raises:
        ScratchError: there is none, or it is not a GPT of this package and can't be imported as one.
    """
    if args.init_from is None:
        raise ScratchError("there is no model to tune: give one with --init_from")
    own = ScratchGPTConfig.model_type
    check_initial_model(args.init_from, args.trust_remote_code, "causal", own, "this task tunes")


def load_policy(args: PolicyModelArguments, resume_from: Path | None) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Load the model to tune and the reference model.

    Args:
        args: which model.
        resume_from: checkpoint with the weights of the policy; by default those of `init_from`.

    Raises:
        ScratchError: the model can't be opened.
    """
    assert args.init_from is not None  # checked before data is read
    trust, dropouts = args.trust_remote_code, dropout_fields(args)
    reference = load_initial_model(args.init_from, trust, "causal")
    origin, resumed = resume_from or args.init_from, resume_from is not None
    policy = load_initial_model(origin, trust, "causal", resumed, announce=False, **dropouts)
    limit_new_tokens(policy)
    return policy, reference


def stop_at_end_of_turn(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Let a model that answers messages stop at the token that ends an answer in its chat template, and say so if its
    generation config does not have it."""
    if (line := add_end_of_turn(policy, tokenizer)) is not None:
        note(line)
