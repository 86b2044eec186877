"""Fast decoding in `generate`: the same tokens as transformers' own loop, and not used where it is not supported."""

import copy

import pytest
import torch
from helpers.decoding import OPTIONS, generate_fast_and_slow, padded, record_steps
from helpers.models import PRESETS, SEQ2SEQ_PRESETS, randomise, tiny_model, tiny_seq2seq
from torch import nn
from transformers import DynamicCache, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from scratch_gpt import ScratchGPTForCausalLM, ScratchGPTModel
from scratch_gpt.models import fast_decoding, fast_generation, functional_layers
from scratch_gpt.models.compatibility import RELEASE, cache_argument
from scratch_gpt.models.normalization import LayerNorm

SHAPES = [{}, {"num_key_value_heads": 2}]


@pytest.fixture
def steps(monkeypatch):
    """A list with one entry for each fast decoding step."""
    return record_steps(monkeypatch)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_gpt_generates_the_same_tokens(preset, shape, options, steps, monkeypatch):
    model = tiny_model(preset, **shape).double()
    ids, mask = padded()
    for given in ({"input_ids": ids, "attention_mask": mask}, {"input_ids": ids.clamp(min=3)}):
        steps.clear()
        fast, slow = generate_fast_and_slow(model, monkeypatch, steps, max_new_tokens=30, **given, **OPTIONS[options])
        assert torch.equal(fast, slow)


@pytest.mark.parametrize("options", ["greedy", "beams"])
def test_float32_generates_the_same_tokens(options, steps, monkeypatch):
    """In float32 on a CPU, several rows use matrix products and one row SDPA."""
    ids, mask = padded()
    for model in (tiny_model("llama"), tiny_seq2seq("vaswani2017")):
        steps.clear()
        given = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 12}
        fast, slow = generate_fast_and_slow(model, monkeypatch, steps, **given, **OPTIONS[options])
        assert torch.equal(fast, slow)


@pytest.mark.parametrize("preset", SEQ2SEQ_PRESETS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", OPTIONS)
def test_encoder_decoder_generates_the_same_tokens(preset, side, options, steps, monkeypatch):
    model = tiny_seq2seq(preset).double()
    ids, mask = padded(side=side)
    given = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 30}
    fast, slow = generate_fast_and_slow(model, monkeypatch, steps, **given, **OPTIONS[options])
    assert torch.equal(fast, slow)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("rows", [1, 3])
