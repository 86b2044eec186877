"""Input of translation: bad input is refused, long and empty sentences are counted."""

import pytest
import yaml
from helpers.models import tiny_model
from helpers.processes import refusals
from helpers.translation import TINY, TRAIN, train

BAD = {
    "unknown language": ("--source_lang fr", "has 'de' and 'en', not 'fr' to 'en'"),
    "one language twice": ("--source_lang en", "source_lang and target_lang are both 'en'"),
    "no such folder": ("--dataset ./none", "no such file or folder: ./none"),
    "different lengths": ("--dataset uneven", "has 2 lines and"),
    "missing side": ("--dataset half", "half has no train.en"),
    "an empty side": ("--dataset hollow", "too few rows: it leaves nothing for train"),
    "too few pairs": ("--dataset few --vocab_size 280", "too few rows: it leaves nothing for validation"),
    "only long pairs": ("--dataset plenty --max_length 3 --skip_long --vocab_size 270", "a side of over 3 tokens"),
    "both directions with two vocabularies": (
        "--both_directions --separate_vocabularies",
        "both_directions needs one voc",
    ),
    "unknown preset": ("--preset vaswani", "unknown preset 'vaswani': choose one of vaswani2017, modern"),
    "heads that do not divide": ("--num_attention_heads 5", "num_attention_heads is 5"),
    "label smoothing": ("--label_smoothing 1.5", "label_smoothing is 1.5"),
    "an infinite learning rate": ("--learning_rate inf", "learning_rate is inf, want a finite number"),
    "average decay": ("--average_decay 2", "average_decay is 2.0, want more than 0 and less than 1"),
    "negative number of pairs": ("--num_pairs -1", "num_pairs is -1, want at least 1"),
    "zero beams": ("--num_beams 0", "num_beams is 0, want at least 1"),
    "validation on the training split": ("--dataset plenty --validation_split train", "which is the training split"),
    "unknown metric": ("--metric_for_best_model val_blue --max_steps 1", "is 'val_blue', want one of val_bleu"),
    "zero tokens per batch": ("--tokens_per_batch 0", "tokens_per_batch is 0, want more than 0"),
    "another kind of model": ("--init_from gpt", "is a scratch_gpt model, which does not translate"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, story_tokenizer) -> dict[str, tuple[int, str]]:
    folder = tmp_path_factory.mktemp("bad")
    for name, german, english in (
        ("uneven", "a\nb\n", "a\n"),
        ("half", "a\n", None),
        ("hollow", "\n\n", "a\nb\n"),
        ("few", "ein Hund\n", "a dog\n"),
        ("plenty", "ein Hund läuft\n" * 99, "a dog runs\n" * 99),
    ):
        (folder / name).mkdir()
        (folder / name / "train.de").write_text(german)
        if english is not None:
            (folder / name / "train.en").write_text(english)
    tiny_model("llama", vocab_size=len(story_tokenizer)).save_pretrained(folder / "gpt")
    story_tokenizer.save_pretrained(folder / "gpt")
    before = sorted(folder.iterdir())
    defaults = dict(zip(TINY[::2], TINY[1::2], strict=True))
    argument_lists = []
    for case, (arguments, _) in BAD.items():
        options = arguments.split()
        other_options = {name: value for name, value in defaults.items() if name not in options}
        if case == "another kind of model":
            other_options = {name: other_options[name] for name in ("--num_pairs", "--precision")}
        argument_lists.append(
            [*sum(other_options.items(), ()), *options, "--output_dir", f"out_{case.replace(' ', '_')}"]
        )
    found = refusals(TRAIN, argument_lists, cwd=folder)
    assert sorted(folder.iterdir()) == before  # nothing is written
    return dict(zip(BAD, found, strict=True))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_a_one_line_error_and_exit_code_2(case, outcomes):
    code, errors = outcomes[case]
    assert code == 2, errors
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if "error:" in line]
    assert len(lines) == 1, errors
    assert BAD[case][1] in lines[0]


def test_long_and_empty_sentences_are_counted(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    german = [f"ein Hund läuft {i}" for i in range(60)] + ["ein sehr sehr langer Satz " * 9, ""]
    english = [f"a dog runs {i}" for i in range(60)] + ["a long sentence", "nothing"]
    (folder / "train.de").write_text("\n".join([*german, ""]))
    (folder / "train.en").write_text("\n".join([*english, ""]))
    options = ("--dataset", str(folder), "--vocab_size", "280", "--max_length", "24", "--max_steps", "1")
    result = train(tmp_path / "run", *options, "--validation_fraction", "0.1")
    assert "pairs with a side of over 24 tokens were truncated" in " ".join(result.stderr.split())
    record = (tmp_path / "run" / "run.yaml").read_text()
    assert "long: 1" in record
    assert yaml.safe_load(record)["facts"]["data"]["rows_skipped"] == {"'de' is empty": 1}
    assert "skipped: 1 rows ('de' is empty: 1)" in result.stdout
