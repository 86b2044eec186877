"""The example files of `scratch-gpt data --example` are what the readers of their tasks read."""

import pytest
from helpers.processes import run_here

from scratch_gpt.data.readers.examples import EXAMPLES, write_example
from scratch_gpt.errors import ScratchError
from scratch_gpt.train.tasks import arguments_of, recipe_of

ROWS = {"text": 1}  # of the others, four


@pytest.mark.parametrize("kind", EXAMPLES)
def test_each_example_is_read_whole_by_its_task(kind, tmp_path):
    example = EXAMPLES[kind]
    assert len(example.content.encode()) < 1000
    path = write_example(kind, tmp_path)
    assert path.read_text(encoding="utf-8") == example.content
    data = arguments_of(example.family)[0](dataset=str(path), **example.options)
    summary, texts = recipe_of(example.family).preview.read(data, 0)
    assert (summary.rows_read, summary.rows_skipped) == (ROWS.get(kind, 4), {})
    assert summary.train_rows >= 1 <= summary.validation_rows
    assert summary.train_rows + summary.validation_rows + summary.test_rows == (2 if kind == "text" else 4)
    assert "".join(texts()).strip()


def test_every_family_that_reads_files_has_an_example():
    assert {example.family for example in EXAMPLES.values()} == {
        *("language_modeling", "classification", "sft", "dpo", "policy_gradient", "translation")
    }


def test_an_example_replaces_no_file(tmp_path):
    write_example("pairs", tmp_path)
    with pytest.raises(ScratchError, match=r"pairs.tsv already exists: remove it, or change to another folder"):
        write_example("pairs", tmp_path)


def test_the_command_writes_an_example_and_errors_name_it(tmp_path):
    printed = run_here("scratch-gpt", "data", "--example", "conversations", cwd=tmp_path).stdout
    content = (tmp_path / "conversations.jsonl").read_text()
    assert content == EXAMPLES["conversations"].content
    assert content in printed
    assert "read it with: scratch-gpt data conversations.jsonl --for sft" in printed
    shown = run_here("scratch-gpt", "data", "conversations.jsonl", "--for", "sft", cwd=tmp_path).stdout
    assert "rows: 4 read" in shown
    (tmp_path / "wrong.csv").write_text("number,size\n1,2\n3,4\n")
    cases = {"sft": "conversations", "dpo": "preferences", "policy_gradient": "prompts", "classification": "labelled"}
    for family, kind in {**cases, "translation": "pairs"}.items():
        refused = run_here("scratch-gpt", "data", "wrong.csv", "--for", family, cwd=tmp_path, check=False)
        assert refused.returncode == 2
        assert f"'scratch-gpt data --example {kind}' writes an example" in refused.stderr
    for arguments in ((), ("wrong.csv", "--example", "text")):
        refused = run_here("scratch-gpt", "data", *arguments, cwd=tmp_path, check=False)
        assert (refused.returncode, "give one of the two" in refused.stderr) == (2, True)
