"""Train a GPT from text to a directory that anyone can load.

    accelerate launch training/pretrain_gpt.py                            # built-in stories, minutes on two cores
    accelerate launch training/pretrain_gpt.py --dataset my_text.txt --output_dir runs/mine
    accelerate launch training/pretrain_gpt.py --config training/configs/tinyshakespeare_char.yaml --dataset FILE

The folder that it leaves holds weights, config, tokenizer, model code, card and loss curve:

    pipeline("text-generation", "runs/mine", trust_remote_code=True)
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from scratch_gpt.data import stories
from scratch_gpt.data.shards import shard_sizes
from scratch_gpt.evaluation.reload import report_reloaded
from scratch_gpt.hub import opening
from scratch_gpt.hub.model_directory import set_generation_defaults
from scratch_gpt.train import setup
from scratch_gpt.train.arguments import (
    DataArguments,
    ModelArguments,
    PretrainingArguments,
    check_training,
    parse_arguments,
)
from scratch_gpt.train.checkpoint import newest_checkpoint
from scratch_gpt.train.language_modeling import LanguageModeling
from scratch_gpt.train.run import run


def main() -> None:
    data, model_args, args = parse_arguments((DataArguments, ModelArguments, PretrainingArguments), __doc__ or "")

    # Whatever can be refused is refused before anything is written.
    check_training(args)
    setup.check_output_dir(args)
    if model_args.init_from is not None:
        setup.check_init_from(data, model_args)
    resume_from = newest_checkpoint(Path(args.output_dir)) if args.resume else None
    origin = resume_from or model_args.init_from
    context_length = setup.DEFAULT_CONTEXT_LENGTH if model_args.context_length is None else model_args.context_length
    if origin is None:
        setup.build_config(model_args, vocab_size=1, context_length=context_length, ids={})
    source, validation = setup.open_sources(data, args.seed)

    accelerator = setup.start(args)
    with accelerator.main_process_first():
        if origin is not None:
            dropout = {} if model_args.dropout is None else dict.fromkeys(setup.DROPOUTS, model_args.dropout)
            model = opening.load_model(origin, model_args.trust_remote_code, "causal", **dropout)
            longest = getattr(model.config, "max_position_embeddings", context_length)
            if model_args.context_length is None:
                context_length = min(context_length, longest)
            tokenizer = opening.open_tokenizer(str(origin if resume_from else data.tokenizer or origin))
        else:
            tokenizer = setup.build_tokenizer(
                data.tokenizer or "bpe", data.vocab_size, source.documents, source.fingerprint(), context_length
            )
            ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
            model = setup.build_model(setup.build_config(model_args, len(tokenizer), context_length, ids))
            set_generation_defaults(model, tokenizer)
    opening.check_vocabulary(tokenizer, model.config.vocab_size)
    shards = setup.prepare_shards(accelerator, source, validation, tokenizer, data)
    setup.check_context(model.config, shards, context_length)

    held_out = shards["validation"]
    is_stories = {source.name, (validation or source).name} == {"stories"}
    floor = stories.entropy_per_story() * len(held_out.ends) / len(held_out.tokens) if is_stories else None
    task = LanguageModeling(accelerator, shards, tokenizer, context_length, args.batch_size, args.seed, floor)

    arguments = asdict(data) | asdict(model_args) | asdict(args)
    style = type(model).__name__ if model_args.init_from else model_args.preset
    title = f"{style} on {source.name}"
    facts = {
        "task": "language-modeling",
        "title": title,
        "style": style,
        "dataset": source.name,
        "license": "apache-2.0" if is_stories else data.dataset_license,
        "prompt": str(tokenizer.decode(held_out.tokens[:24]))[:20].strip(),
        "context_length": context_length,
        **{split: shard_sizes(shard) for split, shard in shards.items()},
    }
    folder = run(accelerator, model, tokenizer, task, args, arguments, facts, resume_from)
    if accelerator.is_main_process:
        report_reloaded(folder, shards, is_stories, model_args.trust_remote_code)


if __name__ == "__main__":
    setup.run_command(main)
