"""Rows: selection of columns, splits, skipped rows, and formats of conversations."""

import json

import datasets
import numpy as np
import pytest
from helpers.data import TASK_ROWS, TEXT_ROWS, data_error, data_summary, lines, task_options, texts_of
from helpers.processes import run_here
from hypothesis import given
from hypothesis import strategies as st

from scratch_gpt.data.readers.conversations import open_conversations
from scratch_gpt.data.readers.prompts import open_prompts
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.data.readers.tables import ReadOptions, open_hub
from scratch_gpt.data.splits import assign_splits, content_key, hold_out
from scratch_gpt.errors import ScratchError

# --- columns ---


def test_text_column_is_searched_in_all_rows(tmp_path):
    rows = [{"text": None, "other": "no"}, {"text": "one", "other": "no"}] + [
        {"text": f"{i}", "x": "y"} for i in range(20)
    ]
    (tmp_path / "t.jsonl").write_text(lines(*rows))
    found = data_summary(tmp_path / "t.jsonl")
    assert found["columns"] == {"text": "text"}
    assert found["rows_read"] == 21
    assert found["rows_skipped"] == {"'text' is null, want text": 1}
    late = [{"other": f"no {i}"} for i in range(1500)] + [{"text": "yes"}] * 20_000
    (tmp_path / "t.jsonl").write_text(lines(*late))
    assert set(texts_of(tmp_path / "t.jsonl")) == {"yes"}


def test_text_of_a_hub_dataset_is_not_converted(tmp_path, monkeypatch):
    """A local folder with the layout of a dataset repository replaces the Hub; loader and splits are the same."""
    repository = tmp_path / "user" / "corpus"
    repository.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"1998-05-{i:02}", "more": {"on": "2020-01-01"}} for i in range(1, 20)]
    for split in ("train", "validation"):
        (repository / f"{split}.jsonl").write_text(lines(*rows))
    table = open_hub("user/corpus", ReadOptions())
    assert list(table.rows()) == rows
    assert (table.validation_split, table.split) == ("validation", "train")
    for split in ("train", "validation"):
        (repository / f"{split}.jsonl").unlink()
        (repository / f"{split}.csv").write_text(
            "text,label\n" + "".join(f"00{i},01\n" for i in range(5)) + "NA,null\n"
        )
    found = [tuple(row.values()) for row in open_hub("user/corpus", ReadOptions()).rows()]
    assert found == [*((f"00{i}", "01") for i in range(5)), ("NA", "null")]


def test_nested_fields_have_dotted_paths(tmp_path):
    rows = [{"meta": {"body": {"text": f"text {i}"}, "stars": i % 2}, "id": i} for i in range(20)]
    (tmp_path / "t.jsonl").write_text(lines(*rows))
    assert texts_of(tmp_path / "t.jsonl", text_column="meta.body.text")[:2] == ["text 0", "text 1"]
    options = ("--for", "classification", "--text_column", "meta.body.text", "--label_column", "meta.stars")
    assert data_summary(tmp_path / "t.jsonl", *options)["labels"] == {"0": 10, "1": 10}
    assert "no column 'meta.bod'" in data_error(tmp_path / "t.jsonl", "--text_column", "meta.bod")
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "t.parquet")
    assert len(texts_of(tmp_path / "t.parquet", text_column="meta.body.text")) == 20


# --- splits ---


@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=40),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
    labels=st.integers(1, 3),
)
def test_hold_out_properties(sizes, fraction, seed, labels):
    keys = [content_key(str(i)) for i, size in enumerate(sizes) for _ in range(size)]
    strata = [i % labels for i, size in enumerate(sizes) for _ in range(size)]
    held = hold_out(keys, fraction, seed, strata)
    assert 0 < held.sum() < len(keys)  # if there are two different rows
    if len(sizes) > labels:  # otherwise each label has only one text
        assert all(len({bool(h) for h, k in zip(held, keys, strict=True) if k == key}) == 1 for key in set(keys))
    order = np.random.default_rng(seed).permutation(len(keys))
    again = hold_out([keys[i] for i in order], fraction, seed, [strata[i] for i in order])
    if max(sizes) == 1:
        assert abs(held.sum() - min(max(1, round(fraction * len(keys))), len(keys) - 1)) <= labels
    if len(sizes) > labels:  # independent of the order of the rows
        assert [held[i] for i in order] == again.tolist()


def test_splits_are_stratified(tmp_path):
    rows = [{"text": f"text {i}", "label": ("neg", "pos")[i % 2]} for i in range(100)]
    (tmp_path / "t.jsonl").write_text(lines(*rows))
    found = data_summary(tmp_path / "t.jsonl", "--for", "classification")
    assert found["validation_labels"] == {"neg": 5, "pos": 5}
    sorted_rows = sorted(rows, key=lambda row: row["label"])
    (tmp_path / "t.jsonl").write_text(lines(*sorted_rows))
    assert data_summary(tmp_path / "t.jsonl", "--for", "classification")["validation_labels"] == {"neg": 5, "pos": 5}
    rare = [{"text": f"text {i}", "label": "rare" if i % 10 == 0 else "usual"} for i in range(200)]
    (tmp_path / "t.jsonl").write_text(lines(*rare))
    assert data_summary(tmp_path / "t.jsonl", "--for", "classification")["validation_labels"] == {
        "rare": 2,
        "usual": 18,
    }


