"""`scratch-gpt evaluate`: evaluate a model on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import Device, Dtype, Model, Trust, app, open_model, refuse_unused
from .texts import one_line, report_skipped

if TYPE_CHECKING:
    from ..data.readers.tables import ReadOptions

# Options of `evaluate` that each kind of model uses.
USED_BY: dict[str, set[str]] = {
    "causal": {"text_column", "split", "held_out", "split_seed", "context_length", "num_stories", "seed", "baselines"},
    "seq2seq": {"split", "target_file", "num_pairs", "seed", "source_lang", "target_lang", "num_beams", "output"},
    "classifier": {"text_column", "label_column", "split", "confusion"},
}
# Data options, and those of them that each built-in dataset uses.
DATA_OPTIONS = {"text_column", "label_column", "split", "target_file", "num_stories", "num_pairs", "seed"}
LABELS = {"unk_share": "unknown tokens, fraction"}  # of metrics whose names are not clear
BUILT_IN = {"stories": {"num_stories", "seed"}, "grammar": {"num_pairs", "seed", "split"}, "languages": {"split"}}


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
            "--held_out", help="Evaluate only this fraction of the text, chosen as training holds it out; 1: all."
        ),
    ] = 1.0,
    split_seed: Annotated[
        int, typer.Option("--split_seed", min=0, help="With --held_out: --split_seed of the training run.")
    ] = 0,
    context_length: Annotated[
        int | None, typer.Option("--context_length", min=1, help="Window length in tokens. Default: the model's.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Windows or texts per batch.")] = 16,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines",
            help="Compare a language model with gzip, xz and an untrained model and, with --held_out as in training, "
            "with tables of token frequencies; then also measure whether it memorises the training text.",
        ),
    ] = True,
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
    """Evaluate a model. A language model: loss, perplexity and bits per byte of a text, and the bits per byte of gzip
    and other simple methods. A translator: BLEU and chrF, with sacrebleu's signatures. A classifier: accuracy, F1 and
    the confusion matrix.

    Examples:

    ```
    scratch-gpt evaluate runs/gpt --dataset stories --num_stories 200
    scratch-gpt evaluate runs/mine --dataset my_text.txt --held_out 0.1
    scratch-gpt evaluate runs/seq2seq --dataset grammar --split test
    scratch-gpt evaluate runs/classifier --dataset languages --confusion confusion.png
    ```
    """
    from rich.table import Table

    from ..data.readers.sources import open_source
    from ..data.readers.tables import ReadOptions
    from ..errors import ScratchError
    from ..evaluation.language_modeling import score_text
    from ..evaluation.text_report import report_on_text, sample_texts
    from ..hub.model_directory import kind_of_model
    from ..terminal import SafeConsole

    opened, tokenizer = open_model(model, trust_remote_code, device, dtype)
    kind = kind_of_model(opened.config)
    if kind not in USED_BY:
        raise ScratchError(
            f"{model} is a {type(opened).__name__}, want a language model, a translator or a classifier, such as one "
            "of 'scratch-gpt train classification' with this --init_from"
        )
    refuse_unused(context, unused_options(kind, opened.config.model_type, dataset))
    options = ReadOptions(split=split)
    if text_column is None:
        refuse_messages(dataset, options)
    if kind == "classifier":
        from ..data.readers.labelled import open_labelled

        labelled = open_labelled(dataset, options, text_column=text_column, label_column=label_column)
        examples = list(labelled.read())
        report_skipped(labelled.name, labelled.count)
        evaluate_classifier(opened, tokenizer, examples, labelled.name, batch_size, confusion)
        return
    if kind == "seq2seq":
        from ..data.readers.parallel import open_pairs
        from ..hub.loading import open_tokenizers
        from .translate import choose_languages

        tokenizers = open_tokenizers(model, opened.config, trust_remote_code)
        languages = choose_languages(opened, tokenizers, source_lang, target_lang)
        second = str(target_file) if target_file else None
        pairs = open_pairs(dataset, *languages, options, target_file=second, num_pairs=num_pairs, seed=seed)
        found = list(pairs.read())
        report_skipped(pairs.name, pairs.count)
        evaluate_translator(opened, tokenizers, found, languages[1], num_beams, batch_size, output)
        return
    source = open_source(dataset, options, text_column=text_column, num_stories=num_stories, seed=seed)
    with SafeConsole(stderr=True).status("scoring"):
        scored = score_text(opened, tokenizer, source, held_out, context_length, batch_size, split_seed)
    table = Table(show_header=False)
    for name, value in scored.metrics.items():
        table.add_row(
            LABELS.get(name, name.replace("_", " ")), f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        )
    SafeConsole().print(table)
    if baselines:
        with SafeConsole(stderr=True).status("comparing with other methods"):
            samples = sample_texts(opened, tokenizer) if "train" in scored.shards else []
            bits = scored.metrics["bits_per_byte"]
            report = report_on_text(opened, tokenizer, scored.shards, scored.row_length, bits, samples)
        report.print(SafeConsole())


def refuse_messages(dataset: str, options: ReadOptions) -> None:
    """Raise an error for a local table of conversations or preferences.

    Args:
        dataset: as the option `--dataset`.
        options: how it is read.

    Raises:
        ScratchError: the columns are those of conversations or preferences, and none is text by its name.
    """
    from contextlib import suppress

    from ..data.readers.conversations import find_conversation_columns
    from ..data.readers.files import kind_of
    from ..data.readers.tables import TEXT_COLUMNS, open_table
    from ..errors import ScratchError

    if not Path(dataset).is_file() or kind_of(Path(dataset)) in ("text", None):
        return
    table = open_table(dataset, options)
    if any(map(table.has, TEXT_COLUMNS)):
        return
    scores = "'scratch-gpt evaluate' scores text, sentence pairs and labelled texts"
    found = None
    with suppress(ScratchError):
        found = find_conversation_columns(table, None)
    if found:
        raise ScratchError(
            f"{dataset} has conversations, and {scores}: conversations are evaluated during 'scratch-gpt train sft', "
            "on --validation_dataset, or on a --test_fraction of the data"
        )
    if table.has("chosen") and table.has("rejected"):
        raise ScratchError(
            f"{dataset} has preferences, and {scores}: preferences are evaluated during 'scratch-gpt train dpo', on "
            "--validation_dataset"
        )


def unused_options(kind: str, model_type: str, dataset: str) -> dict[str, str]:
    """Return the options of `evaluate` that have no effect, each with the reason.

    Args:
        kind: kind of the model, as `kind_of_model` returns it.
        model_type: `model_type` of its config.
        dataset: as the option `--dataset`.
    """
    from ..data.readers.files import kind_of

    every = set().union(*USED_BY.values())
    built_in = {"causal": "stories", "seq2seq": "grammar", "classifier": "languages"}[kind]
    if dataset == built_in:
        unused = dict.fromkeys(DATA_OPTIONS - BUILT_IN[dataset], f"with the built-in {dataset}")
    else:
        unused = dict.fromkeys(("num_stories", "num_pairs", "seed"), f"with {dataset}, only with built-in data")
        if Path(dataset).is_file():
            unused["split"] = "with a single file"
            if kind_of(Path(dataset)) in ("text", None):
                unused["text_column"] = "with a text file"
    return unused | dict.fromkeys(every - USED_BY[kind], f"with a {model_type} model")


def evaluate_translator(
    model: Any,
    tokenizers: Any,
    pairs: list[tuple[str, str]],
    target_lang: str,
    num_beams: int | None,
    batch_size: int,
    output: Path | None,
) -> None:
    """Translate all sources and print the scores.

    Args:
        model: encoder-decoder in evaluation mode.
        tokenizers: its source and target tokenizers, as `open_tokenizers` returns them.
        pairs: source and reference translation of each sentence.
        target_lang: target language, for the Moses tokenizer.
        num_beams: number of beams; None is the model's default.
        batch_size: sentences per batch.
        output: file to write the translations to, one per line; None writes none.
    """
    from rich.table import Column, Table
    from tqdm import tqdm

    from ..errors import ScratchError
    from ..evaluation import translation
    from ..terminal import SafeConsole

    sources, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    options = {} if num_beams is None else {"num_beams": num_beams}
    signatures = translation.signatures()  # before anything is translated: sacrebleu can be missing
    with tqdm(total=len(pairs), unit=" sentences", leave=False, disable=None) as bar:
        hypotheses = translation.translate(
            model, tokenizers.source, sources, tokenizers.target, batch_size, bar.update, **options
        )
    if output is not None:
        output.write_text("\n".join(map(one_line, hypotheses)) + "\n", encoding="utf-8")
    scores = translation.translation_scores(hypotheses, references)
    table = Table("score", "", Column("signature", overflow="fold"), title=f"{len(pairs):,} sentences")
    for name in ("bleu", "bleu_lowercase", "chrf"):
        table.add_row(name.replace("_", ", "), f"{scores[name]:.2f}", signatures[name])
    try:
        moses = f"{translation.moses_bleu(hypotheses, references, target_lang):.2f}"
        table.add_row("bleu, Moses tokens", moses, f"lower-cased, sacremoses, {target_lang}")
    except ScratchError as error:
        table.add_row("bleu, Moses tokens", "", f"not computed: {error}")
    table.add_row("exact matches", f"{scores['exact']:.1%}", "")
    SafeConsole().print(table)


def evaluate_classifier(
    model: Any, tokenizer: Any, examples: list[tuple[str, str]], source: str, batch_size: int, confusion: Path | None
) -> None:
    """Classify all texts and print accuracy, F1 and the confusion matrix.

    Args:
        model: classifier in evaluation mode.
        tokenizer: its tokenizer.
        examples: text and label name of each example; a label may be its number if the model's labels are names.
        source: name of the dataset, for messages.
        batch_size: texts per batch.
        confusion: image file to plot the confusion matrix to; None plots none.
    """
    from tqdm import tqdm

    from ..data.readers.labelled import check_labels
    from ..evaluation import classification
    from ..terminal import SafeConsole

    names = classification.label_names_of(model.config)
    if all(label.isdigit() for _, label in examples) and not all(name.isdigit() for name in names):
        numbered = {str(number): name for number, name in enumerate(names)}
        examples = [(text, numbered.get(label, label)) for text, label in examples]
    check_labels(examples, names, source)
    with tqdm(total=len(examples), unit=" texts", leave=False, disable=None) as bar:
        probabilities = classification.classify(
            model, tokenizer, [text for text, _ in examples], batch_size, bar.update
        )
    labels, predictions = [names.index(label) for _, label in examples], probabilities.argmax(-1).tolist()
    classification.print_scores(SafeConsole(), labels, predictions, names, source)
    if confusion is not None:
        matrix = classification.confusion_matrix(labels, predictions, len(names))
        classification.plot_confusion(matrix, names, confusion)
        print(f"confusion matrix in {confusion}")
