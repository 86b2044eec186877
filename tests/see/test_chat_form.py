"""A text as a message to the assistant: the page has the ids of `apply_chat_template`, without a template engine."""

import copy
import random

import pytest
from helpers.browser import opened
from helpers.models import tiny_model
from helpers.page_engine import needs_node, run_jobs
from helpers.pages import Shown, tokenizer_of

from scratch_gpt.hub.loading import Tokenizers
from scratch_gpt.see.chat import chat_form
from scratch_gpt.see.payload import payload_of
from scratch_gpt.tokenization.chat import add_chat_template

PIECES = (
    "One day",
    " ",
    "\n",
    "<|end|>",
    "<|user|>",
    "<|assistant",
    "<eos>",
    "ü",
    "\U0001f600",
    "{{ x }}",
    "&lt;",
    "a",
)


def chat_model(kind: str = "bpe", template: str | None = None) -> Shown:
    """A tiny model and a tokenizer with our chat template, or another one."""
    tokenizer = copy.deepcopy(tokenizer_of(kind, "causal", 500 if kind == "bpe" else None))
    add_chat_template(tokenizer)
    if template is not None:
        tokenizer.chat_template = template
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=128).eval()
    return Shown(model, Tokenizers(tokenizer, tokenizer))


def expected(tokenizer, text: str) -> list[int]:
    messages = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]


SYSTEM = "{{ bos_token }}<|system|>Be kind.<|end|>{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"


@needs_node
@pytest.mark.parametrize(("kind", "template"), [("bpe", None), ("char", None), ("bpe", SYSTEM)])
def test_ids_of_messages_are_those_of_the_template(kind, template):
    """Also of texts with special tokens, which Python's path reads as such."""
    model, tokenizers = chat_model(kind, template)
    payload = payload_of(model, tokenizers, "", "float32")
    draw = random.Random(0)
    texts = ["", *("".join(draw.choices(PIECES, k=draw.randrange(1, 8))) for _ in range(50))]
    call = {"method": "chat", "form": payload.content["chat"], "texts": texts}
    ((found,),) = run_jobs([(payload, "float32", [call])])
    assert found == [expected(tokenizers.source, text) for text in texts]
    assert tokenizers.source.convert_tokens_to_ids("<|end|>") in found[0]


@pytest.mark.parametrize(
    ("template", "obstacle"),
    [
        ("{{ messages[0].content | trim }}", "changes the text of a message"),
        ("{{ messages[0].content }} {{ messages[0].content }}", "changes the text of a message"),
        ("{{ messages[0].content | length }}", "changes the text of a message"),
        ("{{ raise_exception('no') }}", "can't be rendered"),
    ],
)
def test_a_template_that_is_not_a_prefix_and_a_suffix_is_named(template, obstacle):
    tokenizer = chat_model(template=template).tokenizers.source
    form = chat_form(tokenizer)
    assert form.keys() == {"obstacle"}
    assert obstacle in form["obstacle"]
    tokenizer.chat_template = None
    assert chat_form(tokenizer) is None


@pytest.mark.slow
def test_a_box_makes_the_text_a_message(browser, write):
    found = chat_model()
    tokenizer = found.tokenizers.source
    with opened(browser, write(found), hash="#view=tokens&text=One+day") as page:
        shown_ids = "[...document.querySelectorAll('#panel-tokens .below')].map((each) => Number(each.textContent))"
        assert page.call(shown_ids) == tokenizer("One day")["input_ids"]
        page.page.check("#chat")
        page.page.wait_for_timeout(500)
        assert page.call(shown_ids) == expected(tokenizer, "One day")
        assert "chat=1" in page.call("location.hash")
        assert page.problems == []
    with opened(browser, write(found), hash="#view=tokens&text=One+day&chat=1") as page:
        assert page.page.is_checked("#chat")
        assert page.call(shown_ids) == expected(tokenizer, "One day")
    with opened(browser, write(chat_model(template="{{ messages[0].content | trim }}")), hash="#text=a&chat=1") as page:
        assert page.page.is_disabled("#chat")
        assert not page.page.is_checked("#chat")
        assert "changes the text of a message" in page.page.inner_text(".prompt")
