"""How a run reports its data: the summary, the skipped rows, the opened files, and the check that a resumed run has
the same data."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.data import data_summary
from helpers.models import tiny_model
from helpers.processes import PROJECT, run_here, run_python

from scratch_gpt import train_tokenizer
from scratch_gpt.tokenization.chat import add_chat_template

LETTERS = "abcdefghij klmnopqrstuvwxyz"
FAMILIES = ("language_modeling", "masked_lm", "classification", "translation", "sft", "dpo", "policy_gradient")
SMALL = ["--max_steps", "2", "--num_threads", "1", "--precision", "fp32", "--eval_every", "2", "--save_every", "2"]
MODEL = ["--hidden_size", "16", "--num_attention_heads", "2", "--num_hidden_layers", "1", "--context_length", "16"]
PROMPTS = ["--validation_prompts", "4", "--max_new_tokens", "4", "--prompts_per_rollout", "8"]
OPTIONS = {
    "language_modeling": [*MODEL, "--tokenizer", "char"],
    "masked_lm": [*MODEL, "--tokenizer", "char"],
    "classification": [*MODEL, "--tokenizer", "char"],
    "translation": ["--hidden_size", "16", "--encoder_layers", "1", "--decoder_layers", "1", "--tokenizer", "char"],
    "sft": ["--init_from", "MODEL", "--context_length", "48"],
    "dpo": ["--init_from", "MODEL"],
    "policy_gradient": ["--init_from", "MODEL", "--reward", "re:a", *PROMPTS],
}
WORDS = [a + b for a in "abcdefgh" for b in "ijklm"]
ROWS = {
    "language_modeling": [{"text": f"{word} and {word}"} for word in WORDS],
    "masked_lm": [{"text": f"{word} and {word}"} for word in WORDS],
    "classification": [{"text": f"is {word}", "label": "late" if word[1] > "k" else "early"} for word in WORDS],
    "translation": [{"de": f"das {word}", "en": f"the {word}"} for word in WORDS],
    "sft": [{"prompt": f"how {word}", "completion": f"so {word}"} for word in WORDS],
    "dpo": [{"prompt": f"how {word}", "chosen": word, "rejected": word[::-1] + "z"} for word in WORDS],
    "policy_gradient": [{"prompt": f"how {word}"} for word in WORDS],
}
LONG = LETTERS * 9
UNUSABLE = {
    "language_modeling": {"text": None},
    "masked_lm": {"text": None},
    "classification": {"text": "a", "label": None},
    "translation": {"de": "a", "en": None},
    "sft": {"prompt": LONG, "completion": "cut off"},
    "dpo": {"prompt": LONG, "chosen": "a", "rejected": "b"},
    "policy_gradient": {"prompt": LONG},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A GPT of 64 positions with letters and a chat template."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer([LETTERS], "char", model_max_length=64)
    add_chat_template(tokenizer)
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(family: str, model: str, dataset: Path, out: Path, *more: str, check: bool = True):
    family_options = [model if option == "MODEL" else option for option in OPTIONS[family]]
    options = ["--dataset", str(dataset), "--output_dir", str(out), *SMALL, *family_options, *more]
    return run_here(str(PROJECT / "training" / f"{family}.py"), *options, check=check)


@pytest.mark.parametrize("family", FAMILIES)
def test_run_reports_its_data_and_refuses_to_resume_with_other_data(family, model, tmp_path):
    data = write(tmp_path / "data" / "train.jsonl", [*ROWS[family][:20], UNUSABLE[family], *ROWS[family][20:]])
    (tmp_path / "data" / "NOTES.log").write_text("notes")
    printed = train(family, model, tmp_path / "data", tmp_path / "run").stdout
    words = " ".join(printed.split())
    assert "rows: 40 read" in words
    assert "skipped: 1 rows" in words
    assert "ignored: 1 files (NOTES.log (unknown format (.log)))" in words
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["facts"]["data"]
    assert (record["rows_read"], sum(record["rows_skipped"].values())) == (40, 1)
    assert record["train_rows"] + record["validation_rows"] == 40
    assert "| rows skipped, as they can't be used |" in (tmp_path / "run" / "README.md").read_text()
    if family in ("language_modeling", "masked_lm", "classification", "translation"):
        assert data_summary(tmp_path / "data", "--for", family)["rows_read"] == 40

    before = sorted((tmp_path / "run").rglob("*"))
    write(data, ROWS[family][::-1][:38])
    resumed = train(family, model, tmp_path / "data", tmp_path / "run", "--resume", check=False)
    assert resumed.returncode == 2
    assert "the data has changed since the run" in resumed.stderr
    assert sorted((tmp_path / "run").rglob("*")) == before
    verified = run_here("scratch-gpt", "verify", str(tmp_path / "run"), check=False)
    assert verified.returncode == 2
    assert "the data has changed since the run" in verified.stderr
    allowed = ("--resume", "--allow_changed_settings")
    assert train(family, model, tmp_path / "data", tmp_path / "run", *allowed, check=False).returncode == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_too_many_bad_rows_fail_before_anything_is_written(family, model, tmp_path):
    write(tmp_path / "t.jsonl", [*ROWS[family][:20], *[UNUSABLE[family]] * 3])
    if family == "policy_gradient":  # duplicate prompts are dropped
        write(tmp_path / "t.jsonl", [*ROWS[family][:20], *[{"prompt": LONG + word} for word in WORDS[:3]]])
    result = train(family, model, tmp_path / "t.jsonl", tmp_path / "run", check=False)
    assert result.returncode == 2, result.stderr
    assert "3 of 23 rows can't be used" in result.stderr
    assert not (tmp_path / "run").exists()
    assert train(family, model, tmp_path / "t.jsonl", tmp_path / "run", "--max_bad_rows", "0.2").returncode == 0


AUDIT = """
import json, os, runpy, sys
folder, script = os.path.realpath(sys.argv[1]), sys.argv[2]
opened = set()
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(folder + os.sep) and os.path.isfile(path):
            opened.add(os.path.relpath(path, folder))
