"""Parts of a page's engine: special functions, buckets, hashes, the cache and float16."""

import math
from types import SimpleNamespace

import pytest
import torch
from helpers.models import tiny_model
from helpers.page_engine import close, mostly_slow, needs_node, run_engine

from scratch_gpt import ScratchBigramConfig, ScratchBigramForCausalLM
from scratch_gpt.models.relative_positions import relative_position_buckets
from scratch_gpt.see.payload import bucket_tables

pytestmark = needs_node
IDS = torch.randint(6, 99, (1, 700), generator=torch.Generator().manual_seed(0))


def test_error_function():
    xs = [i / 1000 for i in range(-6000, 6001)]
    (found,) = run_engine(
        None, [{"method": "map", "file": "feed_forward.js", "name": "erf", "lists": [[x] for x in xs]}]
    )
    assert max(abs(value - math.erf(x)) for value, x in zip(found, xs, strict=True)) < 2e-8


SPANS = (3, 12, 20, 81, 97, 128, 164, 282, 1000)  # maximum distances; all numbers of buckets below, even and odd


def test_buckets_of_relative_positions():
    """All distances in all sizes equal torch's, where the rounding of its logarithm decides too: of 96 buckets up to
    81, that of distance 36."""
    distances = torch.arange(-600, 601)
    calls, expected = [], []
    for most in SPANS:
        for num_buckets in [*range(4, 41), 72, 91, 96, 108]:
            config = SimpleNamespace(
                relative_attention_num_buckets=num_buckets,
                relative_attention_max_distance=most,
                max_position_embeddings=700,
            )
            if most <= num_buckets // 2:
                continue
            for bidirectional in (False, True):
                table = {"relative_attention_buckets": bucket_tables(config)}
                call = {"method": "buckets", "config": table, "distances": distances.tolist()}
                calls.append({**call, "numBuckets": num_buckets, "bidirectional": bidirectional})
                expected.append(relative_position_buckets(distances, num_buckets, most, bidirectional).tolist())
    assert run_engine(None, calls) == expected
    assert max(len(call["config"]["relative_attention_buckets"]["causal"]) for call in calls) == 701


@pytest.mark.parametrize(("buckets", "size"), mostly_slow([(2**14, 3), (2**20, 8), (2, 2), (2**18, 5)], [(2**14, 3)]))
def test_hashes_of_ngrams(buckets, size):
    """The buckets, of large ids too, and of the first tokens, before which the id is -1: a table of numbers of buckets
    in place of the vectors."""
    fields = {"ngram_buckets": buckets, "ngram_size": size, "hidden_size": 8, "num_attention_heads": 2}
    model = tiny_model("llama", vocab_size=20_000, num_hidden_layers=1, embedding_norm=False, **fields)
    ids = torch.cat((torch.tensor([19_999, 19_998, 0, 19_999, 1]), torch.randint(0, 20_000, (50,))))
    embedding = model.model.embed_ngrams.embedding
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
        embedding.weight[:, 0], embedding.weight[:, 1:] = torch.arange(buckets), 0
    (trace,) = run_engine(model, [{"method": "forward", "ids": ids.tolist()}])
    found = trace["embeddings"].view(-1, 8)[:, 0].long()
    assert torch.equal(found, model.model.embed_ngrams.bucket_ids(ids[None])[0])


WINDOWED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}


@pytest.mark.slow
@torch.no_grad()
def test_windowed_layers_keep_little_more_than_their_window():
    """A long text in pieces has the logits of the whole text, after the memory was moved several times."""
    model = tiny_model("gemma3", max_position_embeddings=1024, **WINDOWED)
    length = IDS.shape[1]
    pieces = [[0, 300], [300, 303], *([n, n + 1] for n in range(303, 690)), [690, length]]
    full, cached = run_engine(
        model,
        [
            {"method": "forward", "ids": IDS[0].tolist()},
            {"method": "inPieces", "ids": IDS[0].tolist(), "pieces": pieces},
        ],
    )
    close(full["logits"], model(IDS).logits[0])
    torch.testing.assert_close(torch.cat(cached["logits"]), full["logits"], atol=1e-6, rtol=0)
    windowed, whole = cached["counts"]
    assert whole == length
    assert windowed < 300


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "fields"), [("gpt2", {}), ("gemma3", WINDOWED), ("nanochat_ngram", {})])
@torch.no_grad()
def test_a_truncated_cache_goes_on_from_there(preset, fields):
    """Stepping back and choosing another token: the tokens after a length are forgotten, also where a windowed layer
    has to compute all again."""
    model = tiny_model(preset, max_position_embeddings=1024, **fields)
    ids = IDS[0, :600].tolist()
    # The windowed layer drops the tokens before 296 when it gets those after 300
    pieces = [[0, 300], [300, 570], [569, 572], [301, 303], [299, 310], [310, 311], [3, 590]]
    (cached,) = run_engine(model, [{"method": "inPieces", "ids": ids, "pieces": pieces}])
    full = model(IDS[:, :600]).logits[0]
    for (_, end), logits in zip(pieces, cached["logits"], strict=True):
        rows = len(logits) // 99
        close(logits, full[end - rows : end])


def test_float16_numbers():
    """All float16 numbers that are finite, also subnormal and the largest ones, as the table of a bigram model."""
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16).float().view(256, 256)
    numbers = torch.where(numbers.isfinite(), numbers, 0.0)
    model = ScratchBigramForCausalLM(ScratchBigramConfig(vocab_size=256))
    with torch.no_grad():
        model.table.weight.copy_(numbers)
    (trace,) = run_engine(model, [{"method": "forward", "ids": list(range(256))}], "float16")
    assert torch.equal(trace["logits"].view(256, 256), numbers)
