"""N-gram embeddings in the GPT: the hash by its definition, and the tokens in the cache."""

import pytest
import torch
from helpers.models import tiny_model
from transformers import DynamicCache, GenerationConfig, StaticCache
from transformers.integrations.executorch import convert_and_export_with_cache

from scratch_gpt import ScratchGPTForCausalLM
from scratch_gpt.models.ngram_embedding import MULTIPLIER


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 99, (rows, length))


def test_bucket_is_the_hash_of_the_ngram():
    model, tokens = tiny_model("nanochat_ngram").model.embed_ngrams, [7, 98, 3, 3, 41]
    positions = [0, 1, 2, 0, 1]  # a second document begins at the fourth token
    buckets = model.bucket_ids(torch.tensor([tokens]), position_ids=torch.tensor([positions]))[0].tolist()
    for i, (bucket, position) in enumerate(zip(buckets, positions, strict=True)):
        a, b, c = (tokens[i - back] if position >= back else -1 for back in (2, 1, 0))
        assert bucket == ((a * MULTIPLIER + b) % 1024 * MULTIPLIER + c) % 1024


@pytest.mark.parametrize("kind", ["dynamic", "by config", "static"])
def test_cached_pieces_equal_full_forward(kind):
    """With pieces of any length, including one token; after cropping the cache; and after reordering its rows."""
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
        if kind != "static":  # a static cache can't be cropped
            model(ids(2, 3), cache=cache)
            cache.crop(-3)
        swap = torch.tensor([1, 0])
        cache.reorder_cache(swap)
        pieces.append(model(x[swap, at:], cache=cache).logits[swap])
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_prompt_shorter_than_an_ngram_is_continued(length):
    model, x = tiny_model("nanochat_ngram").eval(), ids(3, length)
    for _ in range(6):
        x = torch.cat((x, model(x).logits[:, -1:].argmax(-1)), dim=1)
    generated = model.generate(x[:, :length], max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert generated.tolist() == x.tolist()


def with_mask(model, x, mask, cache=None, **kwargs):
    return model(x, attention_mask=mask, cache=cache, **kwargs).logits


@pytest.mark.parametrize("in_cache", [False, True])
def test_ngrams_skip_masked_tokens(in_cache):
    """On the left, between the prompt and its continuation, and in the middle."""
    model, x = tiny_model("nanochat_ngram").eval(), ids(1, 9)
    for visible in ([0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 1, 1, 1, 1]):
        mask = torch.tensor([visible])
        alone = model(x[:, mask[0].bool()]).logits
        if in_cache:
            cache = DynamicCache()
            first = with_mask(model, x[:, :6], mask[:, :6], cache)
            both = [first, *(with_mask(model, x[:, i : i + 1], mask[:, : i + 1], cache) for i in (6, 7, 8))]
            logits = torch.cat(both, dim=1)
        else:
            logits = with_mask(model, x, mask)
        torch.testing.assert_close(logits[:, mask[0].bool()], alone, atol=1e-5, rtol=1e-5)
    gap = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0, 1]])
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    generated = model.generate(x, attention_mask=gap, **options)[:, 9:]
    assert generated.tolist() == model.generate(x[:, gap[0].bool()], **options)[:, 6:].tolist()


def test_ngrams_do_not_reach_before_the_text():
    """Neither to masked tokens, nor anywhere if positions start above 0."""
    model, x = tiny_model("nanochat_ngram").eval(), ids(3, 6)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    hidden = torch.tensor([[0, 0, 0, 0, 0, 1]] * 3)
    alone = model.generate(x[:, 5:], **options)
    assert model.generate(x, attention_mask=hidden, **options)[:, 5:].tolist() == alone.tolist()
    later = {"position_ids": torch.arange(4, 10)[None]}
    torch.testing.assert_close(model(x, use_cache=True, **later).logits, model(x, use_cache=False, **later).logits)


def test_inputs_without_ngrams_are_refused():
    model = tiny_model("nanochat_ngram")
    with pytest.raises(ValueError, match="n-gram embeddings and needs input_ids"):
        model(inputs_embeds=torch.randn(1, 3, 32))
    with pytest.raises(ValueError, match="continuous batching"):
        model(ids(1, 3), cache=object())
    with pytest.raises(ValueError, match="continuous batching"):
        model(ids(1, 3), attention_instances={})


def test_changing_the_padding_id_changes_no_logits(tmp_path):
    model, x = tiny_model("nanochat_ngram"), ids(2, 5)
    before = model(x).logits
    model.config.pad_token_id = 2
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(ScratchGPTForCausalLM.from_pretrained(tmp_path)(x).logits, before)


def test_export_with_a_cache_is_refused():
    """It would lose the tokens in the cache. Export without a cache is exact."""
    model, x = tiny_model("nanochat_ngram"), ids(1, 6)
    model.generation_config = GenerationConfig(
        use_cache=True, cache_implementation="static", cache_config={"batch_size": 1, "max_cache_len": 8}
    )
    with pytest.raises(Exception, match="can't be exported: export it without a cache"):
        convert_and_export_with_cache(model)
    program = torch.export.export(model, (x,), {"use_cache": False})
    torch.testing.assert_close(program.module()(x, use_cache=False).logits, model(x).logits)
