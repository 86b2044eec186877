"""Tune a GPT on preferences between completions (direct preference optimization, DPO).

    scratch-gpt pairs runs/gpt --reward "re:glad|happy|proud" --output pairs.jsonl
    scratch-gpt train dpo --init_from runs/gpt --dataset pairs.jsonl
    scratch-gpt train dpo --init_from USER/MODEL --dataset USER/DATASET --beta 0.05

The output directory contains weights, config, tokenizer, model code, card and loss plot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ....data.readers.corpus import Corpus
from ....data.readers.preferences import Preference, open_preferences
from ....data.readers.tables import ReadOptions
from ....errors import ScratchError
from ....evaluation.chat import report_completions
from ....hub import loading
from ....rl.rollouts import pad_token_id_of
from ...engine.recipe import DataPreview, Job, Recipe
from ...engine.startup import start
from ...performance.attention_choice import choose_attention
from .. import common
from ..common import ReadExamples
from ..initial_model import load_chat_tokenizer
from ..policy_arguments import PolicyModelArguments
from ..policy_model import check_policy, load_policy, stop_at_end_of_turn
from .arguments import ARGUMENTS, PreferenceArguments, PreferenceDataArguments
from .card import CARD
from .task import EncodedPairs, Preferences


def prepare(
    data: PreferenceDataArguments, model_args: PolicyModelArguments, args: PreferenceArguments, resume_from: Path | None
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
    with accelerator.main_process_first():
        tokenizer = load_chat_tokenizer(model_args, resume_from)
        policy, reference = _load_models(model_args, tokenizer, resume_from, accelerator)
    encoded = _encode(accelerator, found, policy, tokenizer)
    return _make_job(accelerator, policy, reference, tokenizer, encoded, found, data, model_args, args)


def _read(
    data: PreferenceDataArguments, model_args: PolicyModelArguments, args: PreferenceArguments
) -> ReadExamples[Preference]:
    """Read the pairs of each split."""
    check_policy(model_args)
    found = read_preferences(data)
    common.check_same_data(found.summary.fingerprint, args)
    return found


def read_preferences(data: PreferenceDataArguments, seed: int = 0) -> ReadExamples[Preference]:
    """Read the pairs of each split; pairs with the same prompt are in the same split.

    Raises:
        ScratchError: the data is missing, or a split is empty.
    """
    if not data.dataset:
        raise ScratchError("there is no data: give pairs with --dataset ('scratch-gpt pairs' creates them)")

    def open_one(dataset: str, options: ReadOptions, validation: bool) -> Corpus[Preference]:
        return open_preferences(dataset, options)

    def texts(pair: Preference) -> list[str]:
        messages = [m for side in pair for m in ([side] if isinstance(side, str) else side)]
        return [m if isinstance(m, str) else m["content"] for m in messages]

    return common.read_examples(
        common.open_parts(data, data.max_pairs, open_one),
        {"validation": data.validation_fraction},
        data.split_seed,
        key=lambda pair: repr(pair.prompt),
        row=lambda pair: dict(pair._asdict()),
        texts=texts,
    )


def _load_models(
    model_args: PolicyModelArguments,
    tokenizer: PreTrainedTokenizerFast,
    resume_from: Path | None,
    accelerator: Accelerator,
) -> tuple[Any, PreTrainedModel]:
    """Load the policy, and the reference model, on the device and in evaluation mode."""
    policy, reference = load_policy(model_args, resume_from)
    loading.check_vocabulary(tokenizer, policy.config.vocab_size)
    loading.match_padding(policy, tokenizer)
    for model in (policy, reference):
        choose_attention(model, accelerator.device, policy.config.max_position_embeddings)
    return policy, reference.to(accelerator.device).eval()


def _encode(
    accelerator: Accelerator, found: ReadExamples[Preference], policy: Any, tokenizer: PreTrainedTokenizerFast
) -> dict[str, EncodedPairs]:
    """Tokenise the pairs of each split.

    Raises:
        ScratchError: every pair of a split is longer than the model's positions.
    """
    longest = policy.config.max_position_embeddings
    encoded = {split: EncodedPairs(part, tokenizer, longest) for split, part in found.parts.items()}
    for split, part in encoded.items():
        if not len(part):
            raise ScratchError(
                f"every {split} pair of {found.summary.name} is longer than the model's {longest} tokens"
            )
        found.skip(split, f"longer than the model's {longest} tokens", part.num_too_long)
    ids = [rollout.prompt + rollout.completion for rollout in encoded["train"].chosen + encoded["train"].rejected]
    found.summary.unknown_share = common.unknown_share(tokenizer, np.concatenate(ids))
    common.report_data(found.summary, accelerator.is_main_process)
    first, is_chat = encoded["train"].chosen[0], not isinstance(found.parts["train"][0].prompt, str)
    scored = [False] * len(first.prompt) + [True] * len(first.completion)
    common.show_learned(tokenizer, first.prompt + first.completion, scored)
    if is_chat:
        stop_at_end_of_turn(policy, tokenizer)
    return encoded


def _make_job(
    accelerator: Accelerator,
    policy: Any,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    encoded: dict[str, EncodedPairs],
    found: ReadExamples[Preference],
    data: PreferenceDataArguments,
    model_args: PolicyModelArguments,
    args: PreferenceArguments,
) -> Job:
    """Build the job from the results of the previous steps."""
    task = Preferences(
        accelerator, encoded, reference, pad_token_id_of(tokenizer), args.tokens_per_batch, args.seed, args.beta
    )
    general = common.open_general_text(args.general_text, tokenizer, policy.config.max_position_embeddings)
    style, first = type(policy).__name__, found.parts["validation"][0].prompt
    facts = common.run_facts(
        style,
        found.summary,
        data.dataset_license,
        prompt=first if isinstance(first, str) else first[-1]["content"],
        context_length=policy.config.max_position_embeddings,
        chat=not isinstance(first, str),
        **{split: {"pairs": len(part), "long": part.num_too_long} for split, part in encoded.items()},
    )

    def report(folder: Path) -> None:
        report_completions(folder, [pair.prompt for pair in found.parts["validation"]], model_args.trust_remote_code)

    return Job(accelerator, policy, tokenizer, task, args, facts, report, general_text=general)


RECIPE = Recipe("dpo", ARGUMENTS, prepare, CARD, DataPreview(common.preview_of(read_preferences)))
