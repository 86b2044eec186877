"""Parallel text: sentences and their translations, from files, a folder, a table, the Hub, or the built-in grammar."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from ..errors import ScratchError
from ..tokenization.training import encode_batch
from . import german
from .sources import TABLES, VALIDATION_NAMES, kind_of, load_hub, load_table, open_text, rows_of, tables_of
from .tokens import Tokens

BATCH_PAIRS = 4096

Pair = tuple[str, str]


@dataclass
class PairSource:
    """Pairs of sentences, in an order that never changes.

    Attributes:
        name: what the corpus is called.
        read: a fresh iterator over all pairs, source first.
        limit: read only so many.
        empty: how many pairs were passed over by the last reading, because a side was empty.
    """

    name: str
    read: Callable[[], Iterator[Pair]]
    limit: int | None = None
    empty: int = field(default=0, init=False)

    def pairs(self) -> Iterator[Pair]:
        """The pairs, without those that have an empty side, which are counted.

        Raises:
            ScratchError: the sides are of different lengths, a cell is no text, or nothing is left.
        """
        self.empty, found = 0, 0
        for source, target in islice(self.read(), self.limit):
            source, target = source.strip(), target.strip()
            if source and target:
                found += 1
                yield source, target
            else:
                self.empty += 1
        if not found:
            raise ScratchError(f"{self.name} holds no pair with text on both sides")


def open_pairs(
    dataset: str,
    source_lang: str,
    target_lang: str,
    *,
    target_file: str | None = None,
    split: str = "train",
    config: str | None = None,
    max_pairs: int | None = None,
    num_pairs: int = 20_000,
    seed: int = 0,
) -> PairSource:
    """Open what `dataset` names.

    Args:
        dataset: "grammar" (the built-in German and English); a text file, a sentence a line, whose translations stand
            in `target_file`; a folder with files such as `train.de` and `train.en` (also .gz); a .jsonl, .csv, .tsv
            or .parquet file with a column for each language or a column "translation"; or such a dataset on the Hub.
        source_lang, target_lang: languages, as files and columns are named by them.
        split: of a folder, of a Hub dataset, or of the grammar.
        config: of a Hub dataset.
        max_pairs: read only so many.
        num_pairs, seed: of the built-in grammar.

    Raises:
        ScratchError: nothing of that name, or not in these languages.
    """
    if source_lang == target_lang:
        raise ScratchError(f"source_lang and target_lang are both {source_lang!r}: name two languages")
    if dataset == "grammar":
        return _open_grammar(source_lang, target_lang, split, num_pairs, seed)
    path = Path(dataset)
    if target_file is not None:
        return _open_files(path, Path(target_file), path.name, max_pairs)
    if path.is_dir():
        return _open_folder(path, split, source_lang, target_lang, max_pairs)
    if path.is_file():
        if kind_of(path) not in TABLES:
            raise ScratchError(f"{path} is one side of a text: name the other with --target_file, or give their folder")
        return _from_table(load_table([path]), path.name, source_lang, target_lang, max_pairs)
    if kind_of(path) in (".txt", *TABLES) or path.is_absolute() or dataset.startswith(".") or dataset.count("/") > 1:
        raise ScratchError(f"no such file or folder: {dataset}")
    return _from_table(load_hub(dataset, config, split)[0], dataset, source_lang, target_lang, max_pairs)


def validation_split_of(dataset: str, source_lang: str) -> str | None:
    """The split of a folder or of the grammar that is there to validate on; None where there is none."""
    if dataset == "grammar":
        return "validation"
    folder = Path(dataset)
    if not folder.is_dir():
        return None
    return next((n for n in VALIDATION_NAMES if _side(folder, n, source_lang) or tables_of(folder, n)), None)


def _open_grammar(source_lang: str, target_lang: str, split: str, count: int, seed: int) -> PairSource:
    if {source_lang, target_lang} != {"de", "en"}:
        raise ScratchError(f"the built-in grammar knows 'de' and 'en', not {source_lang!r} to {target_lang!r}")
    if split not in german.SPLITS:
        raise ScratchError(f"the built-in grammar has the splits {', '.join(german.SPLITS)}, not {split!r}")
    backwards = source_lang == "en"

    def read() -> Iterator[Pair]:
        for pair in german.pairs(seed, count, split):
            yield (pair.english, pair.german) if backwards else (pair.german, pair.english)

    return PairSource("grammar", read)


def _open_folder(folder: Path, split: str, source_lang: str, target_lang: str, limit: int | None) -> PairSource:
    sides = [_side(folder, split, language) for language in (source_lang, target_lang)]
    if sides[0] and sides[1]:
        return _open_files(sides[0], sides[1], folder.name, limit)
    if tables := tables_of(folder, split):
        return _from_table(load_table(tables), folder.name, source_lang, target_lang, limit)
    there = sorted(p.name for p in folder.iterdir() if p.is_file())
    missing = [lang for lang, side in zip((source_lang, target_lang), sides, strict=True) if side is None]
    wanted = " and ".join(f"{split}.{lang}" for lang in missing)
    raise ScratchError(f"{folder} holds no {wanted} (nor .gz): it has {', '.join(there[:12]) or 'no files'}")


def _side(folder: Path, split: str, language: str) -> Path | None:
    return next((p for p in (folder / f"{split}.{language}", folder / f"{split}.{language}.gz") if p.is_file()), None)


def _open_files(source: Path, target: Path, name: str, limit: int | None) -> PairSource:
    for path in (source, target):
        if not path.is_file():
            raise ScratchError(f"no such file: {path}")

    def read() -> Iterator[Pair]:
        counts = [0, 0]
        for pair in zip_longest(read_lines(source), read_lines(target)):
            counts = [count + (side is not None) for count, side in zip(counts, pair, strict=True)]
            if None not in pair:
                yield pair
        if counts[0] != counts[1]:
            raise ScratchError(
                f"{source} has {counts[0]:,} lines and {target} has {counts[1]:,}: a translation must stand on the "
                "line of its sentence"
            )

    return PairSource(name, read, limit)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, plain or gzipped, without their ends.

    Raises:
        ScratchError: it is no UTF-8 text, or broken.
    """
    with open_text(path, newline="\n") as file:
        for line in file:
            yield line.rstrip("\r\n")


