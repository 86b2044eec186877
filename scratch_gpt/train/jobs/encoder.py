"""Encoders: guessing masked words."""

from __future__ import annotations

from pathlib import Path

from ...data.corpus import data_fingerprint
from ...errors import ScratchError
from ...evaluation.masked import report_guesses
from ...hub import opening
from .. import encoder_setup
from ..arguments.training import DataArguments
from ..data_setup import check_same_data, report_data
from ..encoder_arguments import EncoderModelArguments, MaskedTrainingArguments
from ..engine import startup
from ..engine.run import Job
from ..engine.task import check_sharding
from ..masked_language_modeling import MaskedLanguageModeling
from ..performance.attention_choice import choose_attention

TYPES = (DataArguments, EncoderModelArguments, MaskedTrainingArguments)


def prepare(
    data: DataArguments, model_args: EncoderModelArguments, args: MaskedTrainingArguments, resume_from: Path | None
) -> Job:
    """Read the data, and build or open the model; what can't be trained is refused before anything is written."""
    origin = resume_from or model_args.init_from
    if model_args.context_length < 3:
        raise ScratchError(f"context_length is {model_args.context_length}, want at least 3: <bos>, a token, <eos>")
    if origin is None:
        encoder_setup.build_config(model_args, vocab_size=8, ids={})
    source, validation = startup.open_sources(data, args.seed)
    check_same_data(data_fingerprint(source.origin, validation.origin if validation else None), args)

    accelerator = startup.start(args)
    check_sharding(MaskedLanguageModeling, accelerator)
    with accelerator.main_process_first():
        if origin is not None:
            dropouts = startup.chosen_dropouts(model_args)
            model = opening.load_model(origin, model_args.trust_remote_code, "masked", **dropouts)
            named = str(origin if resume_from else data.tokenizer or origin)
            tokenizer = opening.open_tokenizer(named, trust_remote_code=model_args.trust_remote_code)
        else:
            tokenizer = startup.build_tokenizer(
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
    longest = min(model_args.context_length, model.config.max_position_embeddings)
    choose_attention(model, accelerator.device, longest)
    shards, summary = startup.prepare_shards(accelerator, source, validation, tokenizer, data)
    report_data(summary, accelerator.is_main_process)
    rows = {split: encoder_setup.rows_of_documents(shard, tokenizer, longest) for split, shard in shards.items()}
    task = MaskedLanguageModeling(
        accelerator,
        rows["train"],
        rows["validation"],
        tokenizer,
        args.tokens_per_batch,
        args.mask_probability,
        args.seed,
    )

    style = type(model).__name__ if model_args.init_from else model_args.preset
    facts = {
        "task": "masked-language-modeling",
        "title": f"{style} on {source.name}, masked",
        "style": style,
        "dataset": source.name,
        "license": "apache-2.0" if summary.built_in else data.dataset_license,
        "prompt": task.example,
        "context_length": model.config.max_position_embeddings,
        "data": summary.record(),
        **{split: {"texts": len(found), "tokens": len(found.ids)} for split, found in rows.items()},
    }

    def report(folder: Path) -> None:
        report_guesses(folder, task.example, model_args.trust_remote_code)

    return Job(accelerator, model, tokenizer, task, args, facts, report)
