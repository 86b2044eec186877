"""The options of `generate`, on our classes."""

import copy

import pytest
import torch
from helpers.models import PRESET_STYLES, small_paged_cache, tiny_model
from transformers import DynamicCache, GenerationConfig, pipeline
from transformers.generation.streamers import BaseStreamer

from scratch_gpt.models.compatibility import CACHE, RELEASE, update_cache

GREEDY = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}


def prompt(batch: int = 1, length: int = 6) -> torch.Tensor:
    return torch.randint(3, 99, (batch, length))


def greedy_loop(model, x: torch.Tensor, steps: int) -> torch.Tensor:
    """Greedy decoding without cache or `generate`."""
    for _ in range(steps):
        x = torch.cat([x, model(x).logits[:, -1:].argmax(-1)], 1)
    return x


@pytest.mark.parametrize(("preset", "fields"), PRESET_STYLES)
def test_greedy_equals_a_manual_loop(preset, fields):
    model, x = tiny_model(preset, **fields), prompt(2)
    assert torch.equal(model.generate(x, **GREEDY), greedy_loop(model, x, 12))


@pytest.mark.parametrize(("preset", "fields"), PRESET_STYLES)
@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 3}])
def test_static_cache_and_prompt_lookup_generate_the_same_text(preset, fields, options):
    if "prompt_lookup_num_tokens" in options and RELEASE < (5, 13):
        pytest.skip("prompt lookup of transformers before 5.13 needs an end-of-sequence token")
    model, x = tiny_model(preset, **fields), prompt()
    x = torch.cat([x, x], 1)  # something to look up
    assert torch.equal(model.generate(x, **GREEDY, **options), greedy_loop(model, x, 12))


def test_assisted_decoding_generates_the_same_text():
    model, assistant, x = tiny_model("llama"), tiny_model("llama", num_hidden_layers=1), prompt()
    assert torch.equal(model.generate(x, **GREEDY, assistant_model=assistant), greedy_loop(model, x, 12))


def test_beam_search_finds_a_likelier_text_than_greedy():
    model, x = tiny_model("gpt2"), prompt()

    def score(tokens):
        logits = model(tokens).logits[:, 5:-1].log_softmax(-1)
        return logits.gather(-1, tokens[:, 6:, None]).sum().item()

    greedy = model.generate(x, **GREEDY)
    beams = model.generate(x, **GREEDY, num_beams=8)
    assert score(beams) > score(greedy)


def test_sampling_follows_the_models_distribution():
    model, x = tiny_model("nanochat"), prompt()
    expected = model(x).logits[0, -1].softmax(-1)
    drawn = model.generate(x.expand(4000, -1), max_new_tokens=1, do_sample=True, top_k=0, eos_token_id=None)[:, -1]
    seen = torch.bincount(drawn, minlength=99) / 4000
    errors = (expected * (1 - expected) / 4000).sqrt()
    assert ((seen - expected).abs() < 4.5 * errors + 1e-3).all()
    torch.manual_seed(5)
    first = model.generate(x, max_new_tokens=12, do_sample=True, temperature=0.8, top_k=20, top_p=0.9)
    torch.manual_seed(5)
    assert torch.equal(
        first, model.generate(x, max_new_tokens=12, do_sample=True, temperature=0.8, top_k=20, top_p=0.9)
    )


@pytest.mark.parametrize(("preset", "fields"), PRESET_STYLES)
def test_left_padded_rows_equal_rows_alone(preset, fields):
    model, short, long = tiny_model(preset, **fields), prompt(1, 4), prompt(1, 9)
    batch = torch.cat([torch.cat([torch.zeros(1, 5, dtype=torch.long), short], 1), long])
    mask = torch.ones_like(batch)
    mask[0, :5] = 0
    out = model.generate(batch, attention_mask=mask, **GREEDY)
    assert torch.equal(out[0, 5:], greedy_loop(model, short, 12)[0])
    assert torch.equal(out[1], greedy_loop(model, long, 12)[0])


def test_continuing_from_a_cache():
    model, x = tiny_model("llama"), prompt()
    cache = DynamicCache(config=model.config)
    first = model.generate(x, **GREEDY, **{CACHE: cache})
    longer = model.generate(first, **{**GREEDY, "max_new_tokens": 5}, **{CACHE: cache})
    assert torch.equal(longer, greedy_loop(model, x, 17))


def test_streamer_receives_every_token():
    class Collect(BaseStreamer):
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    model, x, streamer = tiny_model("gpt2"), prompt(), Collect()
    out = model.generate(x, **GREEDY, streamer=streamer)
    assert streamer.tokens == out[0].tolist()
    assert streamer.ended


@pytest.mark.slow
@pytest.mark.skipif(RELEASE < (5, 9), reason="continuous batching of transformers before 5.9 fails on a CPU")
@pytest.mark.parametrize("preset", ["gpt2", "llama"])
def test_continuous_batching_generates_the_same_texts(preset):
    model = tiny_model(preset)
    inputs = [prompt(1, n)[0].tolist() for n in (3, 8, 5)]
    settings = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=98, pad_token_id=0)
    results = model.generate_batch(inputs=inputs, generation_config=settings, **small_paged_cache())
    for tokens, result in zip(inputs, results.values(), strict=True):
        expected = model.generate(torch.tensor([tokens]), generation_config=settings)[0, len(tokens) :]
        assert result.generated_tokens == expected.tolist()


def test_a_paged_cache_reaches_the_attention_function():
    """From 5.24 on the cache adds arguments for it, in place; before, the function gets the cache."""

    class Paged:
        def update(self, key, value, layer_idx, kwargs):
            kwargs["block_table"] = layer_idx
            return key, value

    cache, kwargs = Paged(), {"read_index": 2}
    update_cache(cache, torch.ones(1), torch.ones(1), 3, kwargs)
    assert kwargs == {"read_index": 2, **({"block_table": 3} if RELEASE >= (5, 24) else {"cache": cache})}


def test_pipeline_generates_batches(story_tokenizer):
    if RELEASE < (5, 3):  # the pipeline does not set it
        story_tokenizer = copy.deepcopy(story_tokenizer)
        story_tokenizer.padding_side = "left"
    model = tiny_model("llama", vocab_size=len(story_tokenizer))
    generator = pipeline("text-generation", model=model, tokenizer=story_tokenizer)
    one_by_one = [generator(text, **GREEDY)[0]["generated_text"] for text in ("One day, Anna", "Ben")]
    batched = generator(["One day, Anna", "Ben"], batch_size=2, **GREEDY)
    assert [result[0]["generated_text"] for result in batched] == one_by_one
    assert one_by_one[0].startswith("One day, Anna")
