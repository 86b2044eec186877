"""The page in a real Chromium, opened from a file: `window.model` computes what torch computes, for a model of each
kind; `test_page_families.py` has all of them."""

import pytest
import torch
from helpers.browser import opened
from helpers.pages import KINDS, rounded_to_float16, shown

from scratch_gpt.data.corpora.stories import stories

pytestmark = pytest.mark.slow
TEXTS = [*stories(seed=7, count=3), "", " ", "Größe: 3 €\n\n<bos> 日本 e\u0301 \u200b", "a" * 40]


def expected_ids(model, ids: list[int], count: int) -> list[int]:
    """What torch generates greedily, without the prompt or the start of a translation."""
    torch_ids = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, num_beams=1)[0].tolist()
    return torch_ids[1 if model.config.is_encoder_decoder else len(ids) :]


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_computes_what_torch_computes(kind, browser, write):
    found = shown(kind)
    model, (tokenizer, target) = found
    rounded_to_float16(model)
    with opened(browser, write(found)) as page:
        assert page.call("argument.map((text) => model.encode(text))", TEXTS) == tokenizer(TEXTS)["input_ids"]
        ids = tokenizer(TEXTS[0])["input_ids"][:40]
        assert page.call("model.decode(argument)", ids) == target.decode(ids, skip_special_tokens=True)
        if kind != "encoder":
            inputs = {"input_ids": torch.tensor([ids])}
            arguments = [ids]
            if model.config.is_encoder_decoder:
                arguments.append([model.config.decoder_start_token_id, 5, 9])
                inputs["decoder_input_ids"] = torch.tensor(arguments[1:])
            with torch.no_grad():
                logits = model(**inputs).logits[0]
            logits = logits if logits.ndim == 1 else logits[-1]  # (V,) or (K,)
            measured = torch.tensor(page.call("[...model.logits(...argument)]", arguments))
            torch.testing.assert_close(measured, logits, atol=1e-3, rtol=0)
        if model.can_generate():
            assert page.call("model.generate(argument, 64)", ids) == expected_ids(model, ids, 64)
        assert page.requests == []
        assert page.problems == []
