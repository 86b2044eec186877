"""Data that is too little to learn from, or blank; and the example that an error names."""

import pytest

from scratch_gpt.errors import ScratchError
from scratch_gpt.train.tasks import arguments_of, recipe_of


def summary_of(dataset, family="language_modeling", **options):
    data = arguments_of(family)[0](dataset=str(dataset), **options)
    return recipe_of(family).preview.read(data, 0)[0]


@pytest.mark.parametrize("characters", [13, 99_999, 100_000])
def test_little_text_has_a_warning_and_both_parts_of_one_text_are_counted(characters, tmp_path):
    (tmp_path / "text.txt").write_text("x" * characters)
    summary = summary_of(tmp_path / "text.txt")
    held = characters - int(0.9 * characters)
    split = f"{characters - held:,} characters for training, the last {held:,} for validation"
    assert summary.lines()[1] == f"1 text; {split}"
    warning = f"{characters:,} characters: too little text to learn a language from; 100 kB or more is useful"
    assert summary.warnings() == ([warning] if characters < 100_000 else [])
    (tmp_path / "second.txt").write_text("y" * characters)
    assert summary_of(tmp_path).lines()[1].startswith("rows: 2 read, 1 for training, 1 for validation")
    assert summary_of(tmp_path).validation_characters == characters


def test_built_in_data_has_no_warning_of_its_size():
    assert summary_of("stories", num_stories=20).warnings() == []
    assert summary_of("questions", "sft", num_questions=20).warnings() == []


@pytest.mark.parametrize(("rows", "warns"), [(11, True), (99, True), (100, False)])
def test_few_conversations_have_a_warning(rows, warns, tmp_path):
    (tmp_path / "t.csv").write_text("question,answer\n" + "".join(f"q {i},a {i}\n" for i in range(rows)))
    warning = f"{rows} conversations: too few to learn from; the model will recite them"
    assert summary_of(tmp_path / "t.csv", "sft").warnings() == ([warning] if warns else [])


def test_blank_text_is_refused(tmp_path):
    (tmp_path / "blank.txt").write_text("  \n\n\t\n")
    with pytest.raises(ScratchError, match=r"blank\.txt has no text: it has only spaces and line ends"):
        summary_of(tmp_path / "blank.txt")
    (tmp_path / "text.txt").write_text("text")
    assert summary_of(tmp_path).rows_read == 2


@pytest.mark.parametrize(("family", "kind"), [("language_modeling", "text"), ("classification", "labelled")])
def test_an_error_names_the_example_of_its_task(family, kind, tmp_path):
    (tmp_path / "t.csv").write_text("a,b,label\nx y,z w,1\nq r,t t,2\n")
    with pytest.raises(ScratchError, match=f"--text_column; 'scratch-gpt data --example {kind}' writes an example"):
        summary_of(tmp_path / "t.csv", family)
