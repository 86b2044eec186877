"""Classification and masked LM end to end: training, output, loading without the package, commands, bad input."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.hub import push
from helpers.loopback_hub import running_hub
from helpers.models import tiny_model
from helpers.processes import PROJECT, TWO_PROCESSES, refusals, run_here, run_python
from helpers.translation import scratch_gpt
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from scratch_gpt.data.batching.bucketing import MaskedBatches
from scratch_gpt.data.batching.token_lists import Tokens
from scratch_gpt.data.splits import content_key, hold_out

TRAIN = str(PROJECT / "training" / "classification.py")
PRETRAIN_ENCODER = str(PROJECT / "training" / "masked_lm.py")
SIZE = ("--hidden_size", "32", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--context_length", "32")
LOOP = ("--num_threads", "1", "--precision", "fp32", "--log_every", "1", "--tokens_per_batch", "256")
VOCABULARY = ("--vocab_size", "300")
GOOD_WORDS, BAD_WORDS = ("fine", "lovely", "warm"), ("dull", "awful", "cold")

LOAD_WITHOUT_PACKAGE = """
import json, sys
sys.modules["scratch_gpt"] = None  # as if it were not installed
import torch, transformers
from safetensors.torch import save_file
name, task, auto, text, out = sys.argv[1:]
torch.set_num_threads(1)
remote = {"trust_remote_code": True}
model = getattr(transformers, auto).from_pretrained(name, **remote).eval()
trunk = transformers.AutoModel.from_pretrained(name, **remote).eval()
inputs = transformers.AutoTokenizer.from_pretrained(name, **remote)(text, return_tensors="pt")
assert torch.equal(trunk(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)
save_file({"logits": model(**inputs).logits.detach().contiguous()}, out)
found = transformers.pipeline(task, name, **remote)(text)
print(json.dumps([type(model).__module__.split(".")[0], found]))
"""


def reviews(count: int) -> list[tuple[str, int]]:
    """Return texts whose label depends on one word."""
    words = [(GOOD_WORDS, 1), (BAD_WORDS, 0)]
    rows = []
    for number in range(count):
        choice, label = words[number // 3 % 2]
        rows.append((f"the {choice[number % 3]} film has scene {number % 7} twice", label))
    return rows


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reviews") / "reviews.tsv"
    path.write_text("".join(f"{text}\t{label}\n" for text, label in reviews(300)))
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, table) -> Path:
    """A short masked-LM run with preset 'bert'."""
    folder = tmp_path_factory.mktemp("encoder") / "run"
    options = ("--dataset", str(table), "--preset", "bert", "--max_steps", "6", "--eval_every", "3", *SIZE, *LOOP)
    run_here(PRETRAIN_ENCODER, "--output_dir", str(folder), *options, *VOCABULARY)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, table, encoder) -> Path:
    """A short run of a classifier initialised from that encoder."""
    folder = tmp_path_factory.mktemp("classifier") / "run"
    options = ("--dataset", str(table), "--init_from", str(encoder), "--max_steps", "160", "--eval_every", "40", *LOOP)
    names = ("--label_names", "negative", "positive", "--save_every", "80", "--dropout", "0.1", "--keep_last", "9")
    run_here(TRAIN, "--output_dir", str(folder), *options, *names)
    return folder


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def best_of(folder: Path) -> dict:
    scored = [row for row in rows_of(folder) if "val_accuracy" in row]
    metric = "val_f1" if "val_f1" in scored[0] else "val_loss"
    return (
        max(scored, key=lambda row: row["val_accuracy"]) if metric == "val_f1" else min(scored, key=lambda r: r[metric])
    )


def test_run_writes_a_classifier_and_its_record(run, table):
    names = {path.name for path in run.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "README.md", "loss.png", "confusion.png", "run.yaml"} <= names
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(run).eval(),
        AutoTokenizer.from_pretrained(run),
    )
    assert model.config.id2label == {0: "negative", 1: "positive"}
    best = best_of(run)
    assert best["val_accuracy"] == 1.0  # the label depends on one word
    rows = reviews(300)
    held = hold_out([content_key(text) for text, _ in rows], 0.1, 0, [label for _, label in rows])
    held_out = [row for row, out in zip(rows, held, strict=True) if out]
    logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text, _ in held_out])
    labels = torch.tensor([label for _, label in held_out])
    assert (logits.argmax(-1) == labels).float().mean() == best["val_accuracy"]
    assert F.cross_entropy(logits, labels).item() == pytest.approx(best["val_loss"], rel=1e-3)
    card = (run / "README.md").read_text()
    assert f"| accuracy | {best['val_accuracy']:.4f} |" in card
    assert "negative (150 texts), positive (150 texts)" in card
    assert "pipeline_tag: text-classification" in card


def test_resumed_run_equals_an_uninterrupted_one(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "step-00000160")
    run_here(TRAIN, "--output_dir", str(copy), "--resume")
    for name in ("model.safetensors", "training_state.safetensors"):
        whole, resumed = (load_file(folder / "checkpoints" / "step-00000160" / name) for folder in (run, copy))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(resumed[key], tensor) for key, tensor in whole.items())


@pytest.mark.parametrize(
    ("name", "task", "auto", "text"),
    [
        ("run", "text-classification", "AutoModelForSequenceClassification", "the awful film"),
        ("encoder", "fill-mask", "AutoModelForMaskedLM", "the <mask> film has scene"),
    ],
)
def test_predictions_are_the_same_without_the_package(name, task, auto, text, request, tmp_path):
    folder = request.getfixturevalue(name)
    cache = {"HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    out = tmp_path / "found.safetensors"
    result = run_python(
        "-I", "-c", LOAD_WITHOUT_PACKAGE, str(folder), task, auto, text, str(out), cwd=tmp_path, **cache
    )
    module, found = json.loads(result.stdout.strip().splitlines()[-1])
    assert module == "transformers_modules"
    ours = pipeline(task, str(folder))
    inputs = ours.tokenizer(text, return_tensors="pt")
    assert torch.equal(load_file(out)["logits"], ours.model(**inputs).logits)
    assert found == json.loads(json.dumps(ours(text)))
    if name == "run":
        assert found[0]["label"] == "negative"
    else:
        assert len(found) == 5
        assert "<mask>" not in found[0]["sequence"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "twin"), [("run", "BertForSequenceClassification"), ("encoder", "BertForMaskedLM")])
def test_push_uploads_the_native_model(name, twin, request, tmp_path):
    folder = request.getfixturevalue(name)
    with running_hub() as hub:
        result = push(hub, tmp_path / "home", str(folder), f"tester/{name}", "--yes")
        assert result.returncode == 0, result.stderr
        repository = hub.repositories[f"tester/{name}"]
        assert f"Upload {twin} and card" in repository.titles
        assert "modeling_scratch_encoder.py" in repository.revisions["scratch_gpt"]
        assert json.loads(repository.revisions["main"]["config.json"])["architectures"] == [twin]


def test_classify_evaluate_and_fill_print_results_and_clear_errors(run, encoder, table, tmp_path):
    classified = scratch_gpt("classify", str(run), "the awful film has scene 1 twice", cwd=tmp_path)
    assert classified.returncode == 0, classified.stderr
    assert re.search(r"negative\s+█+.*\d\d\.\d%", classified.stdout)
    (tmp_path / "in.txt").write_text("the awful film\nthe lovely film\n")
    done = scratch_gpt("classify", str(run), "--file", "in.txt", "--output", "out.tsv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    labels = [line.split("\t")[0] for line in (tmp_path / "out.tsv").read_text().splitlines()]
    assert labels == ["negative", "positive"]
    options = ("--dataset", str(table), "--confusion", "c.png")
    scored = scratch_gpt("evaluate", str(run), *options, cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert re.search(r"negative\s*│\s*150\s*│\s*0", scored.stdout)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    filled = scratch_gpt("fill", str(encoder), "the <mask> film", "--top_k", "3", cwd=tmp_path)
    assert filled.returncode == 0, filled.stderr
    assert len(re.findall(r"\d\.\d%", filled.stdout)) == 3
    for command, reason in (
        (("fill", str(encoder), "no mask here"), "has no <mask>: write <mask> for each word to predict"),
        (("fill", str(run), "a <mask>"), "which does not predict masked tokens"),
        (("classify", str(encoder), "a film"), "which has no labels"),
        (("generate", str(run)), "use 'scratch-gpt classify'"),
        (("evaluate", str(encoder), "--dataset", str(table)), "'scratch-gpt train classification'"),
        (
            ("evaluate", str(run), "--dataset", "other.tsv"),
            "has the label 'odd', the model has 'negative', 'positive'",
        ),
    ):
        (tmp_path / "other.tsv").write_text("text\tlabel\na film\todd\n")
        refused = scratch_gpt(*command, cwd=tmp_path)
        assert refused.returncode == 2, refused.stderr
        assert reason in refused.stderr


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_gpt_and_new_encoder_learn_labels(preset, tmp_path):
    """On the built-in texts, with balanced class weights and early stopping."""
    options = ("--preset", preset, "--num_texts", "400", "--max_steps", "120", "--eval_every", "10", *SIZE, *LOOP)
    more = ("--class_weights", "balanced", "--early_stopping_patience", "2", "--label_smoothing", "0.1")
    run_here(TRAIN, "--output_dir", str(tmp_path), *options, *VOCABULARY, *more)
    assert best_of(tmp_path)["val_accuracy"] > 0.95
    assert rows_of(tmp_path)[-1]["step"] < 120  # stopped early
    assert {"de", "en"} == set(AutoModelForSequenceClassification.from_pretrained(tmp_path).config.label2id)


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(table, tmp_path):
    for script, more in ((TRAIN, ()), (PRETRAIN_ENCODER, ("--mask_probability", "0.3"))):
        options = ("--dataset", str(table), *SIZE, *LOOP, *VOCABULARY, *more, "--max_steps", "4", "--eval_every", "2")
        one, two = tmp_path / f"{Path(script).stem}1", tmp_path / f"{Path(script).stem}2"
        options += ("--dropout", "0")
        run_here(script, *options, "--output_dir", str(one), "--gradient_accumulation_steps", "2")
        run_python(*TWO_PROCESSES, script, *options, "--output_dir", str(two), cwd=PROJECT)
        for single, double in zip(rows_of(one), rows_of(two), strict=True):
            assert double["tokens"] == single["tokens"]
            for name in ("train_loss", "val_loss", "val_accuracy"):
                assert double.get(name) == pytest.approx(single.get(name), abs=1e-4)


def test_token_weights_are_computed_once_and_kept_by_init_from(table, tmp_path, story_tokenizer):
    small = ("--hidden_size", "16", "--tokenizer", "word", "--vocab_size", "20", "--eval_every", "0", *LOOP)
    bag, other = tmp_path / "bag", tmp_path / "other.tsv"
    run_here(TRAIN, "--output_dir", str(bag), "--dataset", str(table), "--preset", "fasttext", "--epochs", "8", *small)
    weights = load_file(bag / "model.safetensors")
    assert not [name for name in weights if "layers" in name]
    token_weights = weights["model.token_weights.tokens"]
    words = AutoTokenizer.from_pretrained(bag).get_vocab()
    assert token_weights[words[" fine"]] > 2 > 0.5 > token_weights[words[" film"]] > 0
    assert rows_of(bag)[-1]["val_accuracy"] == 1.0
    story_tokenizer.save_pretrained(tmp_path / "maskless")
    named = ("--tokenizer", str(tmp_path / "maskless"), "--preset", "fasttext", "--max_steps", "1")
    run_here(TRAIN, "--output_dir", str(tmp_path / "named"), "--dataset", str(table), *named, *LOOP)
    other.write_text("".join(f"{text}\t{number % 2}\n" for number, (text, _) in enumerate(reviews(60))))
    more = ("--init_from", str(bag), "--dataset", str(other), "--max_steps", "2", "--eval_every", "0", *LOOP)
    run_here(TRAIN, "--output_dir", str(tmp_path / "continued"), *more)
    assert torch.equal(
        load_file(tmp_path / "continued" / "model.safetensors")["model.token_weights.tokens"], token_weights
    )


def test_masks_are_80_10_10_and_differ_between_epochs():
    generator = np.random.default_rng(0)
    rows = [[1, *generator.integers(4, 500, 30).tolist(), 2] for _ in range(400)]
    settings = {"special_ids": [0, 1, 2, 3], "mask_token_id": 3, "pad_token_id": 0, "vocab_size": 500}
    batches = MaskedBatches(Tokens.of(rows), 1024, **settings, mask_probability=0.15, seed=0)
    seen: Counter[str] = Counter()
    for number in range(len(batches.plan(0))):
        batch = batches.batch(0, number)
        chosen = batch["labels"] != -100
        original = torch.tensor([rows[i] for i in batches.plan(0)[number][1]])
        assert torch.equal(batch["labels"][chosen], original[chosen])
        assert torch.equal(batch["input_ids"][~chosen], original[~chosen])
        assert not chosen[:, [0, -1]].any()  # <bos> and <eos> are never masked
        inputs, labels = batch["input_ids"][chosen], batch["labels"][chosen]
        seen["masked"] += int((inputs == 3).sum())
        seen["kept"] += int((inputs == labels).sum())
        seen["chosen"] += int(chosen.sum())
        assert not ((inputs < 3) & (inputs != labels)).any()
    assert seen["chosen"] / (400 * 30) == pytest.approx(0.15, abs=0.01)
    assert seen["masked"] / seen["chosen"] == pytest.approx(0.8, abs=0.03)
    assert seen["kept"] / seen["chosen"] == pytest.approx(0.1, abs=0.02)
    first, repeated, next_epoch = batches.batch(0, 0), batches.batch(0, 0), batches.batch(1, 0)
    assert torch.equal(first["labels"], repeated["labels"])
    assert not torch.equal(first["labels"], next_epoch["labels"])


BAD = {
    "one class": ("--dataset one.csv", "one.csv has only one label, 'a', want at least two"),
    "missing label": ("--dataset hole.csv", "'label' is empty: 1, first row 1"),
    "missing text": ("--dataset mute.csv", "'text' is empty: 1, first row 1"),
    "text of the wrong type": ("--dataset number.jsonl --text_column text", "'text' is int, want text: 1, first row 1"),
    "label of the wrong type": (
        "--dataset list.jsonl",
        "'label' is list, want a whole number or a name: 2, first row 0",
    ),
    "no such column": ("--dataset plenty.csv --label_column mood", "no column 'mood'"),
    "columns to choose from": ("--dataset three.csv --text_column a", "no label column"),
    "not a table": ("--dataset plain.txt", "is plain text, want a table"),
    "no such file": ("--dataset ./none.tsv", "no such file or folder: ./none.tsv"),
    "unknown labels": ("--init_from classifier --dataset other.csv", "has the label 'c', the model has 'a', 'b'"),
    "wrong number of label names": (
        "--dataset plenty.csv --label_names x",
        "label_names are x, want one name for each",
    ),
    "unknown preset": (
        "--preset bart",
        "unknown preset 'bart': choose one of bert, ",
    ),
    "negative number of layers": ("--num_hidden_layers -1", "num_hidden_layers is -1, want 0 or more"),
    "heads that do not divide": ("--num_attention_heads 5", "num_attention_heads is 5"),
    "label smoothing": ("--label_smoothing 1", "label_smoothing is 1.0"),
    "word dropout": ("--word_dropout 1", "word_dropout is 1.0"),
    "word dropout without a mask token": ("--preset llama --word_dropout 0.1", "has no mask"),
    "unknown metric": (
        "--metric_for_best_model accuracy --max_steps 1",
        "is 'accuracy', want one of val_accuracy, val_f1",
    ),
    "sizes with a checkpoint": ("--init_from classifier --hidden_size 64", "remove --hidden_size"),
    "too few texts": ("--dataset few.csv", "too few texts"),
    "invalid n-gram sizes": (
        "--preset fasttext --ngram_sizes 1 2",
        "ngram_sizes are [1, 2], want different ones from 2",
    ),
    "n-grams without a table": ("--preset modern --ngram_sizes 2", "ngram_sizes are [2], but ngram_buckets is 0"),
    "n-grams for a GPT": ("--preset llama --ngram_sizes 2", "ngram_sizes are given for 'llama'"),
    "a list for one value": ("--config lists.yaml", "want one value, not the list [16, 32]"),
    "an empty list": ("--config nothing.yaml", "want one value or more, not the list []"),
    "layers on a bag of words": ("--preset fasttext --num_hidden_layers 2", "token_weights require 0 hidden layers"),
    "an invalid list element": ("--config hole.yaml", "invalid int value: 'many'"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, story_tokenizer) -> dict[str, tuple[int, str]]:
    folder = tmp_path_factory.mktemp("bad")
    for name, content in {
        "one.csv": "text,label\n" + "x,a\n" * 30,
        "lists.yaml": "hidden_size: [16, 32]",
        "nothing.yaml": "ngram_sizes: []",
        "hole.yaml": "ngram_sizes: [2, many]",
        "hole.csv": "text,label\nx,a\ny,\n",
        "mute.csv": "text,label\nx,a\n,b\n",
        "number.jsonl": '{"text": "a", "label": "x"}\n{"text": 5, "label": "y"}\n',
        "list.jsonl": '{"text": "a", "label": [1]}\n{"text": "b", "label": [2]}\n',
        "plenty.csv": "text,label\n" + "x y,a\nz,b\n" * 30,
        "other.csv": "text,label\n" + "x y,a\nz,c\n" * 30,
        "three.csv": "a,b,c\nx,y,z\n",
        "plain.txt": "text",
        "few.csv": "text,label\nx,a\ny,b\n",
    }.items():
        (folder / name).write_text(content)
    model = tiny_model("llama", vocab_size=len(story_tokenizer))
    labels = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    from scratch_gpt import ScratchGPTForSequenceClassification

    model.config.update(labels)
    ScratchGPTForSequenceClassification(model.config).save_pretrained(folder / "classifier")
    story_tokenizer.save_pretrained(folder / "classifier")
    before = sorted(folder.iterdir())
    argument_lists = []
    for case, (arguments, _) in BAD.items():
        size = LOOP if "--init_from" in arguments else (*SIZE, *LOOP)
        argument_lists.append([*size, *arguments.split(), "--output_dir", f"out_{case.replace(' ', '_')}"])
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
