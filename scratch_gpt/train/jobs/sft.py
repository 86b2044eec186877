"""GPTs: learning to answer, from conversations."""

from __future__ import annotations

from pathlib import Path

from accelerate import DistributedType

from ...data.conversations import open_conversations, split_conversations
from ...errors import ScratchError
from ...evaluation.chat import report_answers
from ...hub import opening
from ...hub.model_directory import ToPublished, set_chat_defaults
from ...tokenization.chat import add_chat_template, encode_conversations
from .. import setup
from ..instructions import Instructions
from ..lora import add_lora
from ..run import Job
from ..sft_arguments import ConversationArguments, InstructionArguments, TunedModelArguments

HELD_OUT = 300  # built-in questions in each of the splits that nothing is learned from

TYPES = (ConversationArguments, TunedModelArguments, InstructionArguments)


def prepare(
    data: ConversationArguments, model_args: TunedModelArguments, args: InstructionArguments, resume_from: Path | None
) -> Job:
    """Read the conversations and open the model; what can't be trained is refused before anything is written."""
    origin = resume_from or model_args.init_from
    if origin is None:
        raise ScratchError("there is nothing to tune: name a pre-trained model with --init_from")
    is_built_in = data.dataset == "questions"
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    wrong = [f"{n}_fraction is {f}" for n, f in fractions.items() if not (f > 0 or n == "test") or not 0 <= f < 1]
    if wrong or sum(fractions.values()) >= 1:
        raise ScratchError(
            f"{'; '.join(wrong) or f'the held-out shares are {fractions}'}: want shares between 0 and 1 that leave "
            "something to train on"
        )
    source = open_conversations(
        data.dataset,
        config=data.dataset_config,
        split=data.dataset_split,
        max_rows=data.max_conversations,
        num_questions=data.num_questions,
        seed=args.seed,
    )

    wrong = [n for n in ("lora_rank", "lora_alpha") if (v := getattr(model_args, n)) is not None and not v > 0]
    if wrong:
        raise ScratchError("; ".join(f"{name} is {getattr(model_args, name)}, want more than 0" for name in wrong))
    if model_args.lora_rank is None and (
        model_args.lora_alpha is not None or model_args.lora_targets != ["all-linear"]
    ):
        raise ScratchError("lora_alpha and lora_targets are of adapters: name their --lora_rank too")

    accelerator = setup.start(args)
    if is_built_in and accelerator.distributed_type == DistributedType.FSDP:
        raise ScratchError("each process answers for itself, which FSDP can't: use data parallelism")
    with accelerator.main_process_first():
        if is_built_in:
            held_out = {n: open_conversations("questions", split=n, num_questions=HELD_OUT) for n in fractions}
            parts = {"train": list(source.read()), **{name: list(part.read()) for name, part in held_out.items()}}
        else:
            parts = split_conversations(list(source.read()), fractions, args.seed)
        model = opening.load_model(origin, model_args.trust_remote_code, "causal", **setup.chosen_dropouts(model_args))
        tokenizer = opening.open_tokenizer(str(origin))
    opening.check_vocabulary(tokenizer, model.config.vocab_size)
    most = getattr(model.config, "max_position_embeddings", None) or setup.DEFAULT_CONTEXT_LENGTH
    context_length = model_args.context_length or min(most, setup.DEFAULT_CONTEXT_LENGTH)
    if not 1 <= context_length <= most:
        raise ScratchError(f"context_length is {context_length}, want at least 1 and at most the model's {most}")
    if add_chat_template(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    published: ToPublished = dict
    parameters = model.num_parameters()
    if model_args.lora_rank is not None:
        args.optimizer = "adamw"  # Muon is for whole matrices
        alpha = 2.0 * model_args.lora_rank if model_args.lora_alpha is None else model_args.lora_alpha
        published = add_lora(model, tokenizer, model_args.lora_rank, alpha, model_args.lora_targets)
    tokens = {name: encode_conversations(tokenizer, part, context_length) for name, part in parts.items() if part}
    for name in ("train", "validation"):
        if name not in tokens or not tokens[name].ids:
            raise ScratchError(
                f"{source.name} leaves no answer for {name}: give more conversations, a larger share, or a longer "
                "context_length"
            )
    set_chat_defaults(model, tokenizer, tokens["train"].end)
    setup.choose_attention(model, accelerator.device, context_length)
    asked = parts["validation"]
    shape = context_length, args.batch_size, args.seed
    task = Instructions(accelerator, tokens, asked, tokenizer, *shape, exact=is_built_in)
    if resume_from is None:
        task.remember(model.to(accelerator.device))

    style = type(model).__name__
    facts = {
        "task": "instructions",
        "title": f"{style} tuned on {source.name}",
        "style": style,
        "dataset": source.name,
        "license": "apache-2.0" if is_built_in else data.dataset_license,
        "prompt": asked[0][0]["content"],
        "chat": True,
        "parameters": parameters,
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
        report_answers(folder, asked, test, context_length, start, model_args.trust_remote_code)

    return Job(accelerator, model, tokenizer, task, args, facts, report, published=published)
