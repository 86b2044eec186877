"""`scratch-gpt generate`, `evaluate`, `info`, `import`, `export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from . import Device, Dtype, Trust, app, open_model, refuse_unused
from .texts import read_file, report_skipped, report_texts, safe_streamer

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of a model.")]


# Options of `evaluate` by the kind of model that uses them, and by the built-in dataset that does.
USED_BY: dict[str, set[str]] = {
    "causal": {"text_column", "split", "held_out", "split_seed", "context_length", "num_stories", "seed"},
    "seq2seq": {"split", "target_file", "num_pairs", "seed", "source_lang", "target_lang", "num_beams", "output"},
    "classifier": {"text_column", "label_column", "split", "confusion"},
}
BUILT_IN = {"stories": {"num_stories", "seed"}, "grammar": {"num_pairs", "seed", "split"}, "languages": {"split"}}
OF_DATA = {"text_column", "label_column", "split", "target_file", "num_stories", "num_pairs", "seed"}


@app.command()
def generate(
    context: typer.Context,
    model: Model,
    prompt: Annotated[list[str] | None, typer.Option(help="Text to continue; may be given several times.")] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt_file", help="UTF-8 text file with one prompt per line.")
    ] = None,
    num_samples: Annotated[int, typer.Option("--num_samples", min=1, help="Completions of each prompt.")] = 1,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max_new_tokens", min=1, help="Maximum number of new tokens. Default: the model's.")
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Softmax temperature: below 1 sharpens the distribution, above 1 flattens it, 0 is greedy decoding.",
        ),
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option("--top_k", min=0, help="Sample from the k most probable tokens; 0 disables it.")
    ] = 50,
    top_p: Annotated[
        float,
        typer.Option(
            "--top_p",
            min=0.0,
            max=1.0,
            help="Nucleus sampling: from the most probable tokens whose probabilities add up to this; 1 disables it.",
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Random seed of the sampling.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Generate text and stream it to standard output.

    Prompt and completion stay within the model's positions: generation stops there, and a prompt that fills them is
    skipped; both are reported on standard error.

    Example: `scratch-gpt generate runs/gpt --prompt "One day, Anna" --num_samples 2 --temperature 0.8`
    """
    import sys

    import torch

    from ..errors import ScratchError
    from ..evaluation.positions import default_new_tokens, new_tokens_within, pad_rows, position_limit
    from ..evaluation.positions import generate as generate_tokens
    from ..hub.model_directory import kind_of_model
    from ..rl.rollouts import ends_of

    if temperature == 0:
        refuse_unused(context, dict.fromkeys(("top_k", "top_p", "seed"), "with greedy decoding (--temperature 0)"))
    prompts = list(prompt or [])
    if prompt_file is not None:
        prompts += [line for line in read_file(prompt_file) if line.strip()]
        if not prompts:
            raise ScratchError(f"{prompt_file} holds no prompt")
    opened, tokenizer = open_model(model, trust_remote_code, device, dtype)
    if not opened.can_generate() or opened.config.is_encoder_decoder:
        instead = {"classifier": "classify", "masked": "fill", "seq2seq": "translate"}[kind_of_model(opened.config)]
        raise ScratchError(f"{model} does not continue a text: use 'scratch-gpt {instead}'")
    report_texts(tokenizer, prompts)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    how = sampling if temperature > 0 else {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    streamer = safe_streamer(tokenizer)
    ends = ends_of(opened, tokenizer)
    limit = position_limit(opened.config)
    written = 0
    for number, text in enumerate(prompts or [""], start=1):
        ids = tokenizer(text, verbose=False).input_ids or [tokenizer.eos_token_id]
        inputs = pad_rows([ids], tokenizer, "left", opened.device)
        wanted = default_new_tokens(opened, len(ids)) if max_new_tokens is None else max_new_tokens
        room = new_tokens_within(opened, len(ids), wanted)
        if room < 1:
            print(
                f"prompt {number} is skipped: its {len(ids)} tokens fill the model's {limit} positions", file=sys.stderr
            )
            continue
        stopped = False
        for sample in range(num_samples):
            if written:
                print()
            written += 1
            torch.manual_seed(seed + sample)
            tokens = generate_tokens(opened, **inputs, streamer=streamer, **how, max_new_tokens=room)[0]
            stopped |= len(tokens) == len(ids) + room and int(tokens[-1]) not in ends
        if room < wanted and stopped:
            print(f"prompt {number}: generation stopped at the model's {limit} positions", file=sys.stderr)


@app.command()
def evaluate(
    context: typer.Context,
    model: Model,
    dataset: Annotated[
        str, typer.Option(help="'stories', 'grammar', 'languages', a text file, a folder, a table, or a Hub dataset.")
    ],
    text_column: Annotated[str | None, typer.Option("--text_column", help="Column of a table with the text.")] = None,
    split: Annotated[str, typer.Option(help="Split of a Hub dataset, a folder, or built-in data.")] = "test",
    held_out: Annotated[
        float,
        typer.Option(
            "--held_out", help="Evaluate only this share of the text, chosen as training holds it out; 1: all."
        ),
    ] = 1.0,
    split_seed: Annotated[
        int, typer.Option("--split_seed", min=0, help="With --held_out: --split_seed of the training run.")
    ] = 0,
    context_length: Annotated[
        int | None, typer.Option("--context_length", min=1, help="Window length in tokens. Default: the model's.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Windows or texts per batch.")] = 16,
    num_stories: Annotated[int, typer.Option("--num_stories", min=1, help="Number of built-in stories.")] = 1000,
    seed: Annotated[int, typer.Option(help="Random seed of the built-in texts.")] = 1_000_000,
    target_file: Annotated[
        Path | None, typer.Option("--target_file", help="Reference translations of the lines of --dataset.")
    ] = None,
    num_pairs: Annotated[
        int, typer.Option("--num_pairs", min=1, help="Number of sentence pairs of the built-in grammar.")
    ] = 500,
    source_lang: Annotated[
        str | None, typer.Option("--source_lang", help="Source language. Default: the model's.")
    ] = None,
    target_lang: Annotated[
        str | None, typer.Option("--target_lang", help="Target language. Default: the model's.")
    ] = None,
    num_beams: Annotated[
        int | None, typer.Option("--num_beams", min=1, help="Number of beams. Default: the model's.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the translations to this file, one per line.")] = None,
    label_column: Annotated[
        str | None, typer.Option("--label_column", help="Column of a table with the label.")
    ] = None,
    confusion: Annotated[Path | None, typer.Option(help="Plot the confusion matrix to this image file.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Evaluate a model. A language model: loss, perplexity and bits per byte of a text. A translator: BLEU and chrF,
    with sacrebleu's signatures. A classifier: accuracy, F1 and the confusion matrix.

    Example: `scratch-gpt evaluate runs/gpt --dataset stories --num_stories 200`,
    `scratch-gpt evaluate runs/seq2seq --dataset grammar --split test`, or
    `scratch-gpt evaluate runs/classifier --dataset languages --confusion confusion.png`
    """
    from rich.table import Table

    from ..data.sources import open_source
    from ..data.tables import ReadOptions
    from ..errors import ScratchError
    from ..evaluation.language import evaluate_text
    from ..hub.model_directory import kind_of_model
    from ..terminal import SafeConsole

    opened, tokenizer = open_model(model, trust_remote_code, device, dtype)
    kind = kind_of_model(opened.config)
    if kind not in USED_BY:
        raise ScratchError(f"{model} is a {type(opened).__name__}: train_classifier.py makes a classifier of it")
    refuse_unused(context, unused_options(kind, opened.config.model_type, dataset))
    options = ReadOptions(split=split)
    if kind == "classifier":
        from ..data.labelled import open_labelled
        from .classification import evaluate_classifier

        labelled = open_labelled(dataset, options, text_column=text_column, label_column=label_column)
        examples = list(labelled.read())
        report_skipped(labelled.name, labelled.count)
        evaluate_classifier(opened, tokenizer, examples, labelled.name, batch_size, confusion)
        return
    if kind == "seq2seq":
        from ..data.pairs import open_pairs
        from ..train.translation_setup import open_tokenizers
        from .translation import check_languages, evaluate_translator

        languages = check_languages(opened, source_lang, target_lang)
        second = str(target_file) if target_file else None
        pairs = open_pairs(dataset, *languages, options, target_file=second, num_pairs=num_pairs, seed=seed)
        found = list(pairs.read())
        report_skipped(pairs.name, pairs.count)
        tokenizers = open_tokenizers(model, opened, trust_remote_code)
        evaluate_translator(opened, tokenizers, found, languages[1], num_beams, batch_size, output)
        return
    source = open_source(dataset, options, text_column=text_column, num_stories=num_stories, seed=seed)
    with SafeConsole(stderr=True).status("scoring"):
        figures = evaluate_text(opened, tokenizer, source, held_out, context_length, batch_size, split_seed)
    table = Table(show_header=False)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
    SafeConsole().print(table)


@app.command()
def info(model: Model, trust_remote_code: Trust = False) -> None:
    """Show the parameters of a model: name, shape, number and share of the total.

    Example: `scratch-gpt info runs/gpt`
    """
    from rich.table import Table

    from ..terminal import SafeConsole

    opened, _ = open_model(model, trust_remote_code)
    total = opened.num_parameters()
    table = Table("tensor", "shape", "parameters", "share", title=f"{type(opened).__name__}, {total:,} parameters")
    for name, parameter in opened.named_parameters():
        shape = " × ".join(map(str, parameter.shape))
        table.add_row(name, shape, f"{parameter.numel():,}", f"{parameter.numel() / total:.1%}")
    tied = sorted(getattr(opened, "all_tied_weights_keys", None) or {})
    if tied:
        table.caption = f"tied to the embedding: {', '.join(tied)}"
    SafeConsole().print(table)


@app.command("export")
def export_command(
    model: Model, output_dir: Annotated[Path, typer.Argument(help="Folder to write the converted model to.")]
) -> None:
    """Convert a model to transformers' own class with the same weights, which needs no remote code.

    Example: `scratch-gpt export runs/gpt runs/native`
    """
    from ..hub.twins import export_native

    _convert(model, output_dir, export_native)


@app.command("import")
def import_command(
    model: Model, output_dir: Annotated[Path, typer.Argument(help="Folder to write the converted model to.")]
) -> None:
    """Convert a GPT-2, Llama, NanoChat, Marian or BERT checkpoint of transformers to this package's classes.

    Example: `scratch-gpt import runs/native runs/imported`
    """
    from ..hub.twins import import_native

    _convert(model, output_dir, import_native)


def unused_options(kind: str, model_type: str, dataset: str) -> dict[str, str]:
    """Which options of `evaluate` have no effect, and why.

    Args:
        kind: of the model, as `kind_of_model` says.
        model_type: its name in the config.
        dataset: as the option of that name.
    """
    from ..data.files import kind_of

    every = set().union(*USED_BY.values())
    built_in = {"causal": "stories", "seq2seq": "grammar", "classifier": "languages"}[kind]
    if dataset == built_in:
        unused = dict.fromkeys(OF_DATA - BUILT_IN[dataset], f"with the built-in {dataset}")
    else:
        unused = dict.fromkeys(("num_stories", "num_pairs", "seed"), f"with {dataset}, only with built-in data")
        if Path(dataset).is_file():
            unused["split"] = "with a single file"
            if kind_of(Path(dataset)) in ("text", None):
                unused["text_column"] = "with a text file"
    return unused | dict.fromkeys(every - USED_BY[kind], f"with a {model_type} model")


def _convert(model: str, output_dir: Path, convert: Callable[[Any], Any]) -> None:
    """Write what `convert` makes of a model, with its tokenizers, into an empty folder."""
    from ..hub.model_directory import copy_tokenizers

    _check_empty(output_dir)
    opened, _ = open_model(model)
    converted = convert(opened)
    converted.save_pretrained(output_dir)
    copy_tokenizers(model, opened.config, output_dir)
    print(f"{type(converted).__name__} in {output_dir}")


def _check_empty(folder: Path) -> None:
    from ..errors import ScratchError

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ScratchError(f"{folder} is there already and not an empty folder: name another")
