"""GPTs: learning to answer, from conversations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...data.conversations import Conversation, conversation_key, open_conversations
from ...data.corpus import Corpus
from ...data.tables import ReadOptions
from ...errors import ScratchError
from ...evaluation.chat import report_answers
from ...hub import opening
from ...hub.model_directory import ToPublished, set_chat_defaults
from ...tokenization.chat import add_chat_template, encode_conversations
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
from ..instructions import Instructions
from ..lora import add_lora
from ..performance.attention_choice import choose_attention
from ..sft_arguments import ConversationArguments, InstructionArguments, TunedModelArguments

HELD_OUT = 300  # built-in questions in each of the splits that nothing is learned from

TYPES = (ConversationArguments, TunedModelArguments, InstructionArguments)


def read(data: ConversationArguments, seed: int) -> ReadExamples[Conversation]:
    """The conversations of each split.

    Raises:
        ScratchError: there is no such data, or nothing is left for a split.
    """
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    wrong = [f"{n}_fraction is {f}" for n, f in fractions.items() if not (f > 0 or n == "test") or not 0 <= f < 1]
    if wrong or sum(fractions.values()) >= 1:
        raise ScratchError(
            f"{'; '.join(wrong) or f'the held-out shares are {fractions}'}: want shares between 0 and 1 that leave "
            "something to train on"
        )

    def open_one(dataset: str, options: ReadOptions, validation: bool) -> Corpus[Conversation]:
        if dataset == "questions":
            count = HELD_OUT if validation else data.num_questions
            return open_conversations(dataset, options, num_questions=count, seed=0 if validation else seed)
        return open_conversations(dataset, options, messages_column=data.messages_column)

    corpora = open_parts(data, data.max_conversations, open_one)
    if corpora[0].origin.built_in:
        fractions["test"] = 0.0  # it has a split of its own
    found = read_examples(
        corpora,
        fractions,
        data.split_seed,
        key=conversation_key,
        row=lambda messages: {"messages": messages},
        texts=lambda messages: (message["content"] for message in messages),
    )
    if corpora[0].origin.built_in:
        test = open_conversations("questions", ReadOptions(split="test"), num_questions=HELD_OUT)
        found.parts["test"], found.corpora["test"] = list(test.read()), test
        found.summary.test_rows = len(found.parts["test"])
        found.summary.rows_read += found.summary.test_rows
    return found


def prepare(
    data: ConversationArguments, model_args: TunedModelArguments, args: InstructionArguments, resume_from: Path | None
) -> Job:
    """Read the conversations and open the model; what can't be trained is refused before anything is written."""
    origin = resume_from or model_args.init_from
    if origin is None:
        raise ScratchError("there is nothing to tune: name a pre-trained model with --init_from")
    wrong = [n for n in ("lora_rank", "lora_alpha") if (v := getattr(model_args, n)) is not None and not v > 0]
    if wrong:
        raise ScratchError("; ".join(f"{name} is {getattr(model_args, name)}, want more than 0" for name in wrong))
    if model_args.lora_rank is None and (
        model_args.lora_alpha is not None or model_args.lora_targets != ["all-linear"]
    ):
        raise ScratchError("lora_alpha and lora_targets are of adapters: name their --lora_rank too")

    found = read(data, args.seed)
    check_same_data(found.summary.fingerprint, args)
    parts, name, is_built_in = found.parts, found.summary.name, found.summary.built_in

    accelerator = startup.start(args)
    with accelerator.main_process_first():
        model = opening.load_model(
            origin, model_args.trust_remote_code, "causal", **startup.chosen_dropouts(model_args)
        )
        tokenizer = opening.open_tokenizer(str(origin), trust_remote_code=model_args.trust_remote_code)
    opening.check_vocabulary(tokenizer, model.config.vocab_size)
    most = getattr(model.config, "max_position_embeddings", None) or startup.DEFAULT_CONTEXT_LENGTH
    context_length = model_args.context_length or min(most, startup.DEFAULT_CONTEXT_LENGTH)
    if not 1 <= context_length <= most:
        raise ScratchError(f"context_length is {context_length}, want at least 1 and at most the model's {most}")
    if add_chat_template(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    published: ToPublished = dict
    parameters = model.num_parameters()
    if model_args.lora_rank is not None:
        args = replace(args, optimizer="adamw")  # Muon is for whole matrices
        alpha = 2.0 * model_args.lora_rank if model_args.lora_alpha is None else model_args.lora_alpha
        published = add_lora(model, tokenizer, model_args.lora_rank, alpha, model_args.lora_targets)
    tokens = {split: encode_conversations(tokenizer, part, context_length) for split, part in parts.items() if part}
    for split, part in tokens.items():
        if not part.ids:
            raise ScratchError(
                f"{name} leaves no answer for {split}: give more conversations, a larger share, or a longer "
                "context_length"
            )
        found.skip(split, f"no answer within the context of {context_length} tokens", part.silent)
    found.summary.unknown_share = unknown_share(tokenizer, np.concatenate(tokens["train"].ids))
    report_data(found.summary, accelerator.is_main_process)
    if accelerator.is_main_process:
        for split, part in tokens.items():
            if cut := part.long - part.silent:
                print(f"{cut:,} {split} conversations of over {context_length} tokens were cut")
    set_chat_defaults(model, tokenizer, tokens["train"].end)
    choose_attention(model, accelerator.device, context_length)
    asked = parts["validation"]
    shape = context_length, args.batch_size, args.seed
    task = Instructions(accelerator, tokens, asked, tokenizer, *shape, exact=is_built_in)
    check_sharding(task, accelerator)
    if resume_from is None:
        task.remember(model.to(accelerator.device))

    style = type(model).__name__
    facts = {
        "task": "instructions",
        "title": f"{style} tuned on {name}",
        "style": style,
        "dataset": name,
        "license": "apache-2.0" if is_built_in else data.dataset_license,
        "prompt": asked[0][0]["content"],
        "chat": True,
        "parameters": parameters,
        "context_length": context_length,
        "data": found.summary.record(),
        **{
            split: {
                "conversations": len(part.ids),
                "tokens": sum(map(len, part.ids)),
                "answer_tokens": int(sum(mask.sum() for mask in part.scored)),
                "long": part.long,
                "silent": part.silent,
            }
            for split, part in tokens.items()
        },
    }

    def report(folder: Path) -> None:
        test, start = task.shards.get("test"), tokens["train"].start
        report_answers(folder, asked, test, context_length, start, model_args.trust_remote_code)

    return Job(accelerator, model, tokenizer, task, args, facts, report, published=published)
