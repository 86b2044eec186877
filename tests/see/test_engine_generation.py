"""Generation of a page's engine against `generate` of transformers: beam search, settings of the generation config, and
sampling."""

import copy
from typing import Any

import pytest
import torch
from helpers.models import tiny_encoder, tiny_model, tiny_seq2seq
from helpers.page_engine import EngineError, mostly_slow, needs_node, run_engine
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from scratch_gpt.models.modeling_scratch_encoder import ScratchEncoderForMaskedLM

pytestmark = needs_node
SOURCES = torch.randint(6, 99, (4, 9), generator=torch.Generator().manual_seed(3))


def translator(preset: str, **generation: Any) -> Any:
    """A tiny translator that ends some of its texts early, with these settings of generation."""
    model = tiny_seq2seq(preset, lm_head_bias=True)
    with torch.no_grad():
        model.lm_head.bias[2] += 3
    model.generation_config.update(decoder_start_token_id=0, **generation)
    return model


def texts_of(model: Any, sources: torch.Tensor, **options: Any) -> list[list[int]]:
    """What `generate` of transformers returns for each source alone, without the start token."""
    return [model.generate(source[None], do_sample=False, **options)[0, 1:].tolist() for source in sources]


def check_translations(model: Any, count: int, num_beams: int) -> list[list[int]]:
    """Check that the engine's translations are those of transformers, and return them."""
    options = {"numBeams": num_beams}
    calls = [{"method": "generate", "ids": ids, "count": count, "options": options} for ids in SOURCES.tolist()]
    found = run_engine(model, calls)
    assert found == texts_of(model, SOURCES, num_beams=num_beams, max_new_tokens=count)
    return found


@pytest.mark.parametrize("length_penalty", mostly_slow([0.0, 1.0, 2.0, -1.0], [1.0]))
def test_beam_search(length_penalty):
    """With each rule of when to stop, which lead to different texts if long ones are not at a disadvantage."""
    found = []
    for early_stopping in (True, False, "never"):
        model = translator("modern", early_stopping=early_stopping, length_penalty=length_penalty)
        found.append(check_translations(model, 24, 3))
    if length_penalty > 0:
        assert found[0] != found[1] != found[2] != found[0]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bart", "pegasus", "t5", "vaswani2017"])
