"""Parallel text for translation, from files, a folder, a table, the Hub, or the built-in grammar."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ...errors import ScratchError
from ...untrusted import check_regular
from ..corpora import german_english
from .compressed import SUFFIXES
from .corpus import Corpus, Origin, check_built_in_size, fingerprint_of
from .examples import example_hint
from .files import kind_of, read_lines
from .folders import list_folder
from .formats import BadRowError, fingerprint_of_files
from .split_files import canonical_split
from .tables import ReadOptions, Table, open_table, refuse_csv_options, text_cell

Pair = tuple[str, str]


def open_pairs(
    dataset: str,
    source_lang: str,
    target_lang: str,
    options: ReadOptions | None = None,
    *,
    target_file: str | None = None,
    num_pairs: int = 20_000,
    seed: int = 0,
) -> Corpus[Pair]:
    """Open a parallel dataset. Pairs with an empty side are skipped and counted.

    Args:
        dataset: "grammar" (built-in German and English); a text file with one sentence per line, with its translations
            in `target_file`; a folder with files such as `train.de` and `train.en` (plain or compressed); tables with
            a column for each language or a column "translation"; or such a dataset on the Hub.
        source_lang, target_lang: language codes, which are also file suffixes or column names.
        options: how to read it.
        target_file: file with the translation of each line of `dataset`.
        num_pairs, seed: size and seed of the built-in data.

    Raises:
        ScratchError: the dataset does not exist, or does not contain these languages.
    """
    options = options or ReadOptions()
    if source_lang == target_lang:
        raise ScratchError(f"source_lang and target_lang are both {source_lang!r}: want two languages")
    if dataset == "grammar":
        return _open_grammar(source_lang, target_lang, options, num_pairs, seed)
    path = Path(dataset)
    if target_file is not None:
        return _open_sides(path, Path(target_file), path.name, (source_lang, target_lang), options)
    if path.is_dir():
        corpus = _open_folder(path, (source_lang, target_lang), options)
        if corpus is not None:
            return corpus
    elif path.is_file() and kind_of(path) in (None, "text"):
        raise ScratchError(
            f"{path} is one side of a parallel text: give the other with --target_file, or the folder of both"
        )
    table = open_table(dataset, options, (source_lang, target_lang), "a column for each language")
    return _of_table(table, source_lang, target_lang, options)


def _open_grammar(source_lang: str, target_lang: str, options: ReadOptions, count: int, seed: int) -> Corpus[Pair]:
    if {source_lang, target_lang} != {"de", "en"}:
        raise ScratchError(f"the built-in grammar has 'de' and 'en', not {source_lang!r} to {target_lang!r}")
    if options.split not in german_english.SPLITS:
        raise ScratchError(
            f"the built-in grammar has the splits {', '.join(german_english.SPLITS)}, not {options.split!r}"
        )
    check_built_in_size("num_pairs", count)
    reverse = source_lang == "en"

    def read() -> Iterator[Pair]:
        for pair in german_english.pairs(seed, count, options.split):
            yield (pair.english, pair.german) if reverse else (pair.german, pair.english)

    fingerprint = f"grammar-{source_lang}-{options.split}-{count}-{seed}-{options.max_rows}"
    origin = Origin("grammar", lambda: fingerprint, built_in=True, split=options.split)
    origin.validation_split = "validation" if options.split != "validation" else None
    return Corpus(origin, read, options=options)


def _open_folder(folder: Path, languages: tuple[str, str], options: ReadOptions) -> Corpus[Pair] | None:
    """Open the two text files of a folder; None if it has neither, but has tables.

    Raises:
        ScratchError: one of them is missing, or both are and there is no table.
    """
    files, ignored = list_folder(folder)
    by_name = {path.name.lower(): path for path in files if path.parent == folder}
    source, target = (_side(by_name, options.split, language) for language in languages)
    if source is None and target is None and any(kind_of(path) not in (None, "text") for path in files):
        return None
    if source is None or target is None:
        missing = [name for name, side in zip(languages, (source, target), strict=True) if side is None]
        expected = " and ".join(f"{options.split}.{name}" for name in missing)
        nor_table = " and no table" if len(missing) == 2 else ""
        shown = [path.name for path in files if path.parent == folder]
        shown += [f"{Path(path).name} ({why})" for path, why in ignored.items() if Path(path).parent == folder]
        has = ", ".join(sorted(shown)[:12]) or "no files"
        raise ScratchError(f"{folder} has no {expected} (plain or compressed){nor_table}: it has {has}")
    corpus = _open_sides(source, target, folder.resolve().name, languages, options)
    reason = f"not {options.split} in {' or '.join(languages)}"
    corpus.origin.ignored = ignored | {str(path): reason for path in files if path not in (source, target)}
    corpus.origin.split = options.split
    if canonical_split(options.split) != "validation" and all(_side(by_name, "validation", name) for name in languages):
        corpus.origin.validation_split = "validation"
    return corpus


def _side(by_name: dict[str, Path], split: str, language: str) -> Path | None:
    """Find the file of a split in a language, such as `val.de.gz`, among files by their lower-case names."""
    from datasets.data_files import SPLIT_KEYWORDS

    words = {str(name): words for name, words in SPLIT_KEYWORDS.items()}.get(canonical_split(split), [])
    names = [f"{word}.{language}{ending}".lower() for word in (split, *words) for ending in ("", *SUFFIXES)]
    return next((by_name[name] for name in names if name in by_name), None)


def _open_sides(
    source: Path, target: Path, name: str, languages: tuple[str, str], options: ReadOptions
) -> Corpus[Pair]:
    for path in (source, target):
        if not path.exists():
            raise ScratchError(f"no such file: {path}")
        check_regular(path)
    refuse_csv_options(options, name)

    def read() -> Iterator[tuple[str, str]]:
        counts = [0, 0]
        for pair in zip_longest(read_lines(source), read_lines(target)):
            counts = [count + (side is not None) for count, side in zip(counts, pair, strict=True)]
            if None not in pair:
                yield pair[0].strip(), pair[1].strip()
        if counts[0] != counts[1]:
            raise ScratchError(
                f"{source} has {counts[0]:,} lines and {target} has {counts[1]:,}: the translation of each line "
                "must be on the same line"
            )

    def convert(pair: tuple[str, str]) -> Pair:
        for language, text in zip(languages, pair, strict=True):
            if not text:
                raise BadRowError(f"{language!r} is empty")
        return pair

    paths = [source, target]
    origin = Origin(
        name,
        lambda: fingerprint_of(fingerprint_of_files(paths), *languages, str(options.max_rows)),
        files=[str(path) for path in paths],
        columns=dict(zip(("source", "target"), languages, strict=True)),
    )
    corpus = Corpus(origin, read, convert, options)
    corpus.harmless = {f"{language!r} is empty" for language in languages}  # blank lines are common in such files
    return corpus


def _of_table(table: Table, source_lang: str, target_lang: str, options: ReadOptions) -> Corpus[Pair]:
    columns = {}
    for role, language in (("source", source_lang), ("target", target_lang)):
        found = next((name for name in (language, f"translation.{language}") if table.has(name)), None)
        if found is None:
            raise ScratchError(
                f"{table.name} has no {language!r}: it has {_languages_of(table)}; choose with --{role}_lang; "
                f"{example_hint('pairs')}"
            )
        columns[role] = found

    def convert(row: dict[str, Any]) -> Pair:
        return text_cell(row, columns["source"]), text_cell(row, columns["target"])

    return Corpus(Origin.of_table(table, columns, options), table.reader(columns.values()), convert, options)


def _languages_of(table: Table) -> str:
    nested = table.sample()[0].get("translation")
    return ", ".join(map(repr, nested if isinstance(nested, dict) else table.columns()))
