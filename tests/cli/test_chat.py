"""`scratch-gpt chat`, and the chat template in `scratch-gpt generate`."""

import pytest
from helpers.models import tiny_model
from helpers.processes import run_here

from scratch_gpt import train_tokenizer
from scratch_gpt.tokenization.chat import add_chat_template


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A tiny model with a chat template and 64 positions."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    tokenizer = train_tokenizer(["abcdefghijklmnopqrstuvwxyz ?"], "char", model_max_length=64)
    add_chat_template(tokenizer)
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chat(model, lines: str, *options: str):
    """Run `scratch-gpt chat` with these lines on standard input."""
    return run_here("scratch-gpt", "chat", str(model), "--max_new_tokens", "6", *options, stdin=lines)


def test_answers_are_streamed_without_the_conversation(chat_model):
    result = chat(chat_model, "hello\nthe cat\n", "--temperature", "0")
    assert result.returncode == 0, result.stderr
    assert "hello" not in result.stdout
    assert "the cat" not in result.stdout
    assert len(result.stdout.rstrip("\n").split("\n")) == 2


def test_commands_clear_the_conversation_and_set_the_temperature(chat_model):
    lines = "hello\n/clear\nhello\n/temperature 0\n/temperature -1\n/bla\n/exit\nunread\n"
    result = chat(chat_model, lines, "--temperature", "0")
    first, second = result.stdout.rstrip("\n").split("\n")
    assert first == second  # a new conversation has the same first answer
    for text in ("new conversation", "temperature 0", "temperature is '-1'", "unknown command /bla"):
        assert text in result.stderr


def test_oldest_messages_are_dropped_if_the_positions_are_full(chat_model):
    result = chat(chat_model, "a b c d e f g h\n" * 6, "--temperature", "0")
    assert result.returncode == 0, result.stderr
    assert "messages were dropped" in result.stderr
    assert len(result.stdout.rstrip("\n").split("\n")) == 6


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    train_tokenizer(["a b c"], "char", model_max_length=64).save_pretrained(tmp_path / "model")
    result = run_here("scratch-gpt", "chat", str(tmp_path / "model"), cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert "has no chat template" in result.stderr


def test_generate_uses_the_chat_template_and_says_so(chat_model):
    options = ("generate", str(chat_model), "--prompt", "hello", "--max_new_tokens", "4", "--temperature", "0")
    answered = run_here("scratch-gpt", *options, cwd=chat_model.parent)
    assert "chat template" in answered.stderr
    assert "hello" not in answered.stdout
    continued = run_here("scratch-gpt", *options, "--no-chat_template", cwd=chat_model.parent)
    assert "chat template" not in continued.stderr
    assert continued.stdout.startswith("hello")
