"""GPTs: pre-training on text."""

from __future__ import annotations

from pathlib import Path

from ...data import stories
from ...data.corpus import data_fingerprint
from ...data.shards import shard_sizes
from ...evaluation.reload import report_reloaded
from ...hub import opening
from ...hub.model_directory import set_generation_defaults
from ..arguments.training import DataArguments, ModelArguments, PretrainingArguments
from ..data_setup import check_same_data, report_data
from ..engine import startup
from ..engine.run import Job
from ..language_modeling import LanguageModeling
from ..performance.attention_choice import choose_attention

TYPES = (DataArguments, ModelArguments, PretrainingArguments)


def prepare(
    data: DataArguments, model_args: ModelArguments, args: PretrainingArguments, resume_from: Path | None
) -> Job:
    """Read the data, and build or open the model; what can't be trained is refused before anything is written."""
    origin = resume_from or model_args.init_from
    context_length = startup.DEFAULT_CONTEXT_LENGTH if model_args.context_length is None else model_args.context_length
    if origin is None:
        startup.build_config(model_args, vocab_size=1, context_length=context_length, ids={})
    source, validation = startup.open_sources(data, args.seed)
    check_same_data(data_fingerprint(source.origin, validation.origin if validation else None), args)

    accelerator = startup.start(args)
    with accelerator.main_process_first():
        if origin is not None:
            dropouts = startup.chosen_dropouts(model_args)
            model = opening.load_model(origin, model_args.trust_remote_code, "causal", **dropouts)
            longest = getattr(model.config, "max_position_embeddings", context_length)
            if model_args.context_length is None:
                context_length = min(context_length, longest)
            named = str(origin if resume_from else data.tokenizer or origin)
            tokenizer = opening.open_tokenizer(named, trust_remote_code=model_args.trust_remote_code)
        else:
            tokenizer = startup.build_tokenizer(
                data.tokenizer or "bpe", data.vocab_size, source.documents, source.fingerprint(), context_length
            )
            ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
            model = startup.build_model(startup.build_config(model_args, len(tokenizer), context_length, ids))
            set_generation_defaults(model, tokenizer)
    opening.check_vocabulary(tokenizer, model.config.vocab_size)
    shards, summary = startup.prepare_shards(accelerator, source, validation, tokenizer, data)
    report_data(summary, accelerator.is_main_process)
    startup.check_context(model.config, shards, context_length)
    choose_attention(model, accelerator.device, context_length, all_alike=True)

    held_out = shards["validation"]
    is_stories = summary.built_in
    floor = stories.entropy_per_story() * len(held_out.ends) / len(held_out.tokens) if is_stories else None
    task = LanguageModeling(accelerator, shards, tokenizer, context_length, args.batch_size, args.seed, floor)

    style = type(model).__name__ if model_args.init_from else model_args.preset
    title = f"{style} on {source.name}"
    facts = {
        "task": "language-modeling",
        "title": title,
        "style": style,
        "dataset": source.name,
        "license": "apache-2.0" if is_stories else data.dataset_license,
        "prompt": " ".join(summary.samples[0][:20].split()),
        "context_length": context_length,
        "data": summary.record(),
        **{split: shard_sizes(shard) for split, shard in shards.items()},
    }

    def report(folder: Path) -> None:
        report_reloaded(folder, shards, is_stories, model_args.trust_remote_code)

    return Job(accelerator, model, tokenizer, task, args, facts, report)
