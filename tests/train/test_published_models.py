"""Training of models as they are on the Hub: transformers' own classes, with their own tokenizers."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.models import randomise
from helpers.processes import run_here
from helpers.published import TEXTS, bert_tokenizer, published_model, save_published
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from scratch_gpt.data.batching.bucketing import LabelledBatches
from scratch_gpt.data.batching.encoding import encode_examples
from scratch_gpt.data.batching.packing import PackedRows
from scratch_gpt.data.batching.token_shards import prepare
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.evaluation.classification import classify
from scratch_gpt.evaluation.positions import position_limit
from scratch_gpt.hub.loading import load_model, match_padding, open_tokenizer
from scratch_gpt.tokenization.special_tokens import special_token_ids
from scratch_gpt.train.tasks.classification.task import logits_of
from scratch_gpt.train.tasks.masked_lm.build import rows_of_documents
from scratch_gpt.train.tasks.masked_lm.task import MaskedLanguageModeling, masked_losses

QUICK = ("--max_steps", "2", "--num_threads", "1", "--precision", "fp32", "--compile", "off", "--eval_every", "0")
REWARD = ("--reward", "re:a", "--validation_prompts", "4", "--prompts_per_rollout", "8", "--max_new_tokens", "8")
FAMILIES = {
    "language_modeling": ({"text": text} for text in TEXTS),
    "masked_lm": ({"text": text} for text in TEXTS),
    "classification": ({"text": text, "label": "ab"[i % 2]} for i, text in enumerate(TEXTS)),
    "sft": ({"prompt": text, "completion": text[::-1]} for text in TEXTS),
    "dpo": ({"prompt": text[:30], "chosen": " " + text, "rejected": " the"} for text in TEXTS),
    "policy_gradient": ({"prompt": f"{text[:30]}{i}"} for i, text in enumerate(TEXTS)),
}
RUNS = [
    *((family, name) for name in ("gpt2", "llama", "mistral") for family in ("language_modeling", "classification")),
    *(("sft", name) for name in ("gpt2", "llama", "mistral", "qwen2")),
    *((family, name) for name in ("gpt2-imported", "llama-imported") for family in ("dpo", "policy_gradient", "sft")),
    *((family, name) for name in ("bert", "distilbert", "roberta", "xlm-roberta") for family in ("classification",)),
    *(("masked_lm", name) for name in ("bert", "distilbert", "roberta", "xlm-roberta", "bert-imported")),
    ("classification", "bert-imported"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Data of every family, and models: `NAME`, or `NAME-imported`, converted with `scratch-gpt import`."""
    root = tmp_path_factory.mktemp("published")
    for family, rows in FAMILIES.items():
        (root / f"{family}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def model(name: str):
        if not (root / name).exists():
            plain, _, imported = name.partition("-imported")
            save_published(plain, root / plain)
            if name != plain:
                run_here("scratch-gpt", "import", str(root / plain), str(root / name))
            assert imported == ""
        return root / name

    return root, model


def train(folders, family: str, name: str, *arguments: str, check: bool = True):
    """Train a model of `published`; return the directory of the run and the output."""
    root, model = folders
    options = ("--init_from", str(model(name)), "--dataset", str(root / f"{family}.jsonl"), *QUICK)
    options += REWARD if family == "policy_gradient" else ()
    folder = root / f"{family}-{name}{len(arguments)}"
    result = run_here("scratch-gpt", "train", family, "--output_dir", str(folder), *options, *arguments, check=check)
    return folder, result


@pytest.mark.parametrize(("family", "name"), RUNS)
def test_published_models_are_tuned_as_they_come(folders, family, name):
    """A run trains, evaluates, publishes and demonstrates its model; what pads a row is said once, if it was chosen."""
    _, model = folders
    missing = AutoTokenizer.from_pretrained(model(name)).pad_token is None
    folder, result = train(folders, family, name)
    assert (folder / "model.safetensors").exists()
    assert result.stdout.count("the tokenizer has no padding token: rows are padded with") == missing
    assert AutoTokenizer.from_pretrained(folder).pad_token is not None
    if family == "classification" and "imported" not in name:
        assert AutoConfig.from_pretrained(folder).pad_token_id is not None


def test_the_end_of_a_text_is_scored_where_it_is_also_the_padding(tmp_path):
    """A GPT-2 pads with its end-of-text token: every document's end is a label, and no padding is."""
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    save_published("gpt2", tmp_path / "gpt2")
    tokenizer = open_tokenizer(str(tmp_path / "gpt2"))
    end = tokenizer.eos_token_id
    assert tokenizer.pad_token_id == end
    shard = prepare(open_source(str(tmp_path / "text.jsonl")), tokenizer)["train"]
    rows = PackedRows.for_tokenizer(shard, 50, tokenizer, seed=0)
    plan = rows.plan(0)
    batch = rows.batch([(plan, row) for row in range(len(plan))])
    assert int((batch["labels"] == end).sum()) == len(shard.ends)
    assert int((batch["labels"] != -100).sum()) == len(shard.tokens)
    assert int((batch["input_ids"] == end).sum()) > len(shard.ends)  # there is padding


def test_conversations_of_a_model_that_pads_with_its_end_teach_it_to_stop(folders):
    folder, _ = train(folders, "sft", "gpt2", "--max_steps", "60", "--learning_rate", "0.02")
    ends = json.loads((folder / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<|end|>") in ends["eos_token_id"]
    assert ends["pad_token_id"] == tokenizer.pad_token_id


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "bert", "distilbert", "roberta", "xlm-roberta"])
def test_padding_does_not_change_a_classifiers_prediction(name, tmp_path):
    model, _ = published_model(name)
    model.save_pretrained(tmp_path)
    published_model(name)[1].save_pretrained(tmp_path)
    tokenizer = open_tokenizer(str(tmp_path), needs_end=False)
    classifier = randomise(load_model(tmp_path, kind="classifier", num_labels=3)).eval()
    match_padding(classifier, tokenizer)
    texts = [*TEXTS[:3], "the", TEXTS[4] * 2]
    together = classify(classifier, tokenizer, texts)
    alone = torch.cat([classify(classifier, tokenizer, [text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(alone[3], alone[4], atol=1e-4)


def test_training_batches_of_a_classifier_are_masked(tmp_path):
    save_published("gpt2", tmp_path)
    tokenizer = open_tokenizer(str(tmp_path))
    model = randomise(
        GPT2ForSequenceClassification(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4))
    )
    match_padding(model.eval(), tokenizer)
    examples = [("the cat", "a"), ("the cat sat on a mat and saw", "b")]
    batches = LabelledBatches(encode_examples(examples, ["a", "b"], tokenizer, 64), 10**6, tokenizer.pad_token_id)
    for length, indices in batches.plan(0):
        batch = batches.batch(length + 4, indices)
        for row, index in enumerate(indices):
            ids = tokenizer(examples[index][0], return_tensors="pt")["input_ids"]
            torch.testing.assert_close(logits_of(model, batch)[row], model(ids).logits[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta"])
def test_rows_of_masked_language_models_have_the_tokenizers_own_form(name, tmp_path):
    """`[CLS] text [SEP]` or `<s> text </s>`, and the special tokens are never predicted."""
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    save_published(name, tmp_path / name)
    tokenizer = open_tokenizer(str(tmp_path / name))
    source = open_source(str(tmp_path / "text.jsonl"))
    rows = rows_of_documents(prepare(source, tokenizer, 0.1)["train"], tokenizer, 64)
    known = {tuple(tokenizer(text)["input_ids"]) for text in TEXTS}
    assert {tuple(map(int, rows[i])) for i in range(len(rows))} <= known
    task = MaskedLanguageModeling(Accelerator(cpu=True), rows, rows, tokenizer, 512, 0.5, seed=0)
    special = special_token_ids(tokenizer)
    for number in range(len(task.train.plan(0))):
        batch = task.train.batch(0, number)
        predicted = batch["labels"][batch["labels"] != -100]
        assert len(predicted)
        assert not np.isin(predicted.numpy(), special).any()
        kept = batch["labels"] == -100
        assert np.isin(batch["input_ids"][:, 0].numpy(), special).all()
        assert kept[:, 0].all()
    assert task.example.count(tokenizer.mask_token) == 1
    assert not any(token in task.example for token in ("[CLS]", "[SEP]", "<s>", "</s>", "[PAD]"))


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta"])
def test_loss_of_a_native_encoder_is_the_sum_over_the_masked_tokens(name):
    """Its own loss is the mean, which can't be averaged over batches of different sizes."""
    model, tokenizer = published_model(name)
    ids = tokenizer(TEXTS[:3], padding=True, return_tensors="pt")
    labels = ids["input_ids"].clone()
    labels[:, ::2] = -100
    labels[ids["attention_mask"] == 0] = -100
    batch = {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"], "labels": labels}
    with torch.no_grad():
        total, mean = masked_losses(model, batch), model(**batch).loss
    torch.testing.assert_close(total, mean * (labels != -100).sum(), rtol=1e-5, atol=1e-5)


def test_positions_of_roberta_start_after_the_padding():
    model, tokenizer = published_model("roberta")
    limit = position_limit(model.config)
    assert limit == 64
    ids = torch.full((1, limit + 1), tokenizer("the")["input_ids"][1])
    model(ids[:, :limit])
    with pytest.raises((IndexError, RuntimeError)):
        model(ids)


def test_import_of_bert_keeps_logits_and_tokenizer(folders):
    _, model = folders
    native, imported = load_model(model("bert")), load_model(model("bert-imported"))
    tokenizer = AutoTokenizer.from_pretrained(model("bert-imported"))
    inputs = {k: v for k, v in bert_tokenizer()(TEXTS[:3], return_tensors="pt", padding=True).items()}
    assert tokenizer(TEXTS[:3])["input_ids"] == inputs["input_ids"].tolist()
    with torch.no_grad():
        torch.testing.assert_close(imported(**inputs).logits, native.eval()(**inputs).logits, atol=1e-5, rtol=0)


def test_a_classifier_of_bert_is_used_by_the_commands(folders):
    folder, _ = train(folders, "classification", "bert", "--seed", "1")
    result = run_here("scratch-gpt", "classify", str(folder), "the cat", "a mat and two birds")
    assert "a" in result.stdout
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        expected = F.softmax(model(**tokenizer("the cat", return_tensors="pt")).logits, -1)
    torch.testing.assert_close(classify(model, tokenizer, ["the cat"]), expected, atol=1e-5, rtol=0)
