"""Encoders that were imported from transformers' classes: trained, used by the commands, and exported again."""

import re
from pathlib import Path

import pytest
import torch
from helpers.native_encoders import HEADS, largest_difference, native_encoder, outputs_of, rows_of
from helpers.processes import PROJECT, run_here
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from scratch_gpt import import_native, train_tokenizer
from scratch_gpt.hub.loading import load_model

MASKED_LM = str(PROJECT / "training" / "masked_lm.py")
CLASSIFICATION = str(PROJECT / "training" / "classification.py")
LOOP = (
    "--num_threads",
    "1",
    "--precision",
    "fp32",
    "--tokens_per_batch",
    "128",
    "--max_steps",
    "3",
    "--eval_every",
    "3",
)
LOOP += ("--context_length", "24")
TEXTS = [f"the {word} film has scene {n % 7} twice" for n in range(24) for word in ("fine", "dull")]
LABELS = {"id2label": {0: "dull", 1: "fine"}, "label2id": {"dull": 0, "fine": 1}}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "reviews.tsv"
    path.write_text("".join(f"{text}\t{'fine' if 'fine' in text else 'dull'}\n" for text in TEXTS))
    return path


def imported(folder: Path, family: str, head: str, **fields) -> Path:
    """Import a native encoder whose special tokens are those of a tokenizer, and save both."""
    tokenizer = train_tokenizer(TEXTS, "word", template="encoder", model_max_length=24)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    if family == "ModernBert":
        ids |= {"cls_token_id": ids["bos_token_id"], "sep_token_id": ids["eos_token_id"]}
    native = native_encoder(family, head, vocab_size=len(tokenizer), **ids, **fields)
    import_native(native).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def exported_equals(run: Path, folder: Path, auto_class) -> str:
    """Export a model with the command; return the name of the class, which computes the same."""
    run_here("scratch-gpt", "export", str(run), str(folder))
    ours, native = load_model(str(run)).eval(), auto_class.from_pretrained(folder).eval()
    rows = [row % ours.config.vocab_size for row in rows_of(ours.config, (20, 9))]
    assert largest_difference(outputs_of(native, rows), outputs_of(ours, rows)) <= 1e-4
    return type(native).__name__


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "ModernBert"])
def test_masked_lm_continues_and_fills(family, table, tmp_path):
    start = imported(tmp_path / "start", family, "masked_lm")
    run = tmp_path / "run"
    run_here(MASKED_LM, "--init_from", str(start), "--dataset", str(table), "--output_dir", str(run), *LOOP)
    before, after = load_model(str(start)), load_model(str(run))
    assert type(after) is type(before)
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    filled = run_here("scratch-gpt", "fill", str(run), "the <mask> film", "--top_k", "3", cwd=tmp_path)
    assert len(re.findall(r"\d\.\d%", filled.stdout)) == 3
    assert exported_equals(run, tmp_path / "native", AutoModelForMaskedLM) == f"{family}ForMaskedLM"
    refused = run_here("scratch-gpt", "evaluate", str(run), "--dataset", str(table), check=False)
    assert "ForMaskedLM, want a language model, a translator or a classifier" in refused.stderr


@pytest.mark.parametrize(
    ("family", "head"),
    [("Bert", "trunk"), ("Roberta", "masked_lm"), ("DistilBert", "classifier"), ("ModernBert", "masked_lm")],
)
def test_a_classifier_is_trained_from_any_head_and_classifies(family, head, table, tmp_path):
    fields = LABELS if head == "classifier" else {}
    start = imported(tmp_path / "start", family, head, **fields)
    run = tmp_path / "run"
    run_here(CLASSIFICATION, "--init_from", str(start), "--dataset", str(table), "--output_dir", str(run), *LOOP)
    said = run_here("scratch-gpt", "classify", str(run), "the dull film has scene 1 twice", cwd=tmp_path).stdout
    assert re.search(r"dull\s.*\d\.\d%", said)
    name = exported_equals(run, tmp_path / "native", AutoModelForSequenceClassification)
    assert name == f"{family}ForSequenceClassification"


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "ModernBert"])
def test_commands_accept_an_encoder_without_a_head(family, tmp_path):
    start = imported(tmp_path / "start", family, "trunk")
    assert "ScratchEncoderModel" in run_here("scratch-gpt", "info", str(start)).stdout
    assert exported_equals(start, tmp_path / "native", AutoModel) == family + HEADS["trunk"]
    refused = run_here("scratch-gpt", "generate", str(start), check=False)
    assert (refused.returncode, "use 'scratch-gpt train classification'" in refused.stderr) == (2, True)