@pytest.mark.parametrize("task", TASK_ROWS)
def test_equal_rows_are_in_the_same_split(task, tmp_path):
    (tmp_path / "t.jsonl").write_text(lines(*[row for row in TASK_ROWS[task] for _ in range(3)]))
    found = data_summary(
        tmp_path / "t.jsonl",
        *task_options(task),
        *(() if task == "policy_gradient" else ("--validation_fraction", "0.3")),
    )
    if task == "policy_gradient":
        assert found["rows_skipped"] == {"a repeated prompt": 20}
    else:
        assert (found["rows_read"], found["duplicates"]) == (30, 20)
        assert found["validation_rows"] % 3 == 0


def test_equal_rows_per_label_are_divided(tmp_path):
    (tmp_path / "t.tsv").write_text("a fine film\t1\na dull film\t0\n" * 30)
    result = run_here("scratch-gpt", "data", str(tmp_path / "t.tsv"), "--for", "classification", "--json")
    found = json.loads(result.stdout)
    assert found["validation_labels"] == {"0": 3, "1": 3}
    assert found["shared"] == 6
    (tmp_path / "t.txt").write_text("the same prompt\n" * 20)
    (tmp_path / "u.jsonl").write_text(lines(*[{"text": "the same"}] * 20))
    found = data_summary(tmp_path / "u.jsonl")
    assert (found["train_rows"], found["validation_rows"], found["shared"]) == (18, 2, 2)


def test_two_documents_give_a_validation_split(tmp_path):
    for count in (2, 3, 9):
        (tmp_path / f"{count}.txt").write_text(f"text {count}")
    found = data_summary(tmp_path)
    assert (found["train_rows"], found["validation_rows"]) == (2, 1)
    (tmp_path / "9.txt").unlink()
    assert data_summary(tmp_path)["validation_rows"] == 1
    found = data_summary(tmp_path / "2.txt")
    assert (found["rows_read"], found["train_rows"], found["validation_rows"]) == (1, 1, 1)


def test_several_fractions_are_disjoint():
    keys = [content_key(str(i)) for i in range(100)]
    parts = assign_splits(keys, {"validation": 0.05, "test": 0.1}, seed=3)
    assert {name: len(part) for name, part in parts.items()} == {"train": 85, "validation": 5, "test": 10}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(100))
    assert parts["test"].tolist() != assign_splits(keys, {"validation": 0.05, "test": 0.1}, seed=4)["test"].tolist()


# --- rows that can't be used ---

BAD_ROWS = {
    "language_modeling": [{"text": None}, {"text": 3}, {"other": "x"}, {"text": "\ud800"}],
    "classification": [{"text": None, "label": "a"}, {"text": " ", "label": "a"}, {"text": "x", "label": None}],
    "translation": [{"de": None, "en": "a"}, {"de": "a", "en": ""}, {"de": 3, "en": "a"}],
    "sft": [{"prompt": "a", "completion": ""}, {"prompt": None, "completion": "b"}, {"prompt": "a"}],
    "dpo": [{"prompt": "", "chosen": "a", "rejected": "b"}, {"prompt": "a", "chosen": "b", "rejected": "b"}],
    "policy_gradient": [{"prompt": None}, {"prompt": " "}, {"prompt": 3}],
}


@pytest.mark.parametrize("task", BAD_ROWS)
def test_bad_rows_are_skipped_and_counted_up_to_a_limit(task, tmp_path):
    good = [{name: f"{value} {n}" for name, value in row.items()} for n in range(10) for row in TASK_ROWS[task]]
    if task == "classification":
        good = [{**row, "label": row["label"][0]} for row in good]
    bad = BAD_ROWS[task]
    content = lines(*good[:50], *bad, *good[50:]) + "{not json\n"
    (tmp_path / "t.jsonl").write_text(content)
    found = data_summary(tmp_path / "t.jsonl", *task_options(task))
    assert found["rows_read"] == 100
    assert sum(found["rows_skipped"].values()) == len(bad) + 1
    assert found["rows_skipped"]["the line is not JSON"] == 1
    (tmp_path / "t.jsonl").write_text(lines(*good[:50], *bad * 6))
    said = data_error(tmp_path / "t.jsonl", *task_options(task))
    assert f"{6 * len(bad)} of {50 + 6 * len(bad)} rows can't be used" in said
    assert "first row 50" in said
    assert data_summary(tmp_path / "t.jsonl", *task_options(task), "--max_bad_rows", "0.5")["rows_read"] == 50


