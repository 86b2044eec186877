"""`scratch-gpt generate`, `evaluate`, `info`, `import`, `export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from . import Trust, app, open_model

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of a model.")]


@app.command()
def generate(
    model: Model,
    prompt: Annotated[list[str] | None, typer.Option(help="Text to go on from; may be given several times.")] = None,
    prompt_file: Annotated[Path | None, typer.Option("--prompt_file", help="File with a prompt on each line.")] = None,
    num_samples: Annotated[int, typer.Option("--num_samples", min=1, help="Texts for each prompt.")] = 1,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max_new_tokens", min=1, help="Most tokens to write. Default: the model's.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Below 1 is bolder, 0 always takes the likeliest.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top_k", min=0, help="Choose among so many tokens only; 0: among all.")] = 50,
    top_p: Annotated[
        float, typer.Option("--top_p", min=0.0, max=1.0, help="Choose among the likeliest that sum to this.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 0,
    trust_remote_code: Trust = False,
) -> None:
    """Write text, as it comes.

    Example: `scratch-gpt generate runs/gpt --prompt "One day, Anna" --num_samples 2 --temperature 0.8`
    """
    import torch
    from transformers import TextStreamer

    from ..errors import ScratchError
    from ..hub.model_directory import kind_of_model

    prompts = list(prompt or [])
    if prompt_file is not None:
        if not prompt_file.is_file():
            raise ScratchError(f"no such prompt file: {prompt_file}")
        prompts += [line for line in prompt_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    opened, tokenizer = open_model(model, trust_remote_code)
    if not opened.can_generate() or opened.config.is_encoder_decoder:
        instead = {"classifier": "classify", "masked": "fill", "seq2seq": "translate"}[kind_of_model(opened.config)]
        raise ScratchError(f"{model} does not go on with a text: use 'scratch-gpt {instead}'")
    choice = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    how = choice if temperature > 0 else {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    length = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    for number, text in enumerate(prompts or [""]):
        inputs = tokenizer(text, return_tensors="pt")
        if inputs["input_ids"].shape[1] == 0:
            inputs = tokenizer(tokenizer.eos_token, return_tensors="pt")
        for sample in range(num_samples):
            torch.manual_seed(seed + sample)
            opened.generate(**inputs, streamer=streamer, **how, **length)
            if number + 1 < len(prompts) or sample + 1 < num_samples:
                print()


@app.command()
def evaluate(
    model: Model,
    dataset: Annotated[
        str, typer.Option(help="'stories', 'grammar', 'languages', a text file, a folder, a table, or a Hub dataset.")
    ],
    text_column: Annotated[
        str | None, typer.Option("--text_column", help="Column of a table that holds the text.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a Hub dataset; of translations, also of a folder.")] = "test",
    held_out: Annotated[
        float, typer.Option("--held_out", help="Score this last share only, as training held it out; 1: all.")
    ] = 1.0,
    context_length: Annotated[
        int | None, typer.Option("--context_length", min=1, help="Window in tokens. Default: the model's.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Windows or sentences at a time.")] = 16,
    num_stories: Annotated[int, typer.Option("--num_stories", min=1, help="How many built-in stories.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the built-in texts.")] = 1_000_000,
    target_file: Annotated[
        Path | None, typer.Option("--target_file", help="Translations of the lines of --dataset.")
    ] = None,
    num_pairs: Annotated[int, typer.Option("--num_pairs", min=1, help="How many pairs of the built-in grammar.")] = 500,
    source_lang: Annotated[
        str | None, typer.Option("--source_lang", help="Language to translate from. Default: the model's.")
    ] = None,
    target_lang: Annotated[
        str | None, typer.Option("--target_lang", help="Language to translate into. Default: the model's.")
    ] = None,
    num_beams: Annotated[int | None, typer.Option("--num_beams", min=1, help="Beams. Default: the model's.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the translations here.")] = None,
    label_column: Annotated[
        str | None, typer.Option("--label_column", help="Column of a table that holds the label.")
    ] = None,
    confusion: Annotated[Path | None, typer.Option(help="Draw the confusion matrix here, as a picture.")] = None,
    trust_remote_code: Trust = False,
) -> None:
    """Score a model. A language model: every token of a text once, as loss, perplexity, bits a byte. A translator: BLEU
    and chrF of its translations, with sacrebleu's signatures. A classifier: accuracy, F1 and the confusion matrix.

    Example: `scratch-gpt evaluate runs/gpt --dataset stories --num_stories 200`,
    `scratch-gpt evaluate runs/seq2seq --dataset grammar --split test`, or
    `scratch-gpt evaluate runs/classifier --dataset languages --confusion confusion.png`
    """
    from rich.console import Console
    from rich.table import Table

    from ..data.sources import open_source
    from ..errors import ScratchError
    from ..evaluation.language import evaluate_text
    from ..hub.model_directory import kind_of_model

    opened, tokenizer = open_model(model, trust_remote_code)
    kind = kind_of_model(opened.config)
    takes: dict[str, dict[str, Any]] = {
        "causal": {"held_out": held_out != 1.0, "context_length": context_length, "text_column": text_column},
        "seq2seq": {"target_file": target_file, "source_lang": source_lang, "target_lang": target_lang}
        | {"num_beams": num_beams, "output": output},
        "classifier": {"label_column": label_column, "text_column": text_column, "confusion": confusion},
    }
    if kind not in takes:
        raise ScratchError(f"{model} is a {type(opened).__name__}: train_classifier.py makes a classifier of it")
    given = {name for other in takes.values() for name, value in other.items() if value} - set(takes[kind])
    if given:
        unfit = ", ".join(f"--{name}" for name in sorted(given))
        raise ScratchError(f"{unfit} can't be used with a {opened.config.model_type} model: leave it out")
    if kind == "classifier":
        from ..data.labelled import open_labelled
        from .classification import evaluate_classifier

        labelled = open_labelled(dataset, split=split, text_column=text_column, label_column=label_column)
        evaluate_classifier(opened, tokenizer, list(labelled.read()), labelled.name, batch_size, confusion)
        return
    if kind == "seq2seq":
        from ..data.pairs import open_pairs
        from ..train.translation_setup import open_tokenizers
        from .translation import check_languages, evaluate_translator

        languages = check_languages(opened, source_lang, target_lang)
        second = str(target_file) if target_file else None
        pairs = open_pairs(dataset, *languages, target_file=second, split=split, num_pairs=num_pairs, seed=seed)
        found = list(pairs.pairs())
        tokenizers = open_tokenizers(model, opened)
        evaluate_translator(opened, tokenizers, found, languages[1], num_beams, batch_size, output)
        return
    source = open_source(dataset, text_column=text_column, split=split, num_stories=num_stories, seed=seed)
    with Console(stderr=True).status("scoring"):
        figures = evaluate_text(opened, tokenizer, source, held_out, context_length, batch_size)
    table = Table(show_header=False)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
    Console().print(table)


@app.command()
def info(model: Model, trust_remote_code: Trust = False) -> None:
    """Show the architecture: each tensor, its shape, its parameters and their share.

    Example: `scratch-gpt info runs/gpt`
    """
    from rich.console import Console
    from rich.table import Table

    opened, _ = open_model(model, trust_remote_code)
    total = opened.num_parameters()
    table = Table("tensor", "shape", "parameters", "share", title=f"{type(opened).__name__}, {total:,} parameters")
    for name, parameter in opened.named_parameters():
        shape = " × ".join(map(str, parameter.shape))
        table.add_row(name, shape, f"{parameter.numel():,}", f"{parameter.numel() / total:.1%}")
    tied = sorted(getattr(opened, "all_tied_weights_keys", None) or {})
    if tied:
        table.caption = f"tied to the embedding: {', '.join(tied)}"
    Console().print(table)


@app.command("export")
def export_command(model: Model, output_dir: Annotated[Path, typer.Argument(help="Folder for the twin.")]) -> None:
    """Write the plain transformers model with the same weights, which needs no remote code.

    Example: `scratch-gpt export runs/gpt runs/native`
    """
    from ..hub.twins import export_native

    _convert(model, output_dir, export_native)


@app.command("import")
def import_command(model: Model, output_dir: Annotated[Path, typer.Argument(help="Folder for our model.")]) -> None:
    """Turn a GPT-2, Llama, NanoChat, Marian or BERT checkpoint of transformers into ours.

    Example: `scratch-gpt import runs/native runs/imported`
    """
    from ..hub.twins import import_native

    _convert(model, output_dir, import_native)


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
