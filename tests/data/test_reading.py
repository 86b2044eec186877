"""Common files and folders are read correctly, or rejected with a reason, and skipped rows and files are counted.

Each case is a regression test; `scratch-gpt data` shows what the tasks read."""

import bz2
import csv
import gzip
import json
import lzma
from pathlib import Path

import datasets
import pytest
from helpers.data import TASK_ROWS, data_error, data_summary, lines, names, task_options, texts_of
from hypothesis import given
from hypothesis import strategies as st

from scratch_gpt.data.readers.conversations import open_conversations
from scratch_gpt.data.readers.corpus import Corpus
from scratch_gpt.data.readers.labelled import open_labelled
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.data.readers.preferences import open_preferences
from scratch_gpt.data.readers.prompts import open_prompts
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.data.readers.split_files import splits_by_name
from scratch_gpt.data.readers.tables import ReadOptions

# --- text is not converted ---

LOOK_ALIKES = ["007", "4", "True", "1998-05-03", "2020-01-01T00:00:00Z", "NA", "null", "1e5", "nan", "0x1F", " a "]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow"])
def test_values_that_look_like_other_types_stay_text(suffix, tmp_path):
    rows = [{"text": text, "label": f"{i % 2:02}"} for i, text in enumerate(LOOK_ALIKES)]
    path = write_table(tmp_path / f"t{suffix}", rows)
    assert texts_of(path) == LOOK_ALIKES
    assert [text for text, _ in open_labelled(str(path)).read()] == LOOK_ALIKES
    assert set(data_summary(path, "--for", "classification")["labels"]) == {"00", "01"}


