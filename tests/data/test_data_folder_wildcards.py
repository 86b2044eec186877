"""Files and folders whose names contain wildcards are found by their literal name."""

import json
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.data import lines, shown, texts_of, write_card

from scratch_gpt.data.readers.parallel import open_pairs

NAMES = ["a[1]", "[0-9]", "a*", "a?", "x::y", "zip:::x", "[", "]", "{a,b}", "[[]", "%5B"]


@pytest.fixture(params=NAMES)
def odd(request, tmp_path) -> Path:
    """A folder with an odd name, beside others that this name matches as a pattern."""
    for decoy in ("a1", "aa", "0", "5", "ab", "x", "y", "[", "a"):
        (tmp_path / decoy).mkdir()
        for suffix in (".txt", ".jsonl", ".csv", ".parquet"):
            (tmp_path / f"{decoy}{suffix}").write_text("not this")
            (tmp_path / decoy / f"{decoy}{suffix}").write_text("not this")
    folder = tmp_path / request.param
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def test_names_with_wildcards_are_literal(odd):
    rows, base = {"text": ["this", "and this"]}, odd.name
    (odd / f"{base}.txt").write_text("this")
    (odd / f"{base}.csv").write_text("text\nthis\nand this\n")
    (odd / f"{base}.jsonl").write_text(lines(*({"text": text} for text in rows["text"])))
    (odd / f"{base}.json").write_text(json.dumps([{"text": text} for text in rows["text"]]))
    with (odd / f"{base}.parquet").open("wb") as file:  # `datasets` itself takes such names for patterns
        pq.write_table(pa.table(rows), file)
    datasets.Dataset.from_dict(rows).save_to_disk(odd.parent / "saved")
    shutil.move(odd.parent / "saved", odd / "saved" / base)
    (odd.parent / f"{base}.txt").write_text("this")
    for place in (odd, odd.parent):
        assert texts_of(place / f"{base}.txt") == ["this"]
    for suffix in (".csv", ".jsonl", ".json", ".parquet"):
        assert texts_of(odd / f"{base}{suffix}") == rows["text"], suffix
    assert texts_of(odd / "saved" / base) == rows["text"]
    assert texts_of(next((odd / "saved" / base).glob("*.arrow"))) == rows["text"]
    held = shown(odd / f"{base}.csv", "--validation_dataset", odd / f"{base}.jsonl")
    assert held["files"] == [str(odd / f"{base}{suffix}") for suffix in (".csv", ".jsonl")]
    shutil.rmtree(odd / "saved")
    for path in odd.glob("*.[tjp]*"):
        path.unlink()
    assert texts_of(odd) == rows["text"]


def test_names_with_wildcards_in_a_card_are_literal(odd):
    base = odd.name
    for decoy in ("a1", "0", "x"):
        (odd / f"{decoy}.csv").write_text("text\nnot this\n")
    (odd / base).mkdir()
    (odd / base / f"{base}.csv").write_text("text\nthis\n")
    write_card(odd, {"config_name": "all", "data_files": f"{base}/{base}.csv"})
    assert texts_of(odd) == ["this"]
    write_card(odd, {"config_name": "all", "data_dir": base})
    assert texts_of(odd) == ["this"]
    write_card(odd, {"config_name": "all", "data_dir": base, "data_files": "*.csv"})
    assert texts_of(odd) == ["this"]


def test_names_with_wildcards_of_parallel_text_are_literal(odd):
    for language, text in (("de", "dies"), ("en", "this")):
        (odd / f"train.{language}").write_text(f"{text}\n")
        (odd / f"{odd.name}.{language}").write_text(f"{text}\n")
    assert list(open_pairs(str(odd), "de", "en").read()) == [("dies", "this")]
    source, target = (str(odd / f"{odd.name}.{language}") for language in ("de", "en"))
    assert list(open_pairs(source, "de", "en", target_file=target).read()) == [("dies", "this")]


def test_pattern_in_a_folder_whose_name_has_wildcards(tmp_path):
    for folder in ("a[1]", "a1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.csv").write_text(f"text\n{folder}\n")
    assert texts_of(tmp_path / "a[1]" / "*.csv") == ["a[1]"]
    assert texts_of(f"{tmp_path}/a[[]1]/*.csv") == ["a[1]"]
    assert texts_of(f"{tmp_path}/a[0-9]/*.csv") == ["a1"]
