"""CSV and TSV files: delimiter, quoting and header are detected, reported, and can be set."""

import csv

import pytest
from helpers.data import TEXT_ROWS, data_error, data_summary, lines, texts_of

from scratch_gpt.data.readers.labelled import open_labelled


@pytest.mark.parametrize("every", [20, 7, 399])
@pytest.mark.parametrize("start", ['"', '"A quote" and ', '""', 'an inch is 2" and ', '"x'])
def test_unmatched_quotes_do_not_merge_rows(tmp_path, every, start):
    rows = [(f"{start if i % every == 1 else ''}text {i}", "pos" if i % 2 else "neg") for i in range(400)]
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    assert list(open_labelled(str(tmp_path / "t.tsv")).read()) == rows
    assert data_summary(tmp_path / "t.tsv", "--for", "classification")["rows_read"] == 400


@pytest.mark.parametrize("distance", [1, 2, 3, 7])
def test_quotes_that_span_rows_do_not_merge_them(tmp_path, distance):
    rows = [(f"sentence number {i}", "pos" if i % 3 else "neg") for i in range(400)]
    for i in range(0, 390, 20):
        rows[i] = ('"' + rows[i][0], rows[i][1])
        rows[i + distance] = (rows[i + distance][0] + '"', rows[i + distance][1])
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    assert list(open_labelled(str(tmp_path / "t.tsv")).read()) == rows
    alone = [('"' if i in (7, 8) else text, label) for i, (text, label) in enumerate(rows[:19])]
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in alone))
    assert [text for text, _ in open_labelled(str(tmp_path / "t.tsv")).read()][7:9] == ['"', '"']


def test_declared_delimiter_and_header_of_large_cells(tmp_path):
    (tmp_path / "t.csv").write_text("sep=;\r\ntext;label\r\na, b;x\r\nc, d;y\r\n")
    assert list(open_labelled(str(tmp_path / "t.csv")).read()) == [("a, b", "x"), ("c, d", "y")]
    (tmp_path / "t.csv").write_text("body_x,score\n" + "".join(f"{'word ' * 60_000}{i},{i}\n" for i in range(4)))
    found = data_summary(tmp_path / "t.csv")
    assert (found["header"], found["rows_read"], found["columns"]) == (True, 4, {"text": "body_x"})


def test_without_header_the_column_with_most_distinct_values_is_text(tmp_path):
    (tmp_path / "t.csv").write_text("".join(f"movie {i},{'negative' if i % 2 else 'positive'}\n" for i in range(20)))
    assert data_summary(tmp_path / "t.csv", "--for", "classification")["labels"] == {"negative": 10, "positive": 10}
    (tmp_path / "t.csv").write_text("".join(f"Text {i}\n" for i in range(20)))
    assert data_summary(tmp_path / "t.csv")["rows_read"] == 20


def test_quoted_cells_may_contain_delimiters_and_line_breaks(tmp_path):
    rows = [("one, two", "a"), ('say "hi"', "b"), ("line\nbreak\r\nand more", "a"), ("x;y", "b"), ("\ttab", "a")]
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t"), (".csv", ";"), (".csv", "|")):
        path = tmp_path / f"t{suffix}"
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([("text", "label"), *rows])
        assert list(open_labelled(str(path)).read()) == rows, delimiter
    (tmp_path / "t.csv").write_text('text,label\n"say \\"hi, you\\"",a\n"b, c",b\n')
    assert list(open_labelled(str(tmp_path / "t.csv")).read()) == [('say "hi, you"', "a"), ("b, c", "b")]


FORMS = {
    "semicolons": ("text;label\n" + TEXT_ROWS, (";", True)),
    "no header": (TEXT_ROWS, (";", False)),
    "no header, commas": (TEXT_ROWS.replace(",", "").replace(";", ","), (",", False)),
    "tabs in a .csv": ("text\tlabel\n" + TEXT_ROWS.replace(";", "\t"), ("\t", True)),
    "a number as a name": ("text,2020\n" + TEXT_ROWS.replace(",", "").replace(";", ","), (",", True)),
    "one line": ("a film;pos\n", (";", False)),
}


@pytest.mark.parametrize("form", FORMS)
def test_delimiter_and_header_are_detected_and_reported(form, tmp_path):
    content, (delimiter, header) = FORMS[form]
    (tmp_path / "t.csv").write_text(content)
    found = data_summary(tmp_path / "t.csv")
    assert (found["delimiter"], found["header"]) == (delimiter, header)
    assert found["rows_read"] == content.count("\n") - header
    assert texts_of(tmp_path / "t.csv")[0].startswith("a f")


def test_delimiter_header_and_quoting_can_be_set(tmp_path):
    (tmp_path / "t.csv").write_text('good\nfine\n"quoted"\n')
    assert texts_of(tmp_path / "t.csv") == ["good", "fine", "quoted"]
    assert data_summary(tmp_path / "t.csv", "--header", "yes")["rows_read"] == 2
    assert data_summary(tmp_path / "t.csv", "--quoting", "none", "--header", "no")["samples"][-1] == {
        "text": '"quoted"'
    }
    (tmp_path / "u.csv").write_text("text:label\na:b\nc:d\n")
    assert data_summary(tmp_path / "u.csv", "--delimiter", ":")["columns"] == {"text": "text"}
    (tmp_path / "t.jsonl").write_text(lines({"text": "a"}, {"text": "b"}))
    assert "delimiter can't be used with t.jsonl" in data_error(tmp_path / "t.jsonl", "--delimiter", ";")


def test_cell_with_invalid_quotes_is_reported(tmp_path):
    (tmp_path / "t.csv").write_text('text,label\n"a,b,c\n"d" e,f\n1,2,3,4\n')
    assert "line 3: a cell has invalid quotes" in data_error(tmp_path / "t.csv")
