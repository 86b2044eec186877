"""Loss per token of a masked language model: each token is masked in turn (Salazar et al. 2020, arXiv:1910.14659)."""

from urllib.parse import urlencode

import pytest
import torch
from helpers.browser import opened
from helpers.page_engine import needs_node, run_jobs
from helpers.pages import shown

from scratch_gpt.see.payload import payload_of

TEXT = "One day, Anna found an old lamp. <mask> was red."


@torch.no_grad()
def losses_of_torch() -> tuple[list[int], dict[int, tuple[float, int]]]:
    """The ids, and by position the loss of the token and its rank, of all tokens that are not special."""
    model, (tokenizer, _) = shown("masked")
    ids = tokenizer(TEXT)["input_ids"]
    found = {}
    for position, token in enumerate(ids):
        if token in tokenizer.all_special_ids:
            continue
        masked = torch.tensor([ids])
        masked[0, position] = tokenizer.mask_token_id
        logits = model(masked).logits[0, position]
        found[position] = -logits.log_softmax(-1)[token].item(), 1 + int((logits > logits[token]).sum())
    return ids, found


@needs_node
def test_each_token_is_masked_in_turn():
    model, tokenizers = shown("masked")
    ids, expected = losses_of_torch()
    assert 5 < len(expected) < len(ids) - 2  # neither <bos>, <eos> nor the mask
    call = {"method": "maskedLosses", "ids": ids, "mask": tokenizers.source.mask_token_id}
    ((found,),) = run_jobs([(payload_of(model, tokenizers, "", "float32"), "float32", [call])])
    assert [position for position, *_ in found] == list(expected)
    for position, loss, rank, probability in found:
        assert loss == pytest.approx(expected[position][0], abs=1e-4)
        assert rank == expected[position][1]
        assert probability == pytest.approx(torch.tensor(-loss).exp().item(), rel=1e-5)


@pytest.mark.slow
def test_the_view_shows_the_losses_of_torch(browser, write):
    ids, expected = losses_of_torch()
    hash_ = "#" + urlencode({"view": "pseudo-loss", "text": TEXT, "position": 3})
    with opened(browser, write(shown("masked"), "float32"), hash=hash_) as page:
        page.page.wait_for_selector("#metric-mean-loss")
        below = page.page.locator("#panel-pseudo-loss .below").all_inner_texts()
        assert len(below) == len(ids)
        for position, text in enumerate(below):
            if position in expected:
                assert float(text) == pytest.approx(expected[position][0], abs=0.006)
            else:
                assert text == "–"
        mean = sum(loss for loss, _ in expected.values()) / len(expected)
        assert float(page.page.inner_text("#metric-mean-loss").split()[0]) == pytest.approx(mean, rel=0.01)
        assert page.page.inner_text("#pseudo-loss-progress") == ""
        assert f"rank {expected[3][1]} of" in page.page.inner_text("#pseudo-loss-value")
        page.page.fill("#text", "One day")
        page.page.wait_for_timeout(1000)
        assert page.page.locator("#panel-pseudo-loss .below").count() == 4
        page.page.fill("#text", "")
        page.page.wait_for_timeout(1000)
        assert page.problems == []
