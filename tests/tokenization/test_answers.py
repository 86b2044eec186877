"""Answers in conversations, with the chat templates of models on the Hub, which do not mark them."""

import pytest
from helpers.published import CHATML, ZEPHYR, byte_level, llama_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

from scratch_gpt.errors import ScratchError
from scratch_gpt.tokenization.answers import end_of_turn_id, find_answers, marked_text, marks_answers
from scratch_gpt.tokenization.chat import encode_conversations, read_chat_template

LLAMA_3 = (
    "{% for m in messages %}{% set c = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set c = bos_token + c %}{% endif %}{{ c }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
PHI_3 = (  # the end of the text follows the last answer only
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN_3 = (  # removes the reasoning of all answers but the last
    "{% for m in messages %}{% set text = m['content'] %}"
    "{% if m['role'] == 'assistant' and not loop.last %}{% set text = text.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "llama-3": (LLAMA_3, "<|eot_id|>"),
    "zephyr": (ZEPHYR, "</s>"),
    "mistral": (MISTRAL, "</s>"),
    "phi-3": (PHI_3, "<|end|>"),
    "qwen-3": (QWEN_3, "<|im_end|>"),
}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end|>"]
ASK = [{"role": "user", "content": "How are you?"}]
CONVERSATION = [
    *ASK,
    {"role": "assistant", "content": "I am well."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Still well."},
]


@pytest.fixture(params=["byte-level", "sentencepiece"])
def tokenizer(request):
    if request.param == "sentencepiece":
        made = llama_tokenizer()
        made.add_special_tokens({"additional_special_tokens": SPECIAL})
        return made
    backend = Tokenizer(models.BPE(*byte_level([])))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), ByteLevel()
    backend.add_special_tokens(["<s>", "</s>", *SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def learned(tokenizer, sequence) -> list[str]:
    """The texts of the learned parts of a sequence."""
    ids = [token if mark else -1 for token, mark in zip(sequence.ids, sequence.scored, strict=True)]
    parts: list[list[int]] = [[]]
    for token in ids:
        if token < 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return [tokenizer.decode(part).strip() for part in parts if part]


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_and_their_ends_are_learned(tokenizer, name):
    tokenizer.chat_template, end = TEMPLATES[name]
    assert not marks_answers(tokenizer)
    (found,) = find_answers(tokenizer, CONVERSATION)
    assert learned(tokenizer, found) == [f"I am well.{end}", f"Still well.{end}"]
    whole = tokenizer.apply_chat_template(CONVERSATION, return_dict=True)["input_ids"]
    assert whole[: len(found.ids)] == found.ids
    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids(end)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_model_is_trained_on_what_it_is_later_asked(tokenizer, name):
    """What stands before each answer is exactly the prompt that generation starts from."""
    tokenizer.chat_template, _ = TEMPLATES[name]
    (found,) = find_answers(tokenizer, CONVERSATION)
    for turn in (1, 3):
        prompt = tokenizer.apply_chat_template(CONVERSATION[:turn], add_generation_prompt=True)["input_ids"]
        assert found.ids[: len(prompt)] == prompt
        assert not found.scored[len(prompt) - 1]
        assert found.scored[len(prompt)]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "qwen-3"])
def test_the_same_tokens_as_with_generation_marks(tokenizer, name):
    """transformers' own mask of a template that marks the text and the end token of each answer."""
    tokenizer.chat_template = TEMPLATES[name][0]
    (found,) = find_answers(tokenizer, CONVERSATION)
    texts = {"chatml": "m['content'] + '<|im_end|>'", "zephyr": "m['content'] + eos_token"}
    texts |= {"llama-3": "m['content'] | trim + '<|eot_id|>'", "phi-3": "m['content'] + '<|end|>'"}
    texts |= {"mistral": "' ' + m['content'] + eos_token"}
    heads = {"chatml": "'<|im_start|>' + m['role'] + '\n'", "zephyr": "'<|' + m['role'] + '|>\n'"}
    heads |= {"phi-3": "'<|' + m['role'] + '|>\n'", "mistral": "''"}
    heads |= {"llama-3": "'<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"}
    user = "'[INST] ' + m['content'] + ' [/INST]'" if name == "mistral" else f"{heads[name]} + {texts[name]}"
    after = "" if name in ("mistral", "llama-3") else "{{ '\n' }}"
    start = "{{ bos_token }}" if name in ("mistral", "llama-3") else ""
    tokenizer.chat_template = (
        f"{start}{{% for m in messages %}}{{% if m['role'] == 'assistant' %}}{{{{ {heads[name]} }}}}"
        f"{{% generation %}}{{{{ {texts[name]} }}}}{{% endgeneration %}}{{% else %}}{{{{ {user} }}}}{{% endif %}}"
        f"{after}{{% endfor %}}"
    )
    assert marks_answers(tokenizer)
    (marked,) = find_answers(tokenizer, CONVERSATION)
    assert marked.ids[: len(found.ids)] == found.ids
    assert [i for i, mark in enumerate(marked.scored) if mark] == [i for i, mark in enumerate(found.scored) if mark]


def test_reasoning_that_the_template_removes_later_is_learned_where_it_is_written(tokenizer):
    """Each answer whose text differs once others follow has a sequence of its own, which starts with its prompt."""
    tokenizer.chat_template = QWEN_3
    thoughts = [
        ASK[0],
        {"role": "assistant", "content": "<think>Hm.</think>I am well."},
        CONVERSATION[2],
        {"role": "assistant", "content": "<think>So.</think>Still well."},
    ]
    first, whole = find_answers(tokenizer, thoughts)
    assert learned(tokenizer, first) == ["<think>Hm.</think>I am well.<|im_end|>"]
    assert learned(tokenizer, whole) == ["<think>So.</think>Still well.<|im_end|>"]
    assert "Hm." not in tokenizer.decode(whole.ids)
    for sequence, turn in ((first, 1), (whole, 3)):
        prompt = tokenizer.apply_chat_template(thoughts[:turn], add_generation_prompt=True)["input_ids"]
        assert sequence.ids[: len(prompt)] == prompt
        assert sequence.scored.index(True) == len(prompt)
    tokens = encode_conversations(tokenizer, [thoughts, CONVERSATION], 1000)
    assert (len(tokens.ids), tokens.num_split, tokens.num_too_long) == (3, 1, 0)
    assert tokens.num_conversations == 2
    assert tokens.ends == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    cut = encode_conversations(tokenizer, [thoughts], len(first.ids) - 1)  # which the whole is longer than
    assert (len(cut.ids), cut.num_conversations, cut.num_too_long, cut.num_truncated) == (1, 1, 1, 1)
    assert cut.num_unanswered == 0


def test_a_template_whose_prompt_is_no_beginning_of_the_conversation_is_refused(tokenizer):
    """As of DeepSeek-R1, which opens the reasoning in the prompt and removes it from the conversation."""
    tokenizer.chat_template = CHATML.replace("assistant\n' }}", "assistant\n<think>' }}")
    with pytest.raises(ScratchError, match=r"with and without its answer.*<think>.*generation %}"):
        find_answers(tokenizer, CONVERSATION)


def test_a_template_without_an_end_of_answers_is_refused(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    with pytest.raises(ScratchError, match="could not learn to stop"):
        find_answers(tokenizer, CONVERSATION)


def test_line_feeds_that_join_prompt_and_answer():
    """`assistant⏎` and `⏎⏎Well.` have one token for all three line feeds in a vocabulary that has it."""
    vocabulary, merges = byte_level([])
    merges = [*merges, ("Ċ", "Ċ"), ("ĊĊ", "Ċ")]
    vocabulary |= {"ĊĊ": len(vocabulary), "ĊĊĊ": len(vocabulary) + 1}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", chat_template=CHATML)
    (found,) = find_answers(tokenizer, [*ASK, {"role": "assistant", "content": "\n\nWell."}])
    assert tokenizer.decode(found.ids).endswith("assistant\n\n\nWell.<|im_end|>")
    assert learned(tokenizer, found) == ["Well.<|im_end|>"]
    tokenizer.chat_template = CHATML.replace("'\n' + m", "' ' + m").replace("assistant\n", "assistant ")
    with pytest.raises(ScratchError, match="start of the answer is unknown"):  # " Well" is one token
        find_answers(tokenizer, [*ASK, {"role": "assistant", "content": "cat"}])


def test_shown_sample(tokenizer):
    tokenizer.chat_template = CHATML
    (found,) = find_answers(tokenizer, CONVERSATION)
    shown = marked_text(tokenizer, found.ids, found.scored)
    assert "«I am well.<|im_end|>»" in shown
    assert shown.endswith("«Still well.<|im_end|>»")
    assert shown.replace("«", "").replace("»", "") == tokenizer.decode(found.ids)
    assert len(marked_text(tokenizer, found.ids * 50, [True] * len(found.ids) * 50)) < 400


def test_template_files(tokenizer, tmp_path):
    (tmp_path / "chat.jinja").write_text(CHATML)
    read_chat_template(tokenizer, tmp_path / "chat.jinja")
    assert tokenizer.chat_template == CHATML
    (tmp_path / "bad.jinja").write_text("{% for m in %}")
    with pytest.raises(ScratchError, match=r"bad\.jinja can't be used: it is not a valid Jinja template"):
        read_chat_template(tokenizer, tmp_path / "bad.jinja")
    with pytest.raises(ScratchError, match=r"none\.jinja can't be read: No such file"):
        read_chat_template(tokenizer, tmp_path / "none.jinja")


def test_an_opening_answer_is_context(tokenizer):
    tokenizer.chat_template = CHATML
    (found,) = find_answers(tokenizer, [{"role": "assistant", "content": "Hello."}, *CONVERSATION])
    assert learned(tokenizer, found) == ["I am well.<|im_end|>", "Still well.<|im_end|>"]
    skipped = encode_conversations(tokenizer, [[CONVERSATION[1]]], 99)
    assert (skipped.num_unanswered, skipped.num_too_long, skipped.num_truncated) == (1, 0, 0)