def test_empty_documents_are_skipped_without_limit(tmp_path):
    (tmp_path / "t.jsonl").write_text(lines(*[{"text": ("", f"text {i}")[i % 2]} for i in range(20)]))
    found = data_summary(tmp_path / "t.jsonl")
    assert (found["rows_read"], found["rows_skipped"]) == (10, {"an empty document": 10})


# --- conversations ---

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]},
            [("user", "Hi"), ("assistant", "Yes")],
        ),
        (
            {"messages": json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}])},
            [("user", "Hi"), ("assistant", "Yes")],
        ),
        (
            {"messages": {"role": ["user", "assistant"], "content": ["Hi", "Yes"]}},
            [("user", "Hi"), ("assistant", "Yes")],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "1+1?"}]},
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "content": "2"},
                    {"role": "assistant", "content": "Two.", "tool_calls": None},
                ]
            },
            [("user", "1+1?"), ("assistant", ""), ("tool", "2"), ("assistant", "Two.")],
        ),
    ],
)
def test_conversation_formats(row, wanted, tmp_path):
    (tmp_path / "t.jsonl").write_text(lines(row))
    (found,) = open_conversations(str(tmp_path / "t.jsonl")).read()
    assert [(message["role"], message["content"]) for message in found] == wanted
    assert [message["tool_calls"] for message in found if "tool_calls" in message] == [[CALL]] * ("tool" in str(row))
    (tmp_path / "u.jsonl").write_text(lines({"data": row}))
    column = f"data.{next(iter(row))}"
    (nested,) = open_conversations(str(tmp_path / "u.jsonl"), messages_column=column).read()
    assert nested == found


def test_json_formats(tmp_path):
    rows = [{"text": f"text {i}"} for i in range(3)]
    for content in (rows, {"data": rows, "version": "1"}, {"text": [row["text"] for row in rows]}):
        for indent in (None, 2):
            (tmp_path / "t.json").write_text(json.dumps(content, indent=indent))
            assert texts_of(tmp_path / "t.json") == ["text 0", "text 1", "text 2"]
    (tmp_path / "t.json").write_text(lines(*rows))
    assert len(texts_of(tmp_path / "t.json")) == 3
    (tmp_path / "t.json").write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}))
    assert len(list(open_prompts(str(tmp_path / "t.json")).read())) == 1


def test_lone_surrogates(tmp_path):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)]
    (tmp_path / "t.jsonl").write_text(lines(*rows, {"text": "x", "label": "p\ud800"}))
    found = data_summary(tmp_path / "t.jsonl", "--for", "classification")
    assert found["rows_skipped"] == {"'label' is broken Unicode (a lone surrogate)": 1}
    (tmp_path / "t.jsonl").write_text(lines(*[{"a\ud800": row["text"]} for row in rows]))
    assert data_summary(tmp_path / "t.jsonl")["rows_read"] == 20
    (tmp_path / "t.jsonl").write_text(lines(*rows, {"text": "x", "label": "1" * 5000}))
    assert len(data_summary(tmp_path / "t.jsonl", "--for", "classification")["labels"]) == 3


def test_tables_without_text_are_rejected(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n" + ",a\n" * 20)
    assert "t.csv has no text: an empty document: 20" in data_error(tmp_path / "t.csv")
    assert "name of the dataset is empty" in data_error("")
    (tmp_path / "u.txt").write_text("some text")
    assert "--dataset_split can't be used with u.txt" in data_error(tmp_path / "u.txt", "--dataset_split", "test")
    assert "has no configurations" in data_error(tmp_path / "u.txt", "--dataset_config", "x")
    assert "--delimiter can't be used with stories" in data_error("stories", "--delimiter", ";")


def test_options_of_another_task_are_rejected(tmp_path):
    (tmp_path / "t.txt").write_text("some text")
    assert "--label_column can't be used with --for language_modeling" in data_error(
        tmp_path / "t.txt", "--label_column", "x"
    )
    assert "is plain text, want a table" in data_error(tmp_path / "t.txt", "--text_column", "x")
    assert "which is not a CSV or TSV file" in data_error(tmp_path / "t.txt", "--delimiter", ";")
    assert "max_bad_rows is 2.0, want at least 0 and at most 1" in data_error(tmp_path / "t.txt", "--max_bad_rows", "2")


def test_printed_summary(tmp_path):
    (tmp_path / "train.csv").write_text("text;label\n" + TEXT_ROWS)
    (tmp_path / "NOTICE").write_text("notice")
    options = ("--for", "classification", "--tokenizer", "bpe", "--context_length", "4")
    out = run_here("scratch-gpt", "data", str(tmp_path), *options).stdout
    for words in (
        "NOTICE",
        "documentation",
        "delimiter",
        "';'",
        "rows read",
        "30",
        "neg",
        "longer than context",
        "5. text: ",
    ):
        assert words in out
    with pytest.raises(ScratchError, match="no such file or folder"):
        open_source(str(tmp_path / "none.csv"))
    assert "--max_bad_rows" in run_here("scratch-gpt", "data", "--help").stdout
