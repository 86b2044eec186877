"""Train an encoder to guess masked words, from text to a directory that anyone can load and classifiers start from.

    accelerate launch training/pretrain_encoder.py                        # built-in stories, minutes on two cores
    accelerate launch training/pretrain_encoder.py --dataset my_text.txt --output_dir runs/mine
    accelerate launch training/train_classifier.py --init_from runs/encoder --dataset reviews.tsv

The folder that it leaves holds weights, config, tokenizer, the code of the model, card and loss curve:

    pipeline("fill-mask", "runs/encoder", trust_remote_code=True)
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from scratch_gpt.errors import ScratchError
from scratch_gpt.evaluation.masked import report_guesses
from scratch_gpt.hub import opening
from scratch_gpt.train import encoder_setup, setup
from scratch_gpt.train.arguments import DataArguments, check_training, parse_arguments
from scratch_gpt.train.checkpoint import newest_checkpoint
from scratch_gpt.train.encoder_arguments import EncoderModelArguments, MaskedTrainingArguments
from scratch_gpt.train.masked_language_modeling import MaskedLanguageModeling
from scratch_gpt.train.run import run


def main() -> None:
    types = (DataArguments, EncoderModelArguments, MaskedTrainingArguments)
    data, model_args, args = parse_arguments(types, __doc__ or "")

    # Whatever can be refused is refused before anything is written.
    check_training(args)
    setup.check_output_dir(args)
    if model_args.init_from is not None:
        setup.check_init_from(data, model_args)
    resume_from = newest_checkpoint(Path(args.output_dir)) if args.resume else None
    origin = resume_from or model_args.init_from
    if model_args.context_length < 3:
        raise ScratchError(f"context_length is {model_args.context_length}, want at least 3: <bos>, a token, <eos>")
    if origin is None:
        encoder_setup.build_config(model_args, vocab_size=8, ids={})
    source, validation = setup.open_sources(data, args.seed)

    accelerator = setup.start(args)
    with accelerator.main_process_first():
        if origin is not None:
            dropout = {} if model_args.dropout is None else dict.fromkeys(setup.DROPOUTS, model_args.dropout)
            model = opening.load_model(origin, model_args.trust_remote_code, "masked", **dropout)
            tokenizer = opening.open_tokenizer(str(origin if resume_from else data.tokenizer or origin))
        else:
            tokenizer = setup.build_tokenizer(
                data.tokenizer or "bpe",
                data.vocab_size,
                source.documents,
                source.fingerprint(),
                model_args.context_length,
                "encoder",
            )
            model = encoder_setup.build_masked_model(model_args, tokenizer)
    if tokenizer.mask_token_id is None:
        raise ScratchError("the tokenizer has no mask token: train one with the template 'encoder'")
    opening.check_vocabulary(tokenizer, model.config.vocab_size)
    setup.prefer_plain_attention(model, accelerator)
    longest = min(model_args.context_length, model.config.max_position_embeddings)
    rows = encoder_setup.encode_documents(source, validation, tokenizer, longest, data.validation_fraction, accelerator)
    task = MaskedLanguageModeling(
        accelerator,
        rows["train"],
        rows["validation"],
        tokenizer,
        args.tokens_per_batch,
        args.mask_probability,
        args.seed,
    )

    arguments = asdict(data) | asdict(model_args) | asdict(args)
    style = type(model).__name__ if model_args.init_from else model_args.preset
    facts = {
        "task": "masked-language-modeling",
        "title": f"{style} on {source.name}, masked",
        "style": style,
        "dataset": source.name,
        "license": "apache-2.0" if source.name == "stories" else data.dataset_license,
        "prompt": task.example,
        "context_length": model.config.max_position_embeddings,
        **{split: {"texts": len(found), "tokens": len(found.ids)} for split, found in rows.items()},
    }
    folder = run(accelerator, model, tokenizer, task, args, arguments, facts, resume_from)
    if accelerator.is_main_process:
        report_guesses(folder, task.example, model_args.trust_remote_code)


if __name__ == "__main__":
    setup.run_command(main)
