"""Origin and fingerprint of a corpus, and documents that consist of several pieces."""

import json
from types import SimpleNamespace

from helpers.data import data_summary
from helpers.processes import run_here

from scratch_gpt.data.readers.corpus import Origin
from scratch_gpt.data.readers.sources import Piece, open_source
from scratch_gpt.data.readers.tables import ReadOptions, open_table
from scratch_gpt.data.readers.text import beginnings, documents_of, read_texts

PIECES = [("One day, ", False), ("Anna sings.", True), ("", True), ("Tom ", False), ("", False), ("sleeps. " * 9, True)]
SOURCE = SimpleNamespace(pieces=lambda: (Piece(*piece) for piece in PIECES))


def test_documents_are_joined_from_their_pieces():
    assert list(documents_of(SOURCE)) == ["One day, Anna sings.", "", "Tom " + "sleeps. " * 9]


def test_beginnings_are_those_of_documents():
    assert list(beginnings(SOURCE, 12)) == ["One day, Ann", "", "Tom sleeps. "]
    assert list(beginnings(SOURCE, 3)) == ["One", "", "Tom"]


def test_split_name_of_texts_and_tables(tmp_path):
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text(f"a text to {name} on\n" * 9)
    assert data_summary(tmp_path)["split"] == "train"
    assert data_summary(tmp_path, "--dataset_split", "validation")["split"] == "validation"
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").unlink()
        (tmp_path / f"{name}.csv").write_text("text\n" + f"a text to {name} on\n" * 9)
    assert data_summary(tmp_path)["split"] == "train"
    assert data_summary(tmp_path, "--dataset_split", "validation")["split"] == "validation"


def test_rows_of_each_split_are_counted(tmp_path):
    rows = [{"prompt": f"how {i}", "completion": f"so {i}"} for i in range(20)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = (tmp_path / "t.jsonl", "--for", "sft", "--validation_fraction", "0.2")
    found = data_summary(*options, "--test_fraction", "0.3")
    assert [found[f"{part}_rows"] for part in ("train", "validation", "test")] == [10, 4, 6]
    assert found["rows_read"] == 20
    assert data_summary(*options)["test_rows"] == 0
    printed = run_here("scratch-gpt", "data", *map(str, options), "--test_fraction", "0.3").stdout
    assert "rows: 20 read, 10 for training, 4 for validation, 6 for testing" in " ".join(printed.split())


def test_fingerprint_depends_on_columns_but_not_their_order(tmp_path):
    (tmp_path / "t.csv").write_text("text,label,other\na,b,c\nd,e,f\n")

    def fingerprint(columns: dict[str, str], **options) -> str:
        chosen = ReadOptions(**options)
        return Origin.of_table(open_table(str(tmp_path / "t.csv"), chosen), columns, chosen).fingerprint()

    known = fingerprint({"text": "text", "label": "label"})
    assert known == fingerprint({"label": "label", "text": "text"})
    others = [fingerprint({"text": "text", "label": "other"}), fingerprint({"text": "text"})]
    others.append(fingerprint({"text": "text", "label": "label"}, max_rows=1))
    assert len({known, *others}) == 4


def test_sample_prompt_is_the_beginning_of_the_first_held_out_text(tmp_path):
    texts = [f"Text number {i} is about the letter {chr(97 + i)}." for i in range(20)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prompts = set()
    for seed in range(6):
        reading = read_texts(open_source(str(tmp_path / "texts.jsonl")), None, 0.2, seed)
        assert reading.documents == {"train": 16, "validation": 4}
        prompts.add(reading.prompt)
    assert len(prompts) > 1
    assert prompts <= {text[: len(prompt)] for text in texts for prompt in prompts}
    assert "" not in prompts
