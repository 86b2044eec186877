"""Train an encoder-decoder to translate, from pairs of sentences to a directory that anyone can load.

    accelerate launch training/train_seq2seq.py                           # built-in German to English, minutes
    accelerate launch training/train_seq2seq.py --dataset FOLDER --source_lang fr --target_lang en
    accelerate launch training/train_seq2seq.py --config training/configs/german_grammar.yaml

The folder that it leaves holds weights, config, tokenizer, the code of model and pipeline, card and loss curve:

    pipeline("translation_de_to_en", "runs/seq2seq", trust_remote_code=True)
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

from accelerate import DistributedType

from scratch_gpt.errors import ScratchError
from scratch_gpt.evaluation.translation import report_translations, signatures
from scratch_gpt.hub import opening
from scratch_gpt.hub.model_directory import set_translation_defaults
from scratch_gpt.train import setup, translation_setup
from scratch_gpt.train.arguments import (
    PairArguments,
    Seq2SeqModelArguments,
    Seq2SeqTrainingArguments,
    check_training,
    parse_arguments,
)
from scratch_gpt.train.checkpoint import newest_checkpoint
from scratch_gpt.train.run import run
from scratch_gpt.train.translation import Translation


def main() -> None:
    types = (PairArguments, Seq2SeqModelArguments, Seq2SeqTrainingArguments)
    data, model_args, args = parse_arguments(types, __doc__ or "")

    # Whatever can be refused is refused before anything is written.
    check_training(args)
    setup.check_output_dir(args)
    if model_args.init_from is not None:
        setup.check_init_from(data, model_args)
    resume_from = newest_checkpoint(Path(args.output_dir)) if args.resume else None
    origin = resume_from or model_args.init_from
    if origin is None:
        translation_setup.build_config(model_args, data, vocab_sizes=(8, 8))
    train_source, validation_source = translation_setup.open_sources(data, args.seed)

    accelerator = setup.start(args)
    if accelerator.distributed_type == DistributedType.FSDP:
        raise ScratchError("each process decodes for itself, which FSDP can't: use data parallelism")
    with accelerator.main_process_first():
        train, validation = translation_setup.read_pairs(data, train_source, validation_source)
        if origin is not None:
            model = translation_setup.load_translator(str(origin), model_args, data)
            tokenizers = translation_setup.open_tokenizers(str(origin), model)
        else:
            tokenizers = translation_setup.build_tokenizers(data, train)
            model = translation_setup.build_model(model_args, data, tokenizers)
            set_translation_defaults(model, tokenizers.target, model_args.num_beams)
    for tokenizer, size in zip(tokenizers, (model.config.vocab_size, model.config.decoder_vocab_size), strict=True):
        opening.check_vocabulary(tokenizer, size)
    setup.prefer_plain_attention(model, accelerator)
    longest = min(data.max_length, model.config.max_position_embeddings)
    encode = partial(translation_setup.encode, tokenizers, longest, accelerator)
    train_tokens = encode(train, "training", data.skip_long)
    validation_tokens = encode(validation, "validation", skip_long=False)
    texts = [pair[0] for pair in validation], [pair[1] for pair in validation]
    task = Translation(
        accelerator,
        train_tokens,
        validation_tokens,
        texts,
        tokenizers,
        args.tokens_per_batch,
        args.seed,
        args.eval_beams,
    )

    arguments = asdict(data) | asdict(model_args) | asdict(args)
    style = type(model).__name__ if model_args.init_from else model_args.preset
    title = f"{style} on {train_source.name}, {data.source_lang} to {data.target_lang}"
    facts = {
        "task": "translation",
        "title": title,
        "style": style,
        "dataset": train_source.name,
        "license": "apache-2.0" if data.dataset == "grammar" else data.dataset_license,
        "prompt": texts[0][0],
        "context_length": model.config.max_position_embeddings,
        "source_lang": data.source_lang,
        "target_lang": data.target_lang,
        "target_tokenizer": tokenizers.target is not tokenizers.source,
        "scores": signatures(),
        "train": translation_setup.sizes(train, train_tokens, train_source.empty),
        "validation": translation_setup.sizes(validation, validation_tokens, validation_source.empty),
    }
    second = tokenizers.target if tokenizers.target is not tokenizers.source else None
    folder = run(accelerator, model, tokenizers.source, task, args, arguments, facts, resume_from, second)
    if accelerator.is_main_process:
        report_translations(folder, texts, model_args.trust_remote_code)


if __name__ == "__main__":
    setup.run_command(main)