sys.addaudithook(hook)
sys.argv = sys.argv[2:]
try:
    runpy.run_path(script, run_name="__main__")
finally:
    print("OPENED", json.dumps(sorted(opened)))
"""


@pytest.mark.parametrize("family", ["language_modeling", "classification", "sft"])
def test_every_file_a_run_opens_is_reported(family, model, tmp_path):
    folder = tmp_path / "data"
    write(folder / "train.jsonl", ROWS[family])
    for name in ("test.jsonl", "extra.csv", ".hidden.jsonl", "LICENSE.txt", "dataset_infos.json", "notes.txt"):
        shutil.copy(folder / "train.jsonl", folder / name)
    family_options = [model if option == "MODEL" else option for option in OPTIONS[family]]
    script = str(PROJECT / "training" / f"{family}.py")
    options = ["--dataset", str(folder), "--output_dir", str(tmp_path / "run"), *SMALL, *family_options]
    ran = run_python("-c", AUDIT, str(folder), script, *options, cwd=PROJECT)
    opened = json.loads(ran.stdout.split("OPENED ")[1].splitlines()[0])
    listed = data_summary(folder, "--for", family)
    assert opened == [Path(path).name for path in listed["files"]] == ["train.jsonl"]
    assert len(listed["ignored"]) == 6


def test_user_folder_named_stories_is_not_the_built_in_dataset(tmp_path):
    folder = tmp_path / "stories"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"my own story {number}, " * 20)
    train("language_modeling", "", folder, tmp_path / "run")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| license of the data | not stated |" in card
    assert "entropy of the text" not in card
    assert not data_summary(folder)["built_in"]
    train("masked_lm", "", folder, tmp_path / "masked")
    assert "| license of the data | not stated |" in (tmp_path / "masked" / "README.md").read_text()


def test_unknown_characters_give_a_warning(model, tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("ÄÖÜ and so on, ÄÖÜ. " * 60)
    options = ("--context_length", "16")
    result = run_here(
        str(PROJECT / "training" / "language_modeling.py"),
        *("--init_from", model, "--dataset", str(path), "--output_dir", str(tmp_path / "run"), *SMALL, *options),
    )
    assert "% of the training tokens are unknown to the tokenizer" in " ".join(result.stderr.split())
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| unknown tokens |" in card
    assert "<unk>" not in card
    assert "generate('" in card


def test_masked_lm_trains_on_a_short_text_without_masked_tokens(tmp_path):
    (tmp_path / "t.txt").write_text("word word")
    options = (*OPTIONS["masked_lm"], "--mask_probability", "0.01")
    script = str(PROJECT / "training" / "masked_lm.py")
    run_here(script, "--dataset", str(tmp_path / "t.txt"), "--output_dir", str(tmp_path / "run"), *SMALL, *options)
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert "nan" not in (tmp_path / "run" / "metrics.jsonl").read_text().lower()
