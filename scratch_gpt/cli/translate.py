"""`scratch-gpt translate`: translate sentences or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Compile, Device, Dtype, Trust, app, open_translator, refuse_unused
from .texts import one_line, print_data, read_texts, report_texts


@app.command()
def translate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of an encoder-decoder.")],
    text: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Sentences to translate.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Translate each line of this UTF-8 text file; empty lines stay empty.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write one translation per line here instead of printing them.")
    ] = None,
    num_beams: Annotated[
        int | None,
        typer.Option("--num_beams", min=1, help="Number of beams; 1 is greedy decoding. Default: the model's."),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            "--length_penalty", help="Exponent of the length in beam scores: higher values favour longer output."
        ),
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None, typer.Option("--no_repeat_ngram_size", min=1, help="Generate no n-gram of this many tokens twice.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Sentences per batch.")] = 64,
    source_lang: Annotated[
        str | None, typer.Option("--source_lang", help="Source language. Default: the model's.")
    ] = None,
    target_lang: Annotated[
        str | None, typer.Option("--target_lang", help="Target language. Default: the model's.")
    ] = None,
    attention: Annotated[
        Path | None, typer.Option(help="Plot the cross-attention between words to this image file; for one sentence.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    compile: Compile = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Translate sentences, or a file.

    Example:

    ```
    scratch-gpt translate runs/seq2seq "Gestern hat der Mann die Tür aufgemacht." --attention attention.png
    ```
    """
    from tqdm import tqdm

    from ..errors import ScratchError
    from ..evaluation import translation

    if attention is not None and (file is not None or len(text or []) != 1):
        raise ScratchError("--attention plots one sentence: give exactly one")
    texts = read_texts(text, file)
    opened, tokenizers = open_translator(model, trust_remote_code, device, dtype)
    opened.decoding_compilation = compile
    if (num_beams or opened.generation_config.num_beams or 1) == 1:
        refuse_unused(context, {"length_penalty": "without beam search"})
    report_texts(tokenizers.source, texts, opened.config.max_position_embeddings)
    choose_languages(opened, tokenizers, source_lang, target_lang)
    given = {"num_beams": num_beams, "length_penalty": length_penalty, "no_repeat_ngram_size": no_repeat_ngram_size}
    options = {name: value for name, value in given.items() if value is not None}
    total = sum(bool(text.strip()) for text in texts)
    with tqdm(total=total, unit=" sentences", leave=False, disable=None if file else True) as bar:
        translations = translation.translate(
            opened, tokenizers.source, texts, tokenizers.target, batch_size, bar.update, **options
        )
    lines = [one_line(text) for text in translations]
    if output is None:
        print_data("\n".join(lines))
    else:
        output.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(lines):,} lines in {output}")
    if attention is not None:
        from ..evaluation.cross_attention import plot_attention, word_attention

        words = word_attention(opened, tokenizers.source, tokenizers.target, texts[0], translations[0])
        plot_attention(*words, attention)
        print(f"attention in {attention}")


def choose_languages(model: Any, tokenizers: Any, source_lang: str | None, target_lang: str | None) -> tuple[str, str]:
    """Return source and target language of a translator. If its tokenizers have language codes and its config names no
    languages, as after an import, translations are set to the requested ones.

    Args:
        model: an encoder-decoder.
        tokenizers: its source and target tokenizers.
        source_lang: requested source language; None: the model's.
        target_lang: requested target language; None: the model's.

    Raises:
        ScratchError: see `check_languages`; or a tokenizer has no code for a language.
    """
    from ..models.configuration_scratch_seq2seq import directions_of
    from ..tokenization.language_codes import has_language_codes, set_language_codes, start_with_language

    languages = check_languages(model, source_lang, target_lang)
    if has_language_codes(tokenizers.source) and not directions_of(model.config):
        set_language_codes(tokenizers.source, *languages)
        start_with_language(model, tokenizers.target)
    return languages


def check_languages(model: Any, source_lang: str | None, target_lang: str | None) -> tuple[str, str]:
    """Return source and target language of a translator, checked against the requested ones.

    Args:
        model: an encoder-decoder.
        source_lang: requested source language; None: the model's.
        target_lang: requested target language; None: the model's.

    Raises:
        ScratchError: the model does not translate between these languages, or its config names none and neither does
            the request.
    """
    from ..errors import ScratchError
    from ..models.configuration_scratch_seq2seq import directions_of

    known = directions_of(model.config)
    matching = [(a, b) for a, b in known if source_lang in (None, a) and target_lang in (None, b)]
    if matching:
        return matching[0]
    if known:
        requested = source_lang or known[0][0], target_lang or known[0][1]
        raise ScratchError(f"the model translates {known[0][0]} to {known[0][1]}, not {requested[0]} to {requested[1]}")
    if source_lang is None or target_lang is None:
        raise ScratchError("the model's config names no languages: give --source_lang and --target_lang")
    return source_lang, target_lang
