"""Read the rows of one file as dictionaries. A row that can't be read is yielded as a `BadRowError`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import ScratchError
from .delimited import Dialect, read_delimited
from .files import open_text, plain_suffix

FIRST_LINES = 1000  # number of lines to check if the first line is not valid JSON
BATCH_ROWS = 1024
HASH_BLOCK = 1 << 20
UNDECODED = b""  # replaces images and the like, which are not text


class BadRowError(Exception):
    """A row that can't be used. The message is the reason; rows with the same reason are counted together."""


def fingerprint_of_files(paths: Sequence[Path]) -> str:
    """Return a hash of the names, sizes and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(HASH_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def delimited_rows(path: Path, dialect: Dialect) -> Iterator[Any]:
    """Iterate over the rows of a CSV or TSV file; every cell is a string."""
    names, width = dialect.names, len(dialect.names)
    for row in read_delimited(path, dialect):
        if len(row) == width:
            yield dict(zip(names, row, strict=True))
        else:
            yield BadRowError(f"{len(row)} cells, want {width}")


def json_rows(path: Path) -> Iterator[Any]:
    """Iterate over the rows of a JSON or JSON Lines file: one object per line, a list of objects, an object that
    contains one such list, or an object that maps column names to lists of values.

    Raises:
        ScratchError: the file is not valid JSON.
    """
    with open_text(path, newline="\n") as file:
        lines = (line for line in file if line.strip())
        first, second = next(lines, ""), next(lines, None)
        if _is_object(first) and (second is not None or plain_suffix(path) != ".json"):
            yield from map(_json_row, chain([first], [second] if second else [], lines))
            return
    del first, second, lines  # each line may be the whole file
    with open_text(path) as file:
        text = file.read()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        found = [line for line in text.split("\n") if line.strip()]
        if sum(map(_is_object, found[:FIRST_LINES])) > len(found[:FIRST_LINES]) / 2:  # the first line is broken
            yield from map(_json_row, found)
            return
        raise ScratchError(f"{path} can't be read as {plain_suffix(path)[1:]}: {error}") from error
    for row in _rows_of_content(content):
        yield row if isinstance(row, dict) else BadRowError(_not_an_object(row))


def _rows_of_content(content: Any) -> list[Any]:
    """Return the rows of a parsed JSON file."""
    if not isinstance(content, dict):
        return content if isinstance(content, list) else [content]
    lists = [value for value in content.values() if isinstance(value, list) and value]
    if any(map(_is_message, chain.from_iterable(lists))):
        return [content]  # a conversation
    tables = [values for values in lists if all(isinstance(row, dict) for row in values)]
    if len(tables) == 1:
        return tables[0]
    if lists and len(lists) == len(content) and len({len(values) for values in lists}) == 1:
        return [dict(zip(content, values, strict=True)) for values in zip(*lists, strict=True)]
    return [content]


def _is_message(row: Any) -> bool:
    return isinstance(row, dict) and ({"role", "content"} <= set(row) or {"from", "value"} <= set(row))


def _json_row(line: str) -> Any:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return BadRowError("the line is not JSON")
    return row if isinstance(row, dict) else BadRowError(_not_an_object(row))


def _not_an_object(row: Any) -> str:
    return f"the row is {'null' if row is None else type(row).__name__}, want an object"


def _is_object(line: str) -> bool:
    return line.lstrip().startswith("{") and not isinstance(_json_row(line), BadRowError)


@contextmanager
def _open_arrow(path: Path, columns: Collection[str] | None = None) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Open a Parquet file, or an Arrow stream or file; yield its schema and an iterator over its record batches.

    If `columns` are given, other columns are neither read nor decompressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() == ".parquet":
        with pq.ParquetFile(path) as parquet:
            yield parquet.schema_arrow, parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns)
        return
    with pa.memory_map(str(path)) as source:
        try:
            schema, opened = pa.ipc.open_stream(source).schema, pa.ipc.open_stream
        except pa.ArrowInvalid:
            schema, opened = pa.ipc.open_file(source).schema, pa.ipc.open_file
        included = None if columns is None else [i for i, name in enumerate(schema.names) if name in columns]
        source.seek(0)
        reader = opened(source, options=pa.ipc.IpcReadOptions(included_fields=included))
        if opened is pa.ipc.open_stream:
            yield schema, iter(reader)
        else:
            yield schema, (reader.get_batch(i) for i in range(reader.num_record_batches))


def arrow_rows(path: Path, columns: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a Parquet or Arrow file; see `read_columns`."""
    return read_columns(*schema_of(path), columns, partial(_arrow_rows, path))


def _arrow_rows(path: Path, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    with _open_arrow(path, columns) as (_, batches):
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield from batch.slice(start, BATCH_ROWS).to_pylist()


def read_columns(
    names: Sequence[str] | None,
    features: Any,
    columns: Collection[str] | None,
    read: Callable[[list[str] | None], Iterator[dict[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """Read rows without decoding columns of images, audio and the like: their cells become `UNDECODED`.

    Args:
        names: the existing columns; None if they are unknown, and all are then read.
        features: the `datasets.Features` of the columns; None if they are unknown.
        columns: the columns to read, if they exist; None reads all.
        read: returns an iterator over the rows with some columns; given None, with all.

    Raises:
        ScratchError: all columns contain images, audio and the like.
    """
    media = media_columns(features)
    if names is None or (columns is None and not media):
        yield from read(None)
        return
    requested = [name for name in names if columns is None or name in columns]
    undecoded = dict.fromkeys((name for name in requested if name in media), UNDECODED)
    # If no requested column is decoded, another one is read, which gives the number of rows.
    plain = [name for name in requested if name not in media] or [name for name in names if name not in media][:1]
    if not plain:
        raise ScratchError(f"all columns contain images, audio and the like: {', '.join(map(repr, names))}")
    for row in read(plain):
        yield {**row, **undecoded}


def schema_of(path: Path) -> tuple[list[str], Any]:
    """Return the column names of a Parquet or Arrow file, and its `datasets.Features`; None instead of these if the
    schema can't be converted."""
    from datasets import Features

    with _open_arrow(path) as (schema, _):
        try:
            return schema.names, Features.from_arrow_schema(schema)
        except (ValueError, TypeError, KeyError):
            return schema.names, None


def media_columns(features: Any) -> set[str]:
    """Return the columns of `datasets.Features` that contain images, audio and the like. They are never decoded: their
    cells may contain paths and URLs, which decoding would open."""
    return {name for name, feature in (features or {}).items() if _contains_media(feature)}


def _contains_media(feature: Any) -> bool:
    from datasets import Json

    if isinstance(feature, dict):
        return any(map(_contains_media, feature.values()))
    if isinstance(feature, list | tuple):
        return any(map(_contains_media, feature))
    if hasattr(feature, "feature"):  # a list
        return _contains_media(feature.feature)
    return hasattr(feature, "decode_example") and not isinstance(feature, Json)