def test_logits_equal_those_of_the_model(preset, rows, steps):
    """In float32, for one row and for several, and with weights too large to be fused."""
    model = tiny_model(preset, num_key_value_heads=2)
    ids, mask = padded()
    ids, mask = ids[:rows], mask[:rows]
    for copied in (functional_layers.MAX_FUSED_WEIGHTS, 0):
        with torch.no_grad(), pytest.MonkeyPatch.context() as patched:
            patched.setattr(functional_layers, "MAX_FUSED_WEIGHTS", copied)
            cache = DynamicCache(config=model.config)
            model(ids, attention_mask=mask, cache=cache)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            decoder = fast_decoding.StepDecoder(model, model.model, cache, positions, mask)
            text, seen = ids, mask
            for _ in range(12):
                tokens = torch.randint(3, 99, (rows,))
                text, seen = torch.cat((text, tokens[:, None]), 1), torch.cat((seen, torch.ones(rows, 1).long()), 1)
                expected = model(text, attention_mask=seen).logits[:, -1]
                torch.testing.assert_close(decoder.step(tokens), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.skipif(RELEASE < (5, 2), reason="before transformers 5.2 its own loop repeats the last given position")
@pytest.mark.parametrize("preset", PRESETS)
def test_given_position_ids_are_continued(preset, steps, monkeypatch):
    """Positions may differ between rows, and be greater than the number of tokens."""
    model, ids = tiny_model(preset).double(), torch.randint(3, 99, (2, 4))
    positions = torch.tensor([[9, 10, 11, 12], [30, 31, 32, 33]])
    options = {"do_sample": False, "eos_token_id": None, "max_new_tokens": 12}
    for given in (positions, positions[:1].expand(2, -1)):
        steps.clear()
        fast, slow = generate_fast_and_slow(model, monkeypatch, steps, input_ids=ids, position_ids=given, **options)
        assert torch.equal(fast, slow)


@pytest.mark.parametrize("preset", PRESETS)
def test_bfloat16_is_as_close_to_float32_as_the_model(preset, steps):
    model = tiny_model(preset, num_key_value_heads=2)
    half, (ids, mask) = copy.deepcopy(model).bfloat16(), padded()
    with torch.no_grad():
        cache, before = DynamicCache(config=half.config), mask[:, :-1]
        half(ids[:, :-1], attention_mask=before, cache=cache)
        positions = (before.cumsum(-1) - 1).clamp(min=0)
        fast = fast_decoding.StepDecoder(half, half.model, cache, positions, before).step(ids[:, -1])
        exact, own = model(ids, attention_mask=mask).logits[:, -1], half(ids, attention_mask=mask).logits[:, -1]
    assert fast.dtype == torch.bfloat16
    assert (fast - exact).abs().max() < 1.5 * (own - exact).abs().max()


def test_finished_rows_are_padded_and_stop_strings_end_generation(story_tokenizer, steps):
    model = tiny_model("gpt2", vocab_size=len(story_tokenizer))
    ids = torch.randint(3, 99, (2, 5))

    def sample(**options):
        torch.manual_seed(3)
        return model.generate(ids, max_new_tokens=20, do_sample=True, **options)

    plain = sample(eos_token_id=None)
    end = int(plain[0, 9])
    stopped = sample(eos_token_id=end, pad_token_id=0)
    ends = [int((row[5:] == end).nonzero()[0, 0]) + 6 if (row[5:] == end).any() else 25 for row in plain]
    assert min(ends) < stopped.shape[1] == max(ends)  # one row ends before the other
    for row, whole, length in zip(stopped, plain, ends, strict=True):
        assert torch.equal(row[:length], whole[:length])
        assert (row[length:] == 0).all()
    ids = ids[:1]
    plain = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None)
    word = story_tokenizer.decode(plain[0, 8:9])
    steps.clear()
    options = {"eos_token_id": None, "stop_strings": [word], "tokenizer": story_tokenizer}
    cut = model.generate(ids, max_new_tokens=20, do_sample=False, **options)
    assert cut.shape[1] <= 9
    assert torch.equal(cut[0], plain[0, : cut.shape[1]])
    assert len(steps) == cut.shape[1] - 6


def test_streamer_receives_every_token(steps):
    class Kept(BaseStreamer):
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens.extend(value.flatten().tolist())

        def end(self):
            self.ended = True

    model, streamer = tiny_model("nanochat"), Kept()
    out = model.generate(torch.randint(3, 99, (1, 4)), max_new_tokens=9, eos_token_id=None, streamer=streamer)
    assert streamer.tokens == out[0].tolist()
    assert streamer.ended
    assert len(steps) == 8


def test_more_tokens_than_learned_positions_are_refused(steps):
    with pytest.raises(ValueError, match="learned positions for 64"):
        tiny_model("gpt2").generate(torch.randint(3, 99, (1, 60)), max_new_tokens=9, eos_token_id=None)
    assert len(steps) == 5


class ModifiedLogits(ScratchGPTForCausalLM):
    """A user's subclass with its own `forward`."""

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits[..., 5] = 1e4
        return outputs


class ModifiedInputs(ScratchGPTForCausalLM):
    """A user's subclass that prepares inputs differently."""

    def prepare_inputs_for_generation(self, *args, **kwargs):
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        return {**inputs, "position_ids": inputs["position_ids"] + 7}


class ModifiedTrunk(ScratchGPTModel):
    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.last_hidden_state = outputs.last_hidden_state.roll(1, -1)
        return outputs


class ModifiedLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


class ModifiedNorm(LayerNorm):
    def forward(self, x):
        return 2 * super().forward(x) + 1


class WrappedPositions(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, position_ids):
        return 3 * self.inner(position_ids)


def own_class(model):
    return randomise(ModifiedLogits(model.config)).eval()


def own_inputs(model):
    return randomise(ModifiedInputs(model.config)).eval()


def own_trunk(model):
    model.model = randomise(ModifiedTrunk(model.config)).eval()
    return model


