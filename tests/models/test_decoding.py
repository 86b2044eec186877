"""The lean step behind `generate`: the same tokens as transformers' own loop, and none where it doesn't fit."""

import copy

import pytest
import torch
from helpers.models import PRESETS, randomise, tiny_model, tiny_seq2seq
from torch import nn
from transformers import DynamicCache, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from scratch_gpt import ScratchGPTForCausalLM, ScratchGPTModel
from scratch_gpt.models import fast_decoding, fast_generation
from scratch_gpt.models.normalization import LayerNorm

SHAPES = [{}, {"num_key_value_heads": 2}]
ASKED = {
    "greedy": {"do_sample": False},
    "never ends": {"do_sample": False, "eos_token_id": None},
    "penalty": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    "sampling": {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9},
    "several": {"do_sample": True, "num_return_sequences": 3, "min_p": 0.01},
    "beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.6},
}


@pytest.fixture
def steps(monkeypatch):
    """How many lean steps were taken, as the length of a list."""
    taken: list[int] = []
    step = fast_decoding.StepDecoder.step

    def counted(self, token_ids):
        taken.append(len(token_ids))
        return step(self, token_ids)

    monkeypatch.setattr(fast_decoding.StepDecoder, "step", counted)
    monkeypatch.setattr(fast_decoding, "INITIAL_CAPACITY", 5)  # so that the cache must grow
    return taken


def both_ways(model, monkeypatch, steps, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    """What `generate` writes by lean steps and by transformers' own loop, from the same seed."""
    torch.manual_seed(7)
    fast = model.generate(**kwargs)
    written = fast.shape[1] - (1 if model.config.is_encoder_decoder else kwargs["input_ids"].shape[1])
    assert len(steps) >= written - 1  # the first comes from the prompt; beams go on after the best has ended
    before = len(steps)
    with monkeypatch.context() as patched:
        patched.setattr(fast_generation, "supports_fast_path", lambda *_: False)
        torch.manual_seed(7)
        own = model.generate(**kwargs)
    assert len(steps) == before
    return fast, own


def padded(rows: int = 3, length: int = 8, side: str = "left") -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = torch.randint(3, 99, (rows, length)), torch.ones(rows, length, dtype=torch.long)
    hidden = slice(None, 3) if side == "left" else slice(-3, None)
    ids[1, hidden], mask[1, hidden] = 0, 0
    return ids, mask


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("asked", ASKED)
def test_the_gpt_writes_the_same_tokens(preset, shape, asked, steps, monkeypatch):
    model = tiny_model(preset, **shape).double()
    ids, mask = padded()
    for given in ({"input_ids": ids, "attention_mask": mask}, {"input_ids": ids.clamp(min=3)}):
        steps.clear()
        fast, own = both_ways(model, monkeypatch, steps, max_new_tokens=30, **given, **ASKED[asked])
        assert torch.equal(fast, own)


@pytest.mark.parametrize("asked", ["greedy", "beams"])
def test_in_float32_too(asked, steps, monkeypatch):
    """There, several rows go another way than one."""
    ids, mask = padded()
    for model in (tiny_model("llama"), tiny_seq2seq("vaswani2017")):
        steps.clear()
        given = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 12}
        fast, own = both_ways(model, monkeypatch, steps, **given, **ASKED[asked])
        assert torch.equal(fast, own)


@pytest.mark.parametrize("preset", ["vaswani2017", "modern"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("asked", ASKED)
def test_the_encoder_decoder_writes_the_same_tokens(preset, side, asked, steps, monkeypatch):
    model = tiny_seq2seq(preset).double()
    ids, mask = padded(side=side)
    given = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 30}
    fast, own = both_ways(model, monkeypatch, steps, **given, **ASKED[asked])
    assert torch.equal(fast, own)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_logits_are_the_same(preset, rows, steps):
    """In float32, where several rows go another way than one, and with weights too large to be copied."""
    model = tiny_model(preset, num_key_value_heads=2)
    ids, mask = padded()
    ids, mask = ids[:rows], mask[:rows]
    for copied in (fast_decoding.MAX_FUSED_WEIGHTS, 0):
        with torch.no_grad(), pytest.MonkeyPatch.context() as patched:
            patched.setattr(fast_decoding, "MAX_FUSED_WEIGHTS", copied)
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


@pytest.mark.parametrize("preset", PRESETS)
def test_positions_of_ones_own_go_on(preset, steps, monkeypatch):
    """Rows may stand at different places, and further on than they have tokens."""
    model, ids = tiny_model(preset).double(), torch.randint(3, 99, (2, 4))
    places = torch.tensor([[9, 10, 11, 12], [30, 31, 32, 33]])
    asked = {"do_sample": False, "eos_token_id": None, "max_new_tokens": 12}
    for given in (places, places[:1].expand(2, -1)):
        steps.clear()
        fast, own = both_ways(model, monkeypatch, steps, input_ids=ids, position_ids=given, **asked)
        assert torch.equal(fast, own)


@pytest.mark.parametrize("preset", PRESETS)
def test_half_precision_is_as_near_to_float32_as_the_model_itself(preset, steps):
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


def test_rows_that_end_are_padded_and_strings_stop(story_tokenizer, steps):
    model = tiny_model("gpt2", vocab_size=len(story_tokenizer))
    ids = torch.randint(3, 99, (2, 5))

    def written(**asked):
        torch.manual_seed(3)
        return model.generate(ids, max_new_tokens=20, do_sample=True, **asked)

    plain = written(eos_token_id=None)
    end = int(plain[0, 9])
    stopped = written(eos_token_id=end, pad_token_id=0)
    ends = [int((row[5:] == end).nonzero()[0, 0]) + 6 if (row[5:] == end).any() else 25 for row in plain]
    assert min(ends) < stopped.shape[1] == max(ends)  # one row ends before the other
    for row, whole, length in zip(stopped, plain, ends, strict=True):
        assert torch.equal(row[:length], whole[:length])
        assert (row[length:] == 0).all()
    ids = ids[:1]
    plain = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None)
    word = story_tokenizer.decode(plain[0, 8:9])
    steps.clear()
    asked = {"eos_token_id": None, "stop_strings": [word], "tokenizer": story_tokenizer}
    cut = model.generate(ids, max_new_tokens=20, do_sample=False, **asked)
    assert cut.shape[1] <= 9
    assert torch.equal(cut[0], plain[0, : cut.shape[1]])
    assert len(steps) == cut.shape[1] - 6


