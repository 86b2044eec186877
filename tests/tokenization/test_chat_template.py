"""The chat template with tools: its text, the scored tokens, and saving it with the tokenizer."""

import json

import pytest
from transformers import AutoTokenizer

from scratch_gpt import train_tokenizer
from scratch_gpt.data.readers.preferences import Preference
from scratch_gpt.errors import ScratchError
from scratch_gpt.tokenization.chat import (
    CHAT_TOKENS,
    ROLE_TOKENS,
    add_chat_template,
    assistant_text,
    encode_conversations,
)
from scratch_gpt.train.tasks.dpo.task import EncodedPairs

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}
TOOL_CALL_TEXT = '<|tool_call|>{"name": "weather", "arguments": {"city": "Köln", "days": 2}}'
CONVERSATION = [
    {"role": "system", "content": "Help."},
    {"role": "user", "content": "How warm is it?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"celsius": 21}'},
    {"role": "assistant", "content": "It is 21 °C."},
]


@pytest.fixture(scope="module", params=["char", "bpe"])
def tokenizer(request):
    texts = ["".join(map(chr, range(32, 127))), "ö °"] + [message["content"] for message in CONVERSATION] * 20
    tokenizer = train_tokenizer(texts, request.param)
    assert add_chat_template(tokenizer)
    return tokenizer


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "", "tool_calls": [CALL]}, TOOL_CALL_TEXT),
        ({"content": None, "tool_calls": [CALL]}, TOOL_CALL_TEXT),
        ({"tool_calls": [CALL]}, TOOL_CALL_TEXT),
        ({"content": "Let me look.", "tool_calls": [CALL, CALL]}, "Let me look." + TOOL_CALL_TEXT + TOOL_CALL_TEXT),
        ({"content": "a", "tool_calls": [CALL["function"]]}, "a" + TOOL_CALL_TEXT),
        ({"content": "a", "tool_calls": []}, "a"),
        ({"content": "a", "tool_calls": None}, "a"),
        (
            {"content": "", "tool_calls": [{"function": {"name": 'say "hi"', "arguments": '{"a":  1.0}'}}]},
            '<|tool_call|>{"name": "say \\"hi\\"", "arguments": {"a":  1.0}}',
        ),
        ({"tool_calls": [{"name": "now"}]}, '<|tool_call|>{"name": "now", "arguments": {}}'),
        ({"tool_calls": [{"name": "now", "arguments": ""}]}, '<|tool_call|>{"name": "now", "arguments": {}}'),
    ],
)
def test_tool_calls_are_json_after_the_content(tokenizer, message, text):
    conversation = [CONVERSATION[1], {"role": "assistant", **message}]
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False)
    assert rendered == f"<bos><|user|>How warm is it?<|end|><|assistant|>{text}<|end|>"
    assert assistant_text(conversation[1]) == text
    for call in text.split("<|tool_call|>")[1:]:
        assert json.loads(call).keys() == {"name", "arguments"}


def test_assistant_tokens_and_end_tokens_are_scored(tokenizer):
    encoded = encode_conversations(tokenizer, [CONVERSATION], 1000)
    assert tokenizer.decode(encoded.ids[0][encoded.scored[0]]) == f"{TOOL_CALL_TEXT}<|end|>It is 21 °C.<|end|>"
    assert encoded.characters == len(TOOL_CALL_TEXT + "It is 21 °C.")
    assert tokenizer.decode(encoded.ids[0]) == "".join(
        f"{ROLE_TOKENS[message['role']]}{assistant_text(message)}<|end|>" for message in CONVERSATION
    )


def test_prompt_is_a_prefix_of_the_conversation(tokenizer):
    prompt = tokenizer.apply_chat_template(CONVERSATION[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template(CONVERSATION, return_dict=True)["input_ids"]
    assert whole[: len(prompt)] == prompt
    pair = Preference(CONVERSATION[:2], CONVERSATION[2:3], [{"role": "assistant", "content": "No idea."}])
    encoded = EncodedPairs([pair], tokenizer, 1000)
    assert encoded.chosen[0].text == TOOL_CALL_TEXT
    assert tokenizer.decode(encoded.chosen[0].completion) == f"{TOOL_CALL_TEXT}<|end|>"


def test_saved_tokenizer_keeps_the_template(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.apply_chat_template(CONVERSATION, return_dict=True) == tokenizer.apply_chat_template(
        CONVERSATION, return_dict=True
    )
    for token in CHAT_TOKENS:
        assert again(token, add_special_tokens=False)["input_ids"] == [tokenizer.convert_tokens_to_ids(token)]
    assert again.decode(again(TOOL_CALL_TEXT, add_special_tokens=False)["input_ids"]) == TOOL_CALL_TEXT


def test_unknown_roles_and_templates_without_tools_are_rejected(tokenizer):
    with pytest.raises(ScratchError, match="role critic, want system, user, assistant or tool"):
        encode_conversations(tokenizer, [[{"role": "critic", "content": "a"}]], 100)
    other = train_tokenizer(["".join(map(chr, range(32, 127)))], "char")
    other.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ScratchError, match="tool calls, which the tokenizer's chat template omits"):
        encode_conversations(other, [CONVERSATION], 100)
