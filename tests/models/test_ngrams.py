"""Vectors for runs of tokens in the GPT: the hash by its definition, and the cache that keeps the tokens before."""

import pytest
import torch
from helpers.models import tiny_model
from transformers import DynamicCache, GenerationConfig, StaticCache
from transformers.integrations.executorch import convert_and_export_with_cache

from scratch_gpt import ScratchGPTForCausalLM
from scratch_gpt.models.ngram_embedding import MULTIPLIER


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 99, (rows, length))


def test_a_run_has_the_row_that_its_hash_says():
    model, tokens = tiny_model("nanochat_ngram").model.embed_ngrams, [7, 98, 3, 3, 41]
    positions = [0, 1, 2, 0, 1]  # a second document begins at the fourth token
    rows = model.bucket_ids(torch.tensor([tokens]), position_ids=torch.tensor([positions]))[0].tolist()
    for i, (row, position) in enumerate(zip(rows, positions, strict=True)):
        a, b, c = (tokens[i - back] if position >= back else -1 for back in (2, 1, 0))
        assert row == ((a * MULTIPLIER + b) % 1024 * MULTIPLIER + c) % 1024


@pytest.mark.parametrize("kind", ["dynamic", "by config", "static"])
def test_pieces_behind_a_cache_read_the_runs_of_the_whole(kind):
    """In any pieces, of one token too; after tokens were taken back; and with the rows in another order."""
    model, x = tiny_model("nanochat_ngram").eval(), ids(2, 14)
    makers = {
        "dynamic": DynamicCache,
        "by config": lambda: DynamicCache(config=model.config),
        "static": lambda: StaticCache(config=model.config, max_cache_len=20),
    }
    cache, pieces, at = makers[kind](), [], 0
    with torch.no_grad():
        whole = model(x).logits
        for length in (1, 1, 4, 2):
            pieces.append(model(x[:, at : at + length], cache=cache).logits)
            at += length
        if kind != "static":  # which can't be cropped
            model(ids(2, 3), cache=cache)
            cache.crop(-3)
        swap = torch.tensor([1, 0])
        cache.reorder_cache(swap)
        pieces.append(model(x[swap, at:], cache=cache).logits[swap])
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_prompt_shorter_than_a_run_goes_on_like_any(length):
    model, x = tiny_model("nanochat_ngram").eval(), ids(3, length)
    for _ in range(6):
        x = torch.cat((x, model(x).logits[:, -1:].argmax(-1)), dim=1)
    own = model.generate(x[:, :length], max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert own.tolist() == x.tolist()


def with_mask(model, x, mask, cache=None, **kwargs):
    return model(x, attention_mask=mask, cache=cache, **kwargs).logits


@pytest.mark.parametrize("in_cache", [False, True])
def test_what_a_mask_hides_is_passed_over(in_cache):
    """On the left, on the right of a prompt that goes on behind it, and in the middle: as if it were not there."""
    model, x = tiny_model("nanochat_ngram").eval(), ids(1, 9)
    for shown in ([0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 1, 1, 1, 1]):
        mask = torch.tensor([shown])
        alone = model(x[:, mask[0].bool()]).logits
        if in_cache:
            cache = DynamicCache()
            first = with_mask(model, x[:, :6], mask[:, :6], cache)
            both = [first, *(with_mask(model, x[:, i : i + 1], mask[:, : i + 1], cache) for i in (6, 7, 8))]
            logits = torch.cat(both, dim=1)
        else:
            logits = with_mask(model, x, mask)
        torch.testing.assert_close(logits[:, mask[0].bool()], alone, atol=1e-5, rtol=1e-5)
    holes = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0, 1]])
    asked = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    written = model.generate(x, attention_mask=holes, **asked)[:, 9:]
    assert written.tolist() == model.generate(x[:, holes[0].bool()], **asked)[:, 6:].tolist()


def test_nothing_is_read_before_a_text():
    """Neither what a mask hides, nor its own tokens where positions begin later."""
    model, x = tiny_model("nanochat_ngram").eval(), ids(3, 6)
    asked = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    hidden = torch.tensor([[0, 0, 0, 0, 0, 1]] * 3)
    alone = model.generate(x[:, 5:], **asked)
    assert model.generate(x, attention_mask=hidden, **asked)[:, 5:].tolist() == alone.tolist()
    later = {"position_ids": torch.arange(4, 10)[None]}
    torch.testing.assert_close(model(x, use_cache=True, **later).logits, model(x, use_cache=False, **later).logits)


def test_what_has_no_runs_is_refused():
    model = tiny_model("nanochat_ngram")
    with pytest.raises(ValueError, match="n-gram embeddings and needs input_ids"):
        model(inputs_embeds=torch.randn(1, 3, 32))
    with pytest.raises(ValueError, match="continuous batching"):
        model(ids(1, 3), cache=object())
    with pytest.raises(ValueError, match="continuous batching"):
        model(ids(1, 3), attention_instances={})


def test_padding_may_get_another_id_later(tmp_path):
    model, x = tiny_model("nanochat_ngram"), ids(2, 5)
    before = model(x).logits
    model.config.pad_token_id = 2
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(ScratchGPTForCausalLM.from_pretrained(tmp_path)(x).logits, before)


def test_an_export_that_would_lose_tokens_is_refused():
    """With a cache; without one it is exact."""
    model, x = tiny_model("nanochat_ngram"), ids(1, 6)
    model.generation_config = GenerationConfig(
        use_cache=True, cache_implementation="static", cache_config={"batch_size": 1, "max_cache_len": 8}
    )
    with pytest.raises(Exception, match="can't be exported: export it without a cache"):
        convert_and_export_with_cache(model)
    program = torch.export.export(model, (x,), {"use_cache": False})
    torch.testing.assert_close(program.module()(x, use_cache=False).logits, model(x).logits)
