"""Fine-tune a pre-trained GPT on conversations (supervised fine-tuning, SFT).

    scratch-gpt train sft --init_from runs/gpt                   # built-in questions, minutes
    scratch-gpt train sft --init_from runs/gpt --dataset PATH.json
    scratch-gpt train sft --init_from USER/MODEL --dataset USER/DATASET --epochs 2

Only the assistant's messages are scored. The output directory contains weights, config, tokenizer with its chat
template, model code, card and loss plot:

    pipeline("text-generation", "runs/sft", trust_remote_code=True)([{"role": "user", "content": "..."}])
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast

from ....data.readers.conversations import Conversation
from ....errors import ScratchError
from ....evaluation.chat import report_answers
from ....evaluation.positions import position_limit
from ....hub import loading
from ....hub.adapter import FOLDER, Adapter
from ....hub.model_directory import set_chat_defaults
from ....tokenization.chat import ChatTokens, add_chat_template, encode_conversations
from ...engine.recipe import DataPreview, Job, Recipe
from ...engine.startup import start
from ...performance.attention_choice import choose_attention
from .. import common
from ..common import ReadExamples
from ..context import length_limit, note_length, row_length
from ..initial_model import load_chat_tokenizer, load_initial_model
from .arguments import ARGUMENTS, ConversationArguments, InstructionArguments, TunedModelArguments
from .build import read_conversations
from .card import CARD
from .lora import add_lora
from .task import Instructions


def prepare(
    data: ConversationArguments, model_args: TunedModelArguments, args: InstructionArguments, resume_from: Path | None
) -> Job:
    """Prepare a run; see `Recipe.prepare`.

    Args:
        data: data arguments.
        model_args: model arguments.
        args: training arguments.
        resume_from: checkpoint to resume from, or None.
    """
    _check_model(model_args)
    found = _read(data, args)
    accelerator = start(args, model_args, resume_from)
    with accelerator.main_process_first():
        tokenizer = load_chat_tokenizer(model_args, resume_from)
        tuned = _load_model(model_args, tokenizer, resume_from, accelerator)
    tokens = _encode(accelerator, found, tuned, tokenizer)
    tuned = _choose_length(accelerator, tuned, tokens, model_args, args)
    return _make_job(accelerator, tuned, tokenizer, tokens, found, data, model_args, args, resume_from)


@dataclass
class TunedModel:
    """The model to fine-tune.

    Attributes:
        model: the model, with adapters if requested.
        context_length: length of a packed sequence in tokens; before the conversations are encoded, its limit.
        parameters: number of parameters without adapters.
        adapter: the adapters, if requested.
    """

    model: Any
    context_length: int
    parameters: int
    adapter: Adapter | None


def _check_model(model_args: TunedModelArguments) -> None:
    """Check the model arguments, before any data is read.

    Raises:
        ScratchError: there is no model, or arguments of LoRA are given without its rank.
    """
    if model_args.init_from is None:
        raise ScratchError("there is no model to fine-tune: give a pre-trained one with --init_from")
    default = model_args.lora_alpha is None and model_args.lora_targets == ["all-linear"]
    if model_args.lora_rank is None and not default:
        raise ScratchError("--lora_alpha and --lora_targets have no effect without --lora_rank: give it too")
    if model_args.lora_rank is None and model_args.adapter_only:
        raise ScratchError("--adapter_only has no effect without --lora_rank: give it too")


def _read(data: ConversationArguments, args: InstructionArguments) -> ReadExamples[Conversation]:
    """Read the conversations of each split."""
    found = read_conversations(data, args.seed)
    common.check_same_data(found.summary.fingerprint, args)
    return found


def _load_model(
    model_args: TunedModelArguments,
    tokenizer: PreTrainedTokenizerFast,
    resume_from: Path | None,
    accelerator: Accelerator,
) -> TunedModel:
    """Load the model of the checkpoint, with adapters if requested. A tokenizer without a chat template gets one, and
    the model gets embeddings for its tokens."""
    origin = resume_from or model_args.init_from
    assert origin is not None
    dropouts = common.dropout_fields(model_args)
    trust, resumed = model_args.trust_remote_code, resume_from is not None
    kept = None if model_args.lora_rank is None else "adapters fit the layers of the class that they were trained in"
    model: Any = load_initial_model(origin, trust, "causal", resumed, keep_class=kept, **dropouts)
    loading.check_vocabulary(tokenizer, model.config.vocab_size)
    most = position_limit(model.config)
    context_length = length_limit(most) if model_args.context_length is None else model_args.context_length
    if context_length < 1 or (most is not None and context_length > most):
        raise ScratchError(f"context_length is {context_length}, want at least 1 and at most the model's {most}")
    if add_chat_template(tokenizer) and len(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    parameters = model.num_parameters()
    adapter = None
    if (rank := model_args.lora_rank) is not None:
        alpha = 2.0 * rank if model_args.lora_alpha is None else model_args.lora_alpha
        base, only = str(model_args.init_from), model_args.adapter_only
        adapter = add_lora(model, tokenizer, rank, alpha, model_args.lora_targets, base, only)
    return TunedModel(model, context_length, parameters, adapter)


def _encode(
    accelerator: Accelerator, found: ReadExamples[Conversation], tuned: TunedModel, tokenizer: PreTrainedTokenizerFast
) -> dict[str, ChatTokens]:
    """Tokenise the conversations of each split.

    Raises:
        ScratchError: no answer of a split is within the context.
    """
    parts, length = found.parts, tuned.context_length
    tokens = {split: encode_conversations(tokenizer, part, length) for split, part in parts.items() if part}
    for split, part in tokens.items():
        if not part.ids:
            raise ScratchError(
                f"{found.summary.name} has no answer for {split} within the context: give more conversations, a larger "
                "fraction, or a longer context_length"
            )
        found.skip(split, f"no answer within the context of {length} tokens", part.num_unanswered)
    found.summary.unknown_share = common.unknown_share(tokenizer, np.concatenate(tokens["train"].ids))
    common.report_data(found.summary, accelerator.is_main_process)
    if accelerator.is_main_process:
        for split, part in tokens.items():
            if part.num_truncated:
                print(f"{part.num_truncated:,} {split} conversations of over {length} tokens were truncated")
            if part.num_split:
                print(
                    f"{part.num_split:,} {split} conversations have a sequence for each answer: the chat template "
                    "writes earlier answers differently"
                )
    first = tokens["train"]
    common.show_learned(tokenizer, [first.start, *first.ids[0].tolist()], [False, *first.scored[0].tolist()])
    set_chat_defaults(tuned.model, tokenizer, tokens["train"].ends)
    return tokens


def _choose_length(
    accelerator: Accelerator,
    tuned: TunedModel,
    tokens: dict[str, ChatTokens],
    model_args: TunedModelArguments,
    args: InstructionArguments,
) -> TunedModel:
    """Set the length of the rows: `--context_length`, or that of the longest conversation, within the model's positions
    and the default limit."""
    length = tuned.context_length
    if model_args.context_length is None:
        longest = max(len(ids) for part in tokens.values() for ids in part.ids)
        length = row_length(longest, position_limit(tuned.model.config))
        cut = any(part.num_too_long for part in tokens.values())
        reason = f"conversations were truncated to {longest:,}" if cut else f"the longest conversation has {longest:,}"
        note_length(f"rows of {length:,} tokens: {reason}", tuned.model.config, args.batch_size * length)
    choose_attention(tuned.model, accelerator.device, length)
    return replace(tuned, context_length=length)


def _make_job(
    accelerator: Accelerator,
    tuned: TunedModel,
    tokenizer: PreTrainedTokenizerFast,
    tokens: dict[str, ChatTokens],
    found: ReadExamples[Conversation],
    data: ConversationArguments,
    model_args: TunedModelArguments,
    args: InstructionArguments,
    resume_from: Path | None,
) -> Job:
    """Build the job from the results of the previous steps."""
    model, held_out = tuned.model, found.parts["validation"]
    sizes = tuned.context_length, args.batch_size, args.seed
    task = Instructions(accelerator, tokens, held_out, tokenizer, *sizes, exact=found.summary.built_in)
    if resume_from is None:
        task.evaluate_before(model.to(accelerator.device))
    general = common.open_general_text(args.general_text, tokenizer, tuned.context_length)
    style = type(model).__name__
    facts = common.run_facts(
        style,
        found.summary,
        data.dataset_license,
        prompt=next((turn["content"] for turn in held_out[0] if turn["role"] == "user"), held_out[0][0]["content"]),
        context_length=tuned.context_length,
        chat=True,
        parameters=tuned.parameters,
        **{split: _sizes(part) for split, part in tokens.items()},
    )

    def report(folder: Path) -> dict[str, float | str] | None:
        if model_args.adapter_only:
            print(f"\nThe adapter of {model_args.init_from} is {folder / FOLDER}; the merged model was not published.")
            return None
        sizes = tuned.context_length, tokens["train"].start
        return {"verdict": report_answers(folder, held_out, task.shards, *sizes, model_args.trust_remote_code)}

    return Job(accelerator, model, tokenizer, task, args, facts, report, adapter=tuned.adapter, general_text=general)


def _sizes(part: ChatTokens) -> dict[str, int]:
    return {
        "conversations": part.num_conversations,
        "tokens": sum(map(len, part.ids)),
        "answer_tokens": int(sum(mask.sum() for mask in part.scored)),
        "long": part.num_too_long,
        "silent": part.num_unanswered,
    }


RECIPE = Recipe("sft", ARGUMENTS, prepare, CARD, DataPreview(common.preview_of(read_conversations)))
