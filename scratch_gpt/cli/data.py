"""`scratch-gpt data`: inspect a dataset as a training task would read it."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import typer

from ..data.readers.examples import EXAMPLES
from .app import app

if TYPE_CHECKING:
    from ..tokenization.training import Kind, Template


def argument_types() -> dict[str, Any]:
    """Return the data arguments (a dataclass) of each family."""
    from ..train.tasks import FAMILIES, arguments_of

    return {family: arguments_of(family)[0] for family in FAMILIES}


def data_command(**given: Any) -> None:
    """Show what is read from a dataset, without training: files, split, columns, delimiter and header; rows read, and
    rows skipped by reason; characters, duplicates, labels, lengths; the size of each split; and five samples.

    The options are those of the training tasks, and the data is read by the same code. `--example KIND` writes a tiny
    file in the form that a task reads, for a first look.

    Examples:

    ```
    scratch-gpt data reviews.csv --for classification --label_column stars
    scratch-gpt data FOLDER --tokenizer bpe --context_length 256
    scratch-gpt data stories --json
    scratch-gpt data --example conversations
    ```
    """
    import json

    from ..terminal import SafeConsole, printable
    from ..train.tasks import recipe_of

    family, dataset, example = given.pop("for_"), given.pop("dataset"), given.pop("example")
    _check_one(dataset, example)
    if example is not None:
        _write_example(example)
        return
    as_json, tokenizer = given.pop("json_"), given.pop("tokenizer")
    vocab_size, context_length, seed = given.pop("vocab_size"), given.pop("context_length"), given.pop("seed")
    kind = argument_types()[family]
    chosen = {name: value for name, value in given.items() if value not in (None, [])}
    _check_options(set(chosen) - _names(kind), family, tokenizer, bool(vocab_size or context_length))
    data = kind(dataset=dataset, **chosen)
    preview = recipe_of(family).preview
    summary, texts = preview.read(data, seed)
    content = summary.to_dict()
    if tokenizer is not None:
        content["lengths"], content["unknown_share"] = _lengths(
            tokenizer, vocab_size, context_length, preview.template, texts
        )
    if as_json:
        text = json.dumps(content, ensure_ascii=False, indent=1)
        # json.dumps escapes only some control characters, and no lone surrogates.
        print(text if printable(text) == text else json.dumps(content, indent=1))
    else:
        _print(SafeConsole(), content, summary)


def _check_one(dataset: str | None, example: str | None) -> None:
    """Raise an error unless there is either a dataset or the kind of an example."""
    from ..errors import ScratchError

    if (dataset is None) == (example is None):
        raise ScratchError("want a dataset to inspect, or --example KIND to write an example file: give one of the two")


def _write_example(kind: str) -> None:
    """Write the example file of a kind into the working directory, and print it and how to read it."""
    from ..data.readers.examples import write_example
    from ..terminal import SafeConsole

    path, console = write_example(kind, Path()), SafeConsole()
    console.print(EXAMPLES[kind].content, soft_wrap=True)
    more = "".join(f" --{name} {value}" for name, value in EXAMPLES[kind].options.items())
    console.print(f"written to {path}; read it with: scratch-gpt data {path} --for {EXAMPLES[kind].family}{more}")


def _check_options(unknown: set[str], family: str, tokenizer: str | None, counts_tokens: bool) -> None:
    """Raise an error for options that the family does not have, and for token options without a tokenizer."""
    from ..errors import ScratchError

    if unknown:
        names = ", ".join(f"--{name}" for name in sorted(unknown))
        raise ScratchError(f"{names} can't be used with --for {family}: omit {'it' if len(unknown) == 1 else 'them'}")
    if tokenizer is None and counts_tokens:
        raise ScratchError("--vocab_size and --context_length count tokens: also give a --tokenizer")


def _lengths(
    name: str, vocab_size: int | None, context_length: int | None, template: str, texts: Any
) -> tuple[dict[str, Any], float]:
    """Return length statistics in tokens and the fraction of unknown tokens. The tokenizer is loaded or trained."""
    from itertools import islice

    from ..auto import register
    from ..data.readers.summary import length_statistics
    from ..errors import ScratchError
    from ..hub.loading import open_tokenizer
    from ..tokenization.training import BUILDERS, encode_batch, train_tokenizer

    if name in BUILDERS:
        tokenizer = train_tokenizer(texts(), cast("Kind", name), vocab_size, cast("Template", template))
    elif vocab_size is not None:
        raise ScratchError(f"--vocab_size is only for a new tokenizer, and {name} is already trained: omit it")
    else:
        register()
        tokenizer = open_tokenizer(name, trust_remote_code=False)
    lengths: list[int] = []
    unknown, rest = 0, texts()
    while batch := list(islice(rest, 256)):
        for ids in encode_batch(tokenizer, batch):
            lengths.append(len(ids))
            unknown += ids.count(tokenizer.unk_token_id) if tokenizer.unk_token_id is not None else 0
    return length_statistics(lengths, context_length), unknown / max(1, sum(lengths))


def _print(console: Any, content: dict[str, Any], summary: Any) -> None:
    from rich.table import Table

    def show(title: str, rows: dict[str, Any]) -> None:
        table = Table(title=title, show_header=False, title_justify="left")
        for name, value in rows.items():
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
            table.add_row(name, shown)
        console.print(table)

    for line in summary.lines():
        console.print(line)
    for warning in summary.warnings():
        console.print(f"warning: {warning}", style="bold yellow")
    rows = {
        "files": "\n".join(content["files"][:20]) or "none (built in)",
        "split": content["split"] or "unnamed",
        "columns": ", ".join(f"{role}: {name}" for role, name in content["columns"].items()) or "plain text",
    }
    if content["delimiter"] is not None:
        rows["delimiter"] = repr(content["delimiter"])
        rows["header"] = "yes" if content["header"] else "no: the columns are column_1, column_2, …"
        rows["quoting"] = content["quoting"]
    rows |= {name.replace("_", " "): content[name] for name in ("rows_read", "train_rows", "validation_rows")}
    rows |= {"characters": content["characters"], "duplicates": content["duplicates"]}
    show("data", rows)
    for name, title in (("rows_skipped", "rows skipped"), ("ignored", "files ignored")):
        if content[name]:
            show(title, content[name])
    if content["labels"] is not None:
        held = content["validation_labels"]
        show(
            "labels",
            {n: f"{count:,}, {held.get(n, 0):,} of them for validation" for n, count in content["labels"].items()},
        )
    if "lengths" in content:
        shown = {n.replace("_", " "): v for n, v in content["lengths"].items() if v is not None}
        show("lengths in tokens", {**shown, "unknown tokens": f"{content['unknown_share']:.2%}"})
    for number, sample in enumerate(content["samples"], 1):
        first, *rest = sample_lines(sample)
        console.print("\n".join([f"{number}. {first}", *(f"   {line}" for line in rest)]))


def sample_lines(sample: Any) -> list[str]:
    """Lines that show a sample: a text; `name: value` of each column of a row; and `role: content` of each message.

    Args:
        sample: a text, or a dictionary of texts and lists of messages, as in `DataSummary.samples`.
    """
    if not isinstance(sample, dict):
        return str(sample).splitlines() or [""]
    import json

    lines = []
    for name, value in sample.items():
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            lines += [f"{name}:"] if len(sample) > 1 else []
            for message in value:
                lines += sample_lines({message["role"]: message["content"] or ""})
                more = {key: each for key, each in message.items() if key not in ("role", "content")}
                lines += [f"  {key}: {json.dumps(each, ensure_ascii=False)}" for key, each in more.items()]
        else:
            first, *rest = str(value).splitlines() or [""]
            lines += [f"{name}: {first}", *(f"  {line}" for line in rest)]
    return lines


def _names(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _signature() -> inspect.Signature:
    """Build the signature of the command: the data options of all tasks, and the options of this command."""

    def option(name: str, kind: Any, help: str, default: Any = None, flag: str | None = None) -> inspect.Parameter:
        if flag is None:
            flag = f"--{name}/--no-{name}" if bool in (kind, *get_args(kind)) else f"--{name}"
        annotation = Annotated[kind, typer.Option(flag, help=help)]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    types = argument_types()
    dataset = Annotated[
        str | None, typer.Argument(help="The dataset: the same values as --dataset of the training task.")
    ]
    found = {"dataset": inspect.Parameter("dataset", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=dataset)}
    families: Any = Literal[tuple(types)]
    found["for_"] = option("for_", families, "The task to read the data for.", "language_modeling", "--for")
    kinds: Any = Literal[tuple(EXAMPLES)]
    example = "Write a tiny example file of this kind into the working directory, and show it."
    found["example"] = option("example", kinds | None, example)
    for kind in types.values():
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.name == "dataset" or field.metadata["training_only"] or field.name in found:
                continue
            base = hints[field.name]
            if type(None) in get_args(base):
                base = next(part for part in get_args(base) if part is not type(None))
            owners = [name for name, other in types.items() if field.name in _names(other)]
            text = field.metadata["help"]
            if len(owners) < len(types):
                text = f"({', '.join(owners)}) {text}"
            if get_origin(base) is list:
                text += " Repeat the option for each value."
            if field.default not in (None, dataclasses.MISSING) and "Default" not in text:
                text += f" Default: {field.default}."
            found[field.name] = option(field.name, base | None, text)
    found["tokenizer"] = option(
        "tokenizer", str | None, "Count lengths in tokens: 'char', 'word', 'bpe', 'unigram', a folder or a Hub id."
    )
    found["vocab_size"] = option("vocab_size", int | None, "Vocabulary size of a new tokenizer.")
    found["context_length"] = option("context_length", int | None, "Count the texts longer than this number of tokens.")
    found["seed"] = option("seed", int, "Seed of the built-in data.", 0)
    found["json_"] = option("json_", bool, "Print one JSON object.", False, "--json")
    return inspect.Signature(list(found.values()))


def _add_command() -> None:
    """Register the command with an explicit signature for typer in place of `**given`."""
    signature = _signature()
    command: Any = data_command
    command.__signature__ = signature
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    app.command("data")(command)


_add_command()