def own_layer(model):
    layer = model.model.layers[0].self_attn.q_proj
    model.model.layers[0].self_attn.q_proj = ModifiedLinear(layer.in_features, layer.out_features).eval()
    return model


def own_norm(model):
    model.model.norm = ModifiedNorm(32).eval()
    return model


def own_positions(model):
    model.model.embed_positions = WrappedPositions(model.model.embed_positions).eval()
    return model


def without_feed_forward(model):
    model.model.layers[0].mlp = nn.Identity()
    return model


def pruned(model):
    model.model.layers = model.model.layers[:1]
    return model


def hooked(model):
    model.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: output + 1)
    return model


def patched(model):
    head = model.lm_head.forward
    model.lm_head.forward = lambda x: head(x).roll(1, -1)
    return model


def mixed_precision(model):
    model.model.embed_positions.double()
    return model


def flexible(model):
    model.set_attn_implementation("flex_attention")
    return model


def still_dropping(model):
    model.model.layers[1].dropout.train()
    return model


def dynamic_rope(_):
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    return tiny_model("llama", rope_parameters=rope)


CHANGES = [own_class, own_inputs, own_trunk, own_layer, own_norm, own_positions, without_feed_forward, pruned, hooked]
CHANGES += [patched, mixed_precision, flexible, still_dropping, dynamic_rope]


@pytest.mark.parametrize(  # flex attention compiles for a minute
    "change", [pytest.param(c, marks=pytest.mark.release if c is flexible else pytest.mark.slow) for c in CHANGES]
)
def test_modified_model_is_left_to_transformers(change, steps):
    model, ids = change(tiny_model("gpt2")), torch.randint(3, 99, (1, 6))
    for beams in (1, 2):
        out = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None, num_beams=beams)
        assert out.shape == (1, 11)
    assert not steps


def test_global_hook_disables_fast_decoding(steps):
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        tiny_model("llama").generate(torch.randint(3, 99, (1, 6)), max_new_tokens=5, eos_token_id=None)
    finally:
        hook.remove()
    assert not steps


def test_minimum_of_two_length_limits_applies(steps):
    model, ids = tiny_model("llama"), torch.randint(3, 99, (1, 6))
    criteria = StoppingCriteriaList([MaxLengthCriteria(16), MaxLengthCriteria(9)])
    out = model.generate(ids, do_sample=False, eos_token_id=None, stopping_criteria=criteria, max_new_tokens=20)
    assert out.shape == (1, 9)
    assert len(steps) == 2


def test_cache_of_the_prompt_is_freed(steps, monkeypatch):
    """Its keys and values were copied; `generate` keeps a reference to the empty cache."""
    held, build = [], fast_generation.StepDecoder

    def kept(model, trunk, cache, *args, **kwargs):
        held.append(cache)
        return build(model, trunk, cache, *args, **kwargs)

    monkeypatch.setattr(fast_generation, "StepDecoder", kept)
    tiny_model("llama").generate(torch.randint(3, 99, (1, 6)), max_new_tokens=5, eos_token_id=None)
    assert len(held) == 1
    assert not held[0].layers


@pytest.mark.parametrize(
    "options",
    [
        {"return_dict_in_generate": True},
        {"use_cache": False},
        {"cache_implementation": "static"},
        cache_argument(DynamicCache()),
        {"prompt_lookup_num_tokens": 2},
        {"attention_mask": torch.zeros(1, 6, dtype=torch.long)},
    ],
)
def test_unsupported_request_is_left_to_transformers(options, steps):
    model, ids = tiny_model("llama"), torch.randint(3, 99, (1, 6))
    model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None, **options)
    assert not steps


def test_autocast_is_left_to_transformers(steps):
    with torch.autocast("cpu", torch.bfloat16):
        tiny_model("llama").generate(torch.randint(3, 99, (1, 6)), max_new_tokens=5, eos_token_id=None)
    assert not steps


def test_hooks_that_record_outputs_keep_fast_decoding(steps):
    """transformers registers hooks on every block once hidden states are requested; they change no result."""
    model, ids = tiny_model("llama"), torch.randint(3, 99, (1, 6))
    model(ids, output_hidden_states=True)
    model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert len(steps) == 4