def test_a_streamer_is_given_every_token(steps):
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


def test_too_long_for_learned_positions_is_said(steps):
    with pytest.raises(ValueError, match="learned positions for 64"):
        tiny_model("gpt2").generate(torch.randint(3, 99, (1, 60)), max_new_tokens=9, eos_token_id=None)
    assert len(steps) == 5


class Louder(ScratchGPTForCausalLM):
    """Someone's own model."""

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits[..., 5] = 1e4
        return outputs


class Elsewhere(ScratchGPTForCausalLM):
    """Someone's own way of preparing inputs."""

    def prepare_inputs_for_generation(self, *args, **kwargs):
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        return {**inputs, "position_ids": inputs["position_ids"] + 7}


class Trunk(ScratchGPTModel):
    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.last_hidden_state = outputs.last_hidden_state.roll(1, -1)
        return outputs


class Shifted(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


class Louden(LayerNorm):
    def forward(self, x):
        return 2 * super().forward(x) + 1


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, position_ids):
        return 3 * self.inner(position_ids)


def own_class(model):
    return randomise(Louder(model.config)).eval()


def own_inputs(model):
    return randomise(Elsewhere(model.config)).eval()


def own_trunk(model):
    model.model = randomise(Trunk(model.config)).eval()
    return model


def own_layer(model):
    layer = model.model.layers[0].self_attn.q_proj
    model.model.layers[0].self_attn.q_proj = Shifted(layer.in_features, layer.out_features).eval()
    return model


def own_norm(model):
    model.model.norm = Louden(32).eval()
    return model


def own_positions(model):
    model.model.embed_positions = Wrapped(model.model.embed_positions).eval()
    return model


def without_thought(model):
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


CHANGES = [own_class, own_inputs, own_trunk, own_layer, own_norm, own_positions, without_thought, pruned, hooked]
CHANGES += [patched, mixed_precision, flexible, still_dropping, dynamic_rope]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_left_to_transformers(change, steps):
    model, ids = change(tiny_model("gpt2")), torch.randint(3, 99, (1, 6))
    for beams in (1, 2):
        out = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None, num_beams=beams)
        assert out.shape == (1, 11)
    assert not steps


def test_a_hook_on_all_modules_is_seen(steps):
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        tiny_model("llama").generate(torch.randint(3, 99, (1, 6)), max_new_tokens=5, eos_token_id=None)
    finally:
        hook.remove()
    assert not steps


def test_the_shorter_of_two_lengths_counts(steps):
    model, ids = tiny_model("llama"), torch.randint(3, 99, (1, 6))
    criteria = StoppingCriteriaList([MaxLengthCriteria(16), MaxLengthCriteria(9)])
    out = model.generate(ids, do_sample=False, eos_token_id=None, stopping_criteria=criteria, max_new_tokens=20)
    assert out.shape == (1, 9)
    assert len(steps) == 2


def test_the_prompts_cache_is_let_go(steps, monkeypatch):
    """Its keys and values were copied; `generate` holds the empty shell to the end."""
    held, build = [], fast_generation.StepDecoder

    def kept(model, trunk, cache, *args, **kwargs):
        held.append(cache)
        return build(model, trunk, cache, *args, **kwargs)

    monkeypatch.setattr(fast_generation, "StepDecoder", kept)
    tiny_model("llama").generate(torch.randint(3, 99, (1, 6)), max_new_tokens=5, eos_token_id=None)
    assert len(held) == 1
    assert not held[0].layers


@pytest.mark.parametrize(
    "asked",
    [
        {"return_dict_in_generate": True},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache": DynamicCache()},
        {"prompt_lookup_num_tokens": 2},
        {"attention_mask": torch.zeros(1, 6, dtype=torch.long)},
    ],
)
def test_what_is_not_plain_is_left_to_transformers(asked, steps):
    model, ids = tiny_model("llama"), torch.randint(3, 99, (1, 6))
    model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None, **asked)
    assert not steps


def test_under_autocast_it_is_left_to_transformers(steps):
    with torch.autocast("cpu", torch.bfloat16):
        tiny_model("llama").generate(torch.randint(3, 99, (1, 6)), max_new_tokens=5, eos_token_id=None)
    assert not steps


def test_recorded_outputs_do_not_stop_the_lean_step(steps):
    """transformers hooks every block once hidden states were asked for; that changes nothing here."""
    model, ids = tiny_model("llama"), torch.randint(3, 99, (1, 6))
    model(ids, output_hidden_states=True)
    model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert len(steps) == 4
