"""Conversation datasets: formats of a row, invalid rows, splits, and the built-in questions."""

import json

import pytest
from helpers.data import ASSISTANT_MESSAGE, CONVERSATION, USER_MESSAGE
from helpers.processes import SHARED

from scratch_gpt.data.corpora.stories import parses
from scratch_gpt.data.corpora.story_questions import SPLITS, questions, word_questions
from scratch_gpt.data.readers.conversations import conversation_of, open_conversations
from scratch_gpt.errors import ScratchError


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER_MESSAGE, ASSISTANT_MESSAGE]},
        {"prompt": "How are you?", "completion": "I am well."},
        {"prompt": [USER_MESSAGE], "completion": [ASSISTANT_MESSAGE]},
        {"instruction": "How are you?", "input": "", "output": "I am well."},
        {"instruction": "How are you?", "output": "I am well."},
        {"question": "How are you?", "answer": "I am well."},
    ],
)
def test_all_conversation_formats_are_equivalent(row, tmp_path):
    assert conversation_of(row) == [USER_MESSAGE, ASSISTANT_MESSAGE]
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    assert list(open_conversations(str(tmp_path)).read()) == [[USER_MESSAGE, ASSISTANT_MESSAGE]]


def test_input_is_appended_to_instruction():
    row = {"instruction": "Correct it.", "input": "He go.", "output": "He goes."}
    assert conversation_of(row)[0] == {"role": "user", "content": "Correct it.\n\nHe go."}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": []}, "'messages' is empty, want a list of messages: 1, first row 1"),
        ({"messages": [USER_MESSAGE]}, "no assistant message to train on"),
        (
            {"messages": [{"role": "king", "content": "Hi"}]},
            "a message has the role 'king', want one of system, user",
        ),
        ({"messages": [USER_MESSAGE, {"role": "assistant", "content": " "}]}, "'content' is empty, want text"),
    ],
)
def test_invalid_conversation_is_rejected_with_reason(row, words, tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, ({"messages": CONVERSATION}, row))))
    with pytest.raises(ScratchError, match=words):
        list(open_conversations(str(tmp_path / "t.jsonl")).read())


def test_missing_conversation_columns_are_reported(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(
        ScratchError, match="has the columns 'text', want 'messages'; or 'conversations'; or 'conversation'; or"
    ):
        open_conversations(str(tmp_path / "t.jsonl"))
    with pytest.raises(ScratchError, match=r"or rename the columns to prompt,completion$"):
        open_conversations(str(tmp_path / "t.jsonl"))


@pytest.mark.parametrize(
    "header", ["Question,Answer", "prompt, COMPLETION", " Instruction ,Output", "Instruction,Output,Input"]
)
def test_case_and_spaces_of_column_names_do_not_matter(header, tmp_path):
    row = "How are you?,I am well." + ',""' * (header.count(",") - 1)
    (tmp_path / "t.csv").write_text(f"{header}\n{row}\n")
    assert list(open_conversations(str(tmp_path / "t.csv")).read()) == [[USER_MESSAGE, ASSISTANT_MESSAGE]]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_shared_instruction_data_is_read():
    conversations = list(open_conversations(str(SHARED / "instructions.json")).read())
    assert len(conversations) == 1100
    assert conversations[0][0]["content"].endswith("freind --> friend")


def test_built_in_questions_hold_out_pairs_of_fact_and_phrasing():
    """Splits are a function of the seed and disjoint; words and phrasings of held-out pairs occur in training."""
    conversations = {split: list(questions(0, 2000 if split == "train" else 300, split)) for split in SPLITS}
    assert list(questions(0, 300, "test")) == conversations["test"] != list(questions(1, 300, "test"))
    parts = {
        split: [question for conversation in part for question in conversation] for split, part in conversations.items()
    }
    assert [len(part) for part in parts.values()] == [2000, 300, 300]
    assert all(len(conversation) == 1 for split in SPLITS[1:] for conversation in conversations[split])
    assert max(map(len, conversations["train"])) == 6
    assert all(len({question.told for question in conversation}) == 1 for conversation in conversations["train"])
    pairs = {split: {(q.fact, q.phrasing) for q in part} for split, part in parts.items()}
    assert not pairs["train"] & pairs["validation"] | pairs["train"] & pairs["test"]
    assert not pairs["validation"] & pairs["test"]
    words = {q.fact for q in word_questions()}
    for split in ("validation", "test"):
        assert {q.phrasing for q in parts[split]} <= {q.phrasing for q in parts["train"]}
        assert {q.fact for q in parts[split]} & words <= {q.fact for q in parts["train"]}
    assert len({q.told + q.text for q in parts["validation"]}) == 300
    for question in parts["train"]:
        assert question.answer
        assert bool(question.told) == (question.fact not in words)
        if question.told:  # it is a sentence of the stories, and contains the answer
            assert parses(question.told)
            assert question.answer in question.told


def test_context_sentence_is_shown_once_per_conversation():
    first = next(
        conversation
        for conversation in open_conversations("questions", num_questions=200).read()
        if ". " in conversation[0]["content"]
    )
    assert [message["role"] for message in first] == ["user", "assistant"] * (len(first) // 2)
    sentence = first[0]["content"].split(". ")[0]
    assert not [message for message in first[1:] if sentence in message["content"]]
