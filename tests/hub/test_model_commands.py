"""`scratch-gpt info`, `evaluate`, `judge` and `pairs` with different models and options."""

import pytest
from helpers.models import save_tiny, tiny_encoder, tiny_model
from helpers.processes import run_here

from scratch_gpt import ScratchEncoderForMaskedLM, ScratchGPTForSequenceClassification, train_tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_info_names_tied_weights(tied, tmp_path):
    folder = save_tiny(tmp_path / "model")
    tiny_model("llama", tie_word_embeddings=tied).save_pretrained(folder)
    said = run_here("scratch-gpt", "info", "model", cwd=tmp_path).stdout  # the path of the test has the word too
    assert ("tied to the embedding: lm_head.weight" in " ".join(said.split())) == tied
    assert ("tied" in said) == tied


@pytest.mark.parametrize("command", ["judge", "pairs"])
def test_a_model_that_generates_no_text_is_rejected(command, tmp_path):
    tokenizer = train_tokenizer(["a b"], "char", model_max_length=64)
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_encoder(ScratchEncoderForMaskedLM, "bert", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a\n")
    options = ("--reward", "re:a", "--dataset", "prompts.txt", *(("--output", "x.jsonl") if command == "pairs" else ()))
    result = run_here("scratch-gpt", command, "model", *options, cwd=tmp_path, check=False)
    assert (result.returncode, result.stderr) == (2, "error: model does not continue a text: use 'scratch-gpt fill'\n")


def test_a_classifier_is_evaluated_on_the_column_that_is_named(tmp_path):
    """With two text columns of unknown names, `--text_column` is required."""
    tokenizer = train_tokenizer(["a b"], "char", model_max_length=64)
    config = tiny_model("llama", vocab_size=len(tokenizer)).config
    config.id2label, config.pad_token_id = {0: "no", 1: "yes"}, tokenizer.pad_token_id
    ScratchGPTForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [("a" * (n % 3 + 1), "b" * (n % 4 + 1), ("no", "yes")[n % 2]) for n in range(12)]
    (tmp_path / "data.csv").write_text("first,second,label\n" + "".join(",".join(row) + "\n" for row in rows))
    options = ("--dataset", "data.csv", "--label_column", "label")
    for column in ("first", "second"):
        said = run_here("scratch-gpt", "evaluate", "model", *options, "--text_column", column, cwd=tmp_path).stdout
        assert "│ of the texts │ 12 " in said.replace("┃", "│")
    result = run_here("scratch-gpt", "evaluate", "model", *options, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert "text_column" in result.stderr


@pytest.mark.parametrize(("example", "task"), [("conversations", "sft"), ("preferences", "dpo")])
def test_conversations_and_preferences_are_evaluated_in_training(example, task, tmp_path):
    """Regression: the error had a hint for classifiers."""
    save_tiny(tmp_path / "model")
    run_here("scratch-gpt", "data", "--example", example, cwd=tmp_path)
    evaluate = ("scratch-gpt", "evaluate", "model", "--dataset", f"{example}.jsonl", "--no-baselines")
    result = run_here(*evaluate, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert f"{example}.jsonl has {example}, and 'scratch-gpt evaluate' scores text" in result.stderr
    assert f"during 'scratch-gpt train {task}', on --validation_dataset" in result.stderr
    if example == "conversations":
        (tmp_path / "faq.csv").write_text("Question,Answer\nWho is Hamlet?,A prince.\nWho is Juliet?,A daughter.\n")
        table = run_here("scratch-gpt", "evaluate", "model", "--dataset", "faq.csv", cwd=tmp_path, check=False)
        assert "faq.csv has conversations" in table.stderr
    if example == "preferences":  # a column that is named is text
        assert "perplexity" in run_here(*evaluate, "--text_column", "chosen", cwd=tmp_path).stdout
