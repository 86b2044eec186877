"""Columns of images, audio and video are found at any depth and never decoded, because decoding opens the paths and
URLs in their cells."""

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Features, Image, List, Value, Video
from helpers.data import data_error, data_summary, texts_of, time_limit

from scratch_gpt.data.readers.formats import arrow_rows, media_columns, read_columns


def test_media_features_are_found_at_any_depth():
    text, kinds = Value("string"), (Image(), Audio(), Video())
    plain = {"text": text, "list": List(text), "old list": [text], "fields": {"a": text, "b": [{"c": text}]}}
    media = {f"{type(kind).__name__} {i}": kind for i, kind in enumerate(kinds)}
    media |= {"list of": List(Image()), "old list of": [Image()], "field of": {"a": text, "b": Image()}}
    media |= {"deep": {"a": [{"b": text, "c": List({"d": Audio()})}]}, "one of two": [text, Image()]}
    assert media_columns({**plain, **media}) == set(media)
    assert media_columns(Features(plain)) == set()
    assert media_columns(None) == set()


@pytest.fixture
def images(tmp_path):
    """Cells of an image column that must not be opened: a named pipe, and a URL whose requests are recorded."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.mkfifo(tmp_path / "pipe.png")
    paths = [str(tmp_path / "pipe.png"), f"http://127.0.0.1:{server.server_port}/a.png", str(tmp_path / "none.png")]
    with time_limit(60):
        yield paths
    server.shutdown()
    server.server_close()
    assert not requests


def with_images(paths: list[str]) -> pa.Table:
    """Return rows with columns declared as images: plain, in a list, and in a struct."""
    cells = [{"bytes": None, "path": path} for path in paths]
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "image": datasets.Image(),
            "many": datasets.List(datasets.Image()),
            "inner": {"audio": datasets.Image()},
        }
    )
    rows = {"text": ["one", "two", "three"], "label": [0, 1, 0], "image": cells}
    rows |= {"many": [[cell] for cell in cells], "inner": [{"audio": cell} for cell in cells]}
    return pa.table(rows, schema=features.arrow_schema)


def write_columns(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        opened = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, opened(file, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("name", ["t.parquet", "stream.arrow", "file.arrow"])
def test_images_in_a_table_are_not_opened(name, tmp_path, images):
    path = write_columns(tmp_path / name, with_images(images))
    found = data_summary(path, "--for", "classification", "--label_column", "label")
    assert (found["rows_read"], found["labels"]) == (3, {"no": 2, "yes": 1})
    assert texts_of(path) == ["one", "two", "three"]
    assert "'image' is bytes, want text" in data_error(path, "--text_column", "image")
    assert "has no column 'inner.audio'" in data_error(path, "--text_column", "inner.audio")


@pytest.mark.parametrize("streaming", [False, True])
def test_images_of_a_hub_dataset_are_not_opened(streaming, tmp_path, images):
    path = write_columns(tmp_path / "t.parquet", with_images(images))
    rows = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", streaming=streaming, cache_dir=tmp_path / "cache"
    )
    read = lambda columns: iter(rows if columns is None else rows.select_columns(columns))  # noqa: E731
    for columns in (None, ["text"], ["image"], ["text", "many"]):
        found = list(read_columns(rows.column_names, rows.features, columns, read))
        assert len(found) == 3
        assert {value for row in found for name, value in row.items() if name in ("image", "many", "inner")} <= {b""}


@pytest.mark.parametrize("name", ["t.parquet", "stream.arrow", "file.arrow"])
def test_columns_that_are_not_read_are_not_decoded(name, tmp_path):
    """The other column is corrupt, so that decoding it is an error."""
    other = [b"0123456789" * 1000 + bytes([i]) for i in range(5)]
    table = pa.table({"text": [f"text {i}" for i in range(5)], "other": other})
    path = tmp_path / name
    if name == "t.parquet":
        pq.write_table(table, path, compression={"text": "none", "other": "gzip"}, use_dictionary=False)
    else:
        opened = pa.ipc.new_stream if "stream" in name else pa.ipc.new_file
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.OSFile(str(path), "wb") as file, opened(file, table.schema, options=options) as writer:
            writer.write_table(table)
    content = path.read_bytes()
    magic = b"\x1f\x8b" if name == "t.parquet" else b"\x28\xb5\x2f\xfd"
    at = content.rindex(magic)  # that of the other column comes last
    path.write_bytes(content[: at + 8] + b"\xff" * 16 + content[at + 24 :])
    with pytest.raises(OSError, match=r"."):
        list(arrow_rows(path))
    assert [row["text"] for row in arrow_rows(path, ["text"])] == [f"text {i}" for i in range(5)]