def test_beam_search_of_presets(preset):
    check_translations(translator(preset, early_stopping=True), 12, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"forced_bos_token_id": 7},
        {"forced_eos_token_id": 2},
        {"eos_token_id": [2, 39, 91]},
        {"eos_token_id": None},
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.7},
        {"min_length": 12},
        {"min_new_tokens": 8},
        {"bad_words_ids": [[0], [91], [39, 39], [2]]},
        {"suppress_tokens": [39, 91], "begin_suppress_tokens": [2, 14]},
    ],
)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_settings_of_generation(settings, num_beams):
    model = translator("modern")
    plain = texts_of(model, SOURCES, num_beams=num_beams, max_new_tokens=16)
    model.generation_config.update(**settings)
    assert check_translations(model, 16, num_beams) != plain


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["llama", "nanochat_ngram", "gemma3"])
def test_beam_search_of_decoders(preset):
    fields = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5} if preset == "gemma3" else {}
    model = tiny_model(preset, **fields)
    calls = [{"method": "generate", "ids": ids, "count": 20, "options": {"numBeams": 3}} for ids in SOURCES.tolist()]
    options = {"num_beams": 3, "max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    expected = [model.generate(source[None], **options)[0, 9:].tolist() for source in SOURCES]
    assert run_engine(model, calls) == expected


def test_steps_of_a_beam_search_lead_to_its_texts():
    """Each candidate continues a beam of the step before, and the best finished text is that of `generate`."""
    model = translator("modern", early_stopping=True, num_beams=4)
    source = SOURCES[0].tolist()
    calls = [{"method": "beamSearch", "ids": source, "count": 16, "options": {}}]
    calls += [{"method": "generate", "ids": source, "count": 16, "options": {"numBeams": 4}}]
    result, text = run_engine(model, calls)
    assert result["ids"] == result["finished"][0]["ids"] == text
    scores = [finished["score"] for finished in result["finished"]]
    assert scores == sorted(scores, reverse=True)
    beams = [[0]]
    for step in result["steps"]:
        for candidate in step:
            assert candidate["ids"] == [*beams[candidate["parent"]], candidate["id"]]
        kept = sorted((c for c in step if c["beam"] >= 0), key=lambda c: c["beam"])
        beams = [candidate["ids"] for candidate in kept]
    with torch.no_grad():
        logits = model(SOURCES[:1], decoder_input_ids=torch.tensor([[0, *text[:-1]]])).logits[0]
    total = logits.log_softmax(-1)[range(len(text)), text].sum().item()
    assert abs(total / len(text) - result["score"]) < 1e-4


def test_generation_ends_where_the_text_ends():
    model = tiny_model("llama")
    prompt = SOURCES[0].tolist()
    call = {"method": "generate", "ids": prompt, "count": 30}
    (free,) = run_engine(model, [{**call, "options": {"stopAtEnd": False}}])
    end = free[10]
    model.generation_config.eos_token_id = [end]
    stopped, free_again = run_engine(model, [call, {**call, "options": {"stopAtEnd": False}}])
    assert stopped == free[: free.index(end) + 1]
    assert free_again == free


def test_models_without_generation_say_so():
    model = tiny_encoder(ScratchEncoderForMaskedLM, "bert")
    with pytest.raises(EngineError, match="a masked model does not generate"):
        run_engine(model, [{"method": "generate", "ids": [5, 6], "count": 3}])


LOGITS = torch.randn(200, generator=torch.Generator().manual_seed(4)) * 3


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 10, 1.0), (1.3, 0, 0.9), (0.8, 40, 0.7), (1.0, 1, 1.0), (1.0, 0, 0.01)],
)
def test_probabilities_are_those_of_transformers(temperature, top_k, top_p):
    scores = LOGITS[None]
    warpers = [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k) if top_k else None]
    warpers += [TopPLogitsWarper(top_p) if top_p < 1 else None]
    for warper in warpers:
        scores = scores if warper is None else warper(None, scores)
    options = {"temperature": temperature, "topK": top_k, "topP": top_p}
    (found,) = run_engine(None, [{"method": "distribution", "logits": LOGITS.tolist(), "options": options}])
    torch.testing.assert_close(found, scores[0].softmax(-1), atol=1e-6, rtol=0)


def test_sampling_follows_the_distribution_and_repeats_with_a_seed():
    options = {"temperature": 1.5, "topK": 30}
    call = {"method": "draw", "logits": LOGITS.tolist(), "options": options, "count": 20_000}
    calls = [{**call, "seed": seed} for seed in (1, 1, 2)]
    probabilities, first, again, other = run_engine(
        None, [{"method": "distribution", "logits": LOGITS.tolist(), "options": options}, *calls]
    )
    assert first == again != other
    for drawn in (first, other):
        frequencies = torch.bincount(torch.tensor(drawn), minlength=200) / 20_000
        errors = (probabilities * (1 - probabilities) / 20_000).sqrt()
        assert ((frequencies - probabilities).abs() <= 4.5 * errors).all()


def test_sampled_text_repeats_with_a_seed_and_follows_its_options():
    model = copy.deepcopy(tiny_model("gpt2"))
    model.generation_config.eos_token_id = None
    call = {"method": "generate", "ids": SOURCES[0].tolist(), "count": 40}
    sampled = [{"temperature": 1.0, "seed": seed} for seed in (1, 1, 2)]
    options = [{}, {"temperature": 0.0}, {"temperature": 1.0, "topK": 1}, {"temperature": 1.0, "topP": 1e-6}, *sampled]
    greedy, cold, one, tiny, first, again, other = run_engine(model, [{**call, "options": o} for o in options])
    assert greedy == cold == one == tiny
    assert first == again != other != greedy