def _from_table(rows: Any, name: str, source_lang: str, target_lang: str, limit: int | None) -> PairSource:
    first = next(iter(rows), None)
    if first is None:
        raise ScratchError(f"{name} holds no rows")
    nested = isinstance(first.get("translation"), dict)
    there = first["translation"] if nested else first
    missing = [language for language in (source_lang, target_lang) if language not in there]
    if missing:
        raise ScratchError(f"{name} has no {', '.join(map(repr, missing))}: it has {', '.join(map(repr, there))}")

    def read() -> Iterator[Pair]:
        for number, row in enumerate(rows_of(rows, name)):
            cells = row["translation"] if nested else row
            pair = cells[source_lang], cells[target_lang]
            for language, cell in zip((source_lang, target_lang), pair, strict=True):
                if not isinstance(cell, str):
                    raise ScratchError(f"{name}: row {number} holds {type(cell).__name__} for {language!r}, want text")
            yield pair

    return PairSource(name, read, limit)


@dataclass(frozen=True)
class Pairs:
    """Tokenised pairs, with the count of those that were too long."""

    source: Tokens
    target: Tokens
    long: int

    def __len__(self) -> int:
        return len(self.source)


def encode_pairs(
    pairs: Iterator[Pair],
    source_tokenizer: PreTrainedTokenizerFast,
    target_tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    skip_long: bool,
    progress: Callable[[int], Any] = lambda count: None,
) -> Pairs:
    """Tokenise pairs. A side of more than `max_length` tokens, `<eos>` included, is cut, or its pair is skipped."""
    sides: tuple[list, list] = ([], [])
    tokenizers, long = (source_tokenizer, target_tokenizer), 0
    while batch := list(islice(pairs, BATCH_PAIRS)):
        encoded = [encode_batch(t, list(texts)) for t, texts in zip(tokenizers, zip(*batch, strict=True), strict=True)]
        for pair in zip(*encoded, strict=True):
            too_long = any(len(ids) >= max_length for ids in pair)
            long += too_long
            if too_long and skip_long:
                continue
            for tokenizer, ids, side in zip(tokenizers, pair, sides, strict=True):
                side.append([*ids[: max_length - 1], tokenizer.eos_token_id])
        progress(len(batch))
    return Pairs(Tokens.of(sides[0]), Tokens.of(sides[1]), long)


def fingerprint_of(*parts: str) -> str:
    """One name for several."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