def test_labels_keep_leading_zeros(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{('01', '02', '1')[i % 3]}\n" for i in range(12_000)))
    assert data_summary(path, "--for", "classification")["labels"] == {"01": 4000, "02": 4000, "1": 4000}


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write a table of strings with the library of its format."""
    columns = list(rows[0])
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in columns})
        if path.suffix == ".parquet":
            pq.write_table(table, path)
        else:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
    return path


CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
SPECIAL = st.text(alphabet="a \t\n\r\"',;|\\\u2028é\ufeff", max_size=8)
CELL = st.one_of(SPECIAL, st.text(CHARACTERS, max_size=8), st.sampled_from(LOOK_ALIKES)).filter(str.strip)


def opened(columns: list[str], path: Path, options: ReadOptions) -> Corpus:
    """Open a file for the task with these columns."""
    name = str(path)
    return {
        ("text",): lambda: open_source(name, options, text_column="text").corpus,
        ("text", "label"): lambda: open_labelled(name, options),
        ("de", "en"): lambda: open_pairs(name, "de", "en", options),
        ("prompt", "completion"): lambda: open_conversations(name, options),
        ("prompt",): lambda: open_prompts(name, options),
        ("prompt", "chosen", "rejected"): lambda: open_preferences(name, options),
    }[tuple(columns)]()


def format_options(path: Path) -> ReadOptions:
    """Return the dialect of a table written by `write_table`, for formats that do not declare it."""
    if path.suffix not in (".csv", ".tsv"):
        return ReadOptions()
    return ReadOptions(quoting="csv", header=True, delimiter="\t" if path.suffix == ".tsv" else ",")


@st.composite
def tables_of_strings(draw):
    columns = draw(
        st.sampled_from(
            [
                ["text"],
                ["text", "label"],
                ["de", "en"],
                ["prompt", "completion"],
                ["prompt"],
                ["prompt", "chosen", "rejected"],
            ]
        )
    )
    row = st.fixed_dictionaries(dict.fromkeys(columns, CELL))
    unique = tuple(columns[:1]) if columns == ["prompt"] else None
    rows = st.lists(row, min_size=1, max_size=6, unique_by=(lambda row: row["prompt"]) if unique else None)
    suffix = draw(st.sampled_from([".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow"]))
    return suffix, [{name: found[name] for name in columns} for found in draw(rows)]


@given(table=tables_of_strings())
def test_tables_of_strings_are_read_exactly_for_every_task(tmp_path_factory, table):
    suffix, rows = table
    if "rejected" in rows[0]:
        rows = [row for row in rows if row["chosen"] != row["rejected"]] or [{**rows[0], "rejected": "other"}]
        rows = [row for row in rows if row["chosen"] != row["rejected"]] or [{**rows[0], "chosen": "one"}]
    path = write_table(tmp_path_factory.getbasetemp() / f"strings{suffix}", rows)
    wanted = [tuple(row.values()) for row in rows]
    for options in (format_options(path), ReadOptions()) if unambiguous(path, rows) else (format_options(path),):
        found = list(opened(list(rows[0]), path, options).read())
        if isinstance(found[0], str):
            found = [(text,) for text in found]
        elif isinstance(found[0], list):
            found = [tuple(message["content"] for message in messages) for messages in found]
        assert [tuple(example) for example in found] == wanted


def unambiguous(path: Path, rows: list[dict[str, str]]) -> bool:
    """Whether the dialect can be detected: not if a quoted cell looks like several rows."""
    return path.suffix not in (".csv", ".tsv") or not any(cell.count("\n") > 1 for row in rows for cell in row.values())


# --- folders ---


@pytest.mark.parametrize("task", TASK_ROWS)
def test_split_names_are_detected_for_every_task(task, tmp_path):
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text(lines(*TASK_ROWS[task]))
    (tmp_path / "LICENSE.txt").write_text("Permission is hereby granted.\n" * 9)
    for hidden in (".ipynb_checkpoints/a.jsonl", ".old.jsonl", "._train.jsonl", "__MACOSX/train.jsonl"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_text(lines({"text": "no"}))
    found = data_summary(tmp_path, *task_options(task))
    assert names(found["files"]) == ["train.jsonl"]
    assert found["split"] == "train"
    assert (found["rows_read"], found["train_rows"] + found["validation_rows"]) == (10, 10)
    reasons = {Path(path).relative_to(tmp_path).as_posix(): reason for path, reason in found["ignored"].items()}
    assert reasons == {
        "LICENSE.txt": "documentation",
        "test.jsonl": "split 'test'",
        ".ipynb_checkpoints/a.jsonl": "hidden",
        ".old.jsonl": "hidden",
        "._train.jsonl": "hidden",
        "__MACOSX/train.jsonl": "in a special folder",
    }
    (tmp_path / "dev.jsonl").write_text(lines(*TASK_ROWS[task][:2]).replace("0", "x").replace("1", "y"))
    found = data_summary(tmp_path, *task_options(task))
    assert (found["train_rows"], found["validation_rows"]) == (10, 2)
    assert names(found["files"]) == ["dev.jsonl", "train.jsonl"]


PLACES = {
    "numbered shards": ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"],
    "a clone of a Hub dataset": ["data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"],
    "folders": ["train/a.jsonl", "train/b.jsonl", "test/a.jsonl"],
    "upper case": ["TRAIN.JSONL", "Test.Jsonl"],
    "no split": ["a.jsonl", "b.ndjson"],
    "validation words": ["train.jsonl", "valid.jsonl"],
    "shards of dev": ["data/train-00000-of-00001.jsonl", "data/dev-00000-of-00001.jsonl"],
    "only another split": ["a.jsonl", "test.jsonl"],
}


@pytest.mark.parametrize("case", PLACES)
@pytest.mark.parametrize("task", ["language_modeling", "classification"])
def test_common_folder_layouts(task, case, tmp_path):
    for number, name in enumerate(PLACES[case]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        rows = [{"text": f"{name} {i}", "label": "ab"[i % 2]} for i in range(10 * (number + 1))]
        (tmp_path / name).write_text(lines(*rows))
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A dataset\n")
    found = data_summary(tmp_path, *task_options(task))
    wanted = [name for name in PLACES[case] if "test" not in name.lower()]
    assert sorted(found["files"]) == sorted(str(tmp_path / name) for name in wanted)
    assert found["rows_read"] == sum(10 * (i + 1) for i, name in enumerate(PLACES[case]) if name in wanted)


WORDS = ["train", "training", "test", "dev", "val", "valid", "eval", "data", "a", "x1", "trainer", "latest", "my"]


@given(
    paths=st.lists(
        st.tuples(
            st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=2).map("_".join), max_size=2),
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("-".join),
        ).map(lambda parts: "/".join([*parts[0], parts[1] + ".jsonl"])),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
def test_split_names_are_detected_as_in_datasets(paths, tmp_path_factory):
    import shutil

    from datasets.data_files import DataFilesDict, get_data_patterns

    folder = tmp_path_factory.getbasetemp() / "tree"
    shutil.rmtree(folder, ignore_errors=True)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("{}")
    patterns = get_data_patterns(str(folder))
    theirs = {
        str(split): {str(Path(file).relative_to(folder.resolve())) for file in files}
        for split, files in DataFilesDict.from_patterns(patterns, str(folder)).items()
    }
    ours = {split: set(map(str, found)) for split, found in splits_by_name(map(Path, sorted(paths))).items()}
    assert ours == theirs or (not ours and theirs == {"train": set(paths)})


def test_files_written_by_datasets_are_read(tmp_path):
    rows = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(20)], "label": [i % 2 for i in range(20)]})
    rows = rows.cast_column("label", datasets.ClassLabel(names=["no", "yes"]))
    rows.save_to_disk(tmp_path / "saved", num_shards=2)
    datasets.DatasetDict({"train": rows, "validation": rows.select(range(5))}).save_to_disk(tmp_path / "dict")
    (tmp_path / "pq").mkdir()
    for shard in range(2):
        rows.shard(2, shard).to_parquet(tmp_path / "pq" / f"{shard}.parquet")
    (tmp_path / "pq" / "__MACOSX").mkdir()
    (tmp_path / "pq" / "__MACOSX" / "0.parquet").write_text("no")
    for name in ("saved", "pq", "pq/*.parquet", "pq/**/*.parquet"):
        found = data_summary(tmp_path / name, "--for", "classification")
        assert (found["rows_read"], found["labels"]) == (20, {"no": 10, "yes": 10}), name
    found = data_summary(tmp_path / "dict", "--for", "classification")
    assert (found["train_rows"], found["validation_rows"], found["split"]) == (20, 5, "train")
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    assert data_summary(arrow)["rows_read"] == 10


def test_card_may_list_the_files(tmp_path):
    configs = [
        {"config_name": "small", "data_files": [{"split": "train", "path": "x/*.jsonl"}], "default": True},
        {
            "config_name": "large",
            "data_files": [{"split": "train", "path": "y/a.jsonl"}, {"split": "test", "path": ["y/b.jsonl"]}],
        },
    ]
    (tmp_path / "README.md").write_text("---\n" + json.dumps({"configs": configs}) + "\n---\n")
    for name in ("x/1.jsonl", "y/a.jsonl", "y/b.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(lines({"text": name}, {"text": name + "!"}))
    assert names(data_summary(tmp_path)["files"]) == ["1.jsonl"]
    assert names(data_summary(tmp_path, "--dataset_config", "large", "--dataset_split", "test")["files"]) == ["b.jsonl"]
    assert "choose one of small, large" in data_error(tmp_path, "--dataset_config", "huge")
    folders = [{"config_name": "de", "data_dir": "y"}, {"config_name": "en", "data_dir": "x"}]
    (tmp_path / "README.md").write_text("---\n" + json.dumps({"configs": folders}) + "\n---\n")
    assert names(data_summary(tmp_path, "--dataset_config", "en")["files"]) == ["1.jsonl"]
    assert "choose one of de, en" in data_error(tmp_path)
    (tmp_path / "README.md").write_text("---\n" + json.dumps({"configs": configs}) + "\n---\n")
    (tmp_path / "y/a.jsonl").unlink()
    assert "there is no such file" in data_error(tmp_path, "--dataset_config", "large")


def test_suffixes_ignore_case(tmp_path):
    (tmp_path / "A.CSV").write_text("text,label\none,a\ntwo,b\n")
    (tmp_path / "x.TSV").write_text("text\tlabel\none\ta\ntwo\tb\n")
    (tmp_path / "B.TXT").write_text("plain text")
    assert texts_of(tmp_path / "A.CSV") == texts_of(tmp_path / "x.TSV") == ["one", "two"]
    assert texts_of(tmp_path / "B.TXT") == ["plain text"]
    assert names(data_summary(tmp_path)["files"]) == ["A.CSV", "x.TSV"]  # two tables, one text


@pytest.mark.parametrize(("suffix", "opener"), [(".gz", gzip.open), (".bz2", bz2.open), (".xz", lzma.open)])
def test_compressed_files_are_read(suffix, opener, tmp_path):
    contents = {"a.txt": "some text\n", "b.jsonl": lines({"text": "some text\n"}), "c.csv": 'text\n"some text\n"\n'}
    for name, content in contents.items():
        with opener(tmp_path / (name + suffix), "wt") as file:
            file.write(content)
        assert texts_of(tmp_path / (name + suffix)) == ["some text\n"]
    (tmp_path / f"broken.txt{suffix}").write_bytes(b"no such thing")
    assert "can't be read" in data_error(tmp_path / f"broken.txt{suffix}")


def test_unsupported_formats_are_rejected(tmp_path):
    for name, words in {
        "a.zip": "is a zip archive: unpack it",
        "a.tar.gz": "archive: unpack it",
        "a.xlsx": "is a spreadsheet",
        "a.pkl": "is binary data",
        "a.parquet.gz": "is a compressed parquet file",
    }.items():
        (tmp_path / name).write_bytes(b"PK\x03\x04")
        assert words in data_error(tmp_path / name)
    said = data_error(tmp_path)
    assert "a.zip (a zip archive: unpack it first)" in said


def test_folder_with_texts_and_tables(tmp_path):
    for name in ("1.txt", "2.txt"):
        (tmp_path / name).write_text(f"text {name}")
    (tmp_path / "rows.csv").write_text("text\nsome row\nanother row\n")
    found = data_summary(tmp_path)
    assert names(found["files"]) == ["rows.csv"]
    assert set(found["ignored"].values()) == {"plain text, not a table"}
    for name in ("3.md", "4.text"):
        (tmp_path / name).write_text(f"text {name}")
    found = data_summary(tmp_path)  # mostly texts
    assert names(found["files"]) == ["1.txt", "2.txt", "3.md", "4.text"]
    assert found["ignored"] == {str(tmp_path / "rows.csv"): "not text"}
    assert names(data_summary(tmp_path, "--text_column", "text")["files"]) == ["rows.csv"]
    (tmp_path / "LICENSE-MIT.txt").write_text("license")
    assert data_summary(tmp_path)["ignored"][str(tmp_path / "LICENSE-MIT.txt")] == "documentation"
