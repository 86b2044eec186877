"""Files and folders whose names contain wildcards are found by their literal name."""

import json
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.data import data_summary, lines, texts_of, write_card

from scratch_gpt.data.readers.parallel import open_pairs

NAMES = ["a[1]", "[0-9]", "a*", "a?", "x::y", "zip:::x", "[", "]", "{a,b}", "[[]", "%5B"]


@pytest.fixture(params=NAMES)
def folder(request, tmp_path) -> Path:
    """A folder whose name has wildcards, next to others that match it as a pattern."""
    for decoy in ("a1", "aa", "0", "5", "ab", "x", "y", "[", "a"):
        (tmp_path / decoy).mkdir()
        for suffix in (".txt", ".jsonl", ".csv", ".parquet"):
            (tmp_path / f"{decoy}{suffix}").write_text("not this")
            (tmp_path / decoy / f"{decoy}{suffix}").write_text("not this")
    folder = tmp_path / request.param
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def test_names_with_wildcards_are_literal(folder):
    rows, base = {"text": ["this", "and this"]}, folder.name
    (folder / f"{base}.txt").write_text("this")
    (folder / f"{base}.csv").write_text("text\nthis\nand this\n")
    (folder / f"{base}.jsonl").write_text(lines(*({"text": text} for text in rows["text"])))
    (folder / f"{base}.json").write_text(json.dumps([{"text": text} for text in rows["text"]]))
    with (folder / f"{base}.parquet").open("wb") as file:  # `datasets` would interpret such a name as a pattern
        pq.write_table(pa.table(rows), file)
    datasets.Dataset.from_dict(rows).save_to_disk(folder.parent / "saved")
    shutil.move(folder.parent / "saved", folder / "saved" / base)
    (folder.parent / f"{base}.txt").write_text("this")
    for place in (folder, folder.parent):
        assert texts_of(place / f"{base}.txt") == ["this"]
    for suffix in (".csv", ".jsonl", ".json", ".parquet"):
        assert texts_of(folder / f"{base}{suffix}") == rows["text"], suffix
    assert texts_of(folder / "saved" / base) == rows["text"]
    assert texts_of(next((folder / "saved" / base).glob("*.arrow"))) == rows["text"]
    held = data_summary(folder / f"{base}.csv", "--validation_dataset", folder / f"{base}.jsonl")
    assert held["files"] == [str(folder / f"{base}{suffix}") for suffix in (".csv", ".jsonl")]
    shutil.rmtree(folder / "saved")
    for path in folder.glob("*.[tjp]*"):
        path.unlink()
    assert texts_of(folder) == rows["text"]


def test_names_with_wildcards_in_a_card_are_literal(folder):
    base = folder.name
    for decoy in ("a1", "0", "x"):
        (folder / f"{decoy}.csv").write_text("text\nnot this\n")
    (folder / base).mkdir()
    (folder / base / f"{base}.csv").write_text("text\nthis\n")
    write_card(folder, {"config_name": "all", "data_files": f"{base}/{base}.csv"})
    assert texts_of(folder) == ["this"]
    write_card(folder, {"config_name": "all", "data_dir": base})
    assert texts_of(folder) == ["this"]
    write_card(folder, {"config_name": "all", "data_dir": base, "data_files": "*.csv"})
    assert texts_of(folder) == ["this"]


def test_names_with_wildcards_of_parallel_text_are_literal(folder):
    for language, text in (("de", "dies"), ("en", "this")):
        (folder / f"train.{language}").write_text(f"{text}\n")
        (folder / f"{folder.name}.{language}").write_text(f"{text}\n")
    assert list(open_pairs(str(folder), "de", "en").read()) == [("dies", "this")]
    source, target = (str(folder / f"{folder.name}.{language}") for language in ("de", "en"))
    assert list(open_pairs(source, "de", "en", target_file=target).read()) == [("dies", "this")]


def test_pattern_in_a_folder_whose_name_has_wildcards(tmp_path):
    for folder in ("a[1]", "a1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.csv").write_text(f"text\n{folder}\n")
    assert texts_of(tmp_path / "a[1]" / "*.csv") == ["a[1]"]
    assert texts_of(f"{tmp_path}/a[[]1]/*.csv") == ["a[1]"]
    assert texts_of(f"{tmp_path}/a[0-9]/*.csv") == ["a1"]
