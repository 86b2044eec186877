"""GPTs: learning to answer, from conversations."""

from __future__ import annotations

from pathlib import Path

from ...data.conversations import open_conversations, split_conversations
from ...errors import ScratchError
from ...evaluation.chat import report_answers
from ...hub import opening
from ...hub.model_directory import set_chat_defaults
from ...tokenization.chat import add_chat_template, encode_conversations
from .. import setup
from ..instructions import Instructions
from ..run import Job
from ..sft_arguments import ConversationArguments, InstructionArguments, TunedModelArguments

TYPES = (ConversationArguments, TunedModelArguments, InstructionArguments)


def prepare(
    data: ConversationArguments, model_args: TunedModelArguments, args: InstructionArguments, resume_from: Path | None
) -> Job:
    """Read the conversations and open the model; what can't be trained is refused before anything is written."""
    origin = resume_from or model_args.init_from
    if origin is None:
        raise ScratchError("there is nothing to tune: name a pre-trained model with --init_from")
    if data.dataset is None:
        raise ScratchError("there is nothing to learn from: name conversations with --dataset")
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    wrong = [f"{n}_fraction is {f}" for n, f in fractions.items() if not (f > 0 or n == "test") or not 0 <= f < 1]
    if wrong or sum(fractions.values()) >= 1:
        raise ScratchError(
            f"{'; '.join(wrong) or f'the held-out shares are {fractions}'}: want shares between 0 and 1 that leave "
            "something to train on"
        )
    source = open_conversations(
        data.dataset, config=data.dataset_config, split=data.dataset_split, max_rows=data.max_conversations
    )

    accelerator = setup.start(args)
    with accelerator.main_process_first():
        parts = split_conversations(list(source.read()), fractions, args.seed)
        dropout = {} if model_args.dropout is None else dict.fromkeys(setup.DROPOUTS, model_args.dropout)
        model = opening.load_model(origin, model_args.trust_remote_code, "causal", **dropout)
        tokenizer = opening.open_tokenizer(str(origin))
    opening.check_vocabulary(tokenizer, model.config.vocab_size)
    most = getattr(model.config, "max_position_embeddings", None) or setup.DEFAULT_CONTEXT_LENGTH
    context_length = model_args.context_length or min(most, setup.DEFAULT_CONTEXT_LENGTH)
    if not 1 <= context_length <= most:
        raise ScratchError(f"context_length is {context_length}, want at least 1 and at most the model's {most}")
    if add_chat_template(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokens = {name: encode_conversations(tokenizer, part, context_length) for name, part in parts.items() if part}
    for name in ("train", "validation"):
        if name not in tokens or not tokens[name].ids:
            raise ScratchError(
                f"{source.name} leaves no answer for {name}: give more conversations, a larger share, or a longer "
                "context_length"
            )
    set_chat_defaults(model, tokenizer, tokens["train"].end)
    setup.choose_attention(model, accelerator.device, context_length)
    held_out = parts["validation"]
    task = Instructions(accelerator, tokens, held_out, tokenizer, context_length, args.batch_size, args.seed)
    if resume_from is None:
        task.remember_loss(model.to(accelerator.device))

    style = type(model).__name__
    facts = {
        "task": "instructions",
        "title": f"{style} tuned on {source.name}",
        "style": style,
        "dataset": source.name,
        "license": data.dataset_license,
        "prompt": held_out[0][0]["content"],
        "context_length": context_length,
        **{
            name: {
                "conversations": len(part.ids),
                "tokens": sum(map(len, part.ids)),
                "answer_tokens": int(sum(mask.sum() for mask in part.scored)),
                "long": part.long,
                "silent": part.silent,
            }
            for name, part in tokens.items()
        },
    }

    def report(folder: Path) -> None:
        test, start = task.shards.get("test"), tokens["train"].start
        report_answers(folder, held_out, test, context_length, start, model_args.trust_remote_code)

    return Job(accelerator, model, tokenizer, task, args, facts, report)
