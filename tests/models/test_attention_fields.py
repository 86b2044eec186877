"""Windows and soft-capped scores in every attention function and every cache of transformers; what a function or cache
does not support is refused."""

import pytest
import torch
from helpers.models import lift_norms, small_paged_cache, tiny_model
from huggingface_hub.errors import StrictDataclassError
from test_decoding_fields import EXPERTS, MIXED, STYLES, WINDOW, build
from torch import nn
from transformers import GenerationConfig

from scratch_gpt import ScratchGPTForCausalLM
from scratch_gpt.models.attention import ScratchAttention
from scratch_gpt.models.compatibility import RELEASE
from scratch_gpt.train.performance.attention_choice import choose_attention
from scratch_gpt.train.performance.blockwise_attention import BLOCKWISE, blockwise_attention_forward

WINDOWED = [style for style, (_, fields) in STYLES.items() if "sliding_window" in fields]
CAPPED = [style for style, (_, fields) in STYLES.items() if "attn_logit_softcapping" in fields]
GREEDY = {"max_new_tokens": 15, "do_sample": False, "eos_token_id": None}


def greedy_loop(model, x: torch.Tensor, steps: int) -> torch.Tensor:
    """Greedy decoding without cache or `generate`."""
    for _ in range(steps):
        x = torch.cat([x, model(x).logits[:, -1:].argmax(-1)], 1)
    return x


def window_mask(length: int, window: int | None) -> torch.Tensor:
    """The definition: a token attends to itself and to the window - 1 tokens before it. A boolean mask (T, T)."""
    rows, columns = torch.arange(length)[:, None], torch.arange(length)
    return (columns <= rows) & (columns > rows - (window or length))


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", "sdpa", BLOCKWISE])
@pytest.mark.parametrize("style", ["window", "some windows", "gemma3", "large window", "window, learned positions"])
def test_windows_follow_the_definition(style, implementation):
    """Without padding, with left padding and with packed documents, against masks that are written down here."""
    torch.manual_seed(0)
    model, x = build(style), torch.randint(3, 99, (2, 18))
    model.set_attn_implementation(implementation)
    positions = torch.cat((torch.arange(10), torch.arange(8))).expand(2, -1)
    padding = torch.ones_like(x)
    padding[1, :7] = 0
    documents = torch.arange(18) // 10
    found = {
        "plain": model(x).logits,
        "padded": model(x, attention_mask=padding).logits * padding[..., None],
        "packed": model(x, position_ids=positions, use_cache=False).logits,
    }
    visible = {
        "plain": torch.ones(2, 18, 18, dtype=torch.bool),
        "padded": padding.bool()[:, None].expand(-1, 18, -1) | torch.eye(18, dtype=torch.bool),
        "packed": (documents[:, None] == documents).expand(2, -1, -1),
    }
    model.set_attn_implementation("eager")
    for name, logits in found.items():
        masks = {
            kind: torch.where(visible[name] & window_mask(18, window), 0.0, torch.finfo(torch.float32).min)[:, None]
            for kind, window in (("full_attention", None), ("sliding_attention", model.config.sliding_window))
        }
        ids = {"plain": None, "padded": (padding.cumsum(-1) - 1).clamp(min=0), "packed": positions}[name]
        expected = model(x, attention_mask=masks, position_ids=ids).logits
        if name == "padded":
            expected = expected * padding[..., None]
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()  # flex attention has no backward on a CPU
@pytest.mark.parametrize("style", ["some windows", "gemma2"])
def test_flex_attention_has_windows_and_caps(style):
    torch.manual_seed(0)
    model, x = build(style), torch.randint(3, 99, (2, 18))
    model.set_attn_implementation("eager")
    expected = model(x).logits
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(model(x).logits, expected, atol=2e-5, rtol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_static_cache_generates_the_same_text(style):
    torch.manual_seed(0)
    model, x = build(style), torch.randint(3, 99, (2, WINDOW + 2))
    expected = greedy_loop(model, x, 15)
    assert torch.equal(model.generate(x, **GREEDY, cache_implementation="static"), expected)
    assert torch.equal(model.generate(x, **GREEDY, prefill_chunk_size=3), expected)


@pytest.mark.skipif(
    RELEASE < (5, 13), reason="prompt lookup of transformers before 5.13 needs an end-of-sequence token"
)
@pytest.mark.parametrize("style", WINDOWED)
@torch.no_grad()
def test_prompt_lookup_generates_the_same_text(style):
    """It discards tokens from the cache that were guessed wrongly."""
    torch.manual_seed(0)
    model, x = build(style), torch.randint(3, 99, (1, 6)).repeat(1, 2)
    assert torch.equal(model.generate(x, **GREEDY, prompt_lookup_num_tokens=3), greedy_loop(model, x, 15))


def test_static_cache_of_windows_alone_can_not_hold_n_grams():
    model = tiny_model("nanochat_ngram", sliding_window=WINDOW)
    x = torch.randint(3, 99, (1, 6))
    assert torch.equal(model.generate(x, **GREEDY), greedy_loop(model, x, 15))
    with pytest.raises(ValueError, match="a static cache needs a layer with full attention"):
        model.generate(x, **GREEDY, cache_implementation="static")


@pytest.mark.slow
@pytest.mark.skipif(RELEASE < (5, 9), reason="continuous batching of transformers before 5.9 fails on a CPU")
@pytest.mark.parametrize("style", ["window, learned positions", "gemma3", "mixtral"])
def test_continuous_batching_generates_the_same_texts(style):
    torch.manual_seed(0)
    model = build(style)
    inputs = [torch.randint(3, 99, (n,)).tolist() for n in (3, 8, 25)]
    settings = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=98, pad_token_id=0)
    results = model.generate_batch(inputs=inputs, generation_config=settings, **small_paged_cache())
    for tokens, result in zip(inputs, results.values(), strict=True):
        expected = model.generate(torch.tensor([tokens]), generation_config=settings)[0, len(tokens) :]
        assert result.generated_tokens == expected.tolist()


def test_a_window_of_one_token_is_refused():
    """transformers' cache would keep all tokens, and its loop give other tokens than the full forward pass."""
    with pytest.raises(StrictDataclassError, match="sliding_window is 1, want at least 2"):
        tiny_model("llama", sliding_window=1)


class Paged:
    """The cache of continuous batching is none of transformers' `Cache` classes."""

    def get_seq_length(self) -> int:
        return 0


def test_attention_that_does_not_cap_scores_is_refused():
    model = build("soft-cap")
    assert model.config._attn_implementation == "eager"
    for name in ("sdpa", BLOCKWISE, "paged|eager", "paged|sdpa"):
        with pytest.raises(ValueError, match=r"attn_logit_softcapping is 0.7, and attention '.*' does not cap scores"):
            model.set_attn_implementation(name)
    assert model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="attention 'sdpa' does not cap scores"):
        ScratchGPTForCausalLM._from_config(model.config, attn_implementation="sdpa")
    with pytest.raises(ValueError, match="caps attention scores, which continuous batching does not"):
        model(torch.randint(3, 99, (1, 6)), cache=Paged())
    tensors = [torch.randn(1, 4, 6, 8) for _ in range(3)]
    with pytest.raises(ValueError, match="blockwise attention does not support soft-capped scores"):
        blockwise_attention_forward(nn.Module(), *tensors, None, scaling=1.0, softcap=2.0)


@pytest.mark.parametrize("same_length", [True, False])
@pytest.mark.parametrize("longest", [32, 300])
def test_training_of_soft_capped_scores_uses_eager_attention(longest, same_length):
    model = build("gemma2")
    choose_attention(model, torch.device("cpu"), longest, same_length)
    assert model.config._attn_implementation == "eager"


def test_eager_attention_caps_scores_before_the_mask():
    """The definition: softmax(c tanh(scores / c) + mask) V (Gemma 2, arXiv:2408.00118)."""
    torch.manual_seed(0)
    model = build("soft-cap")
    attention, x = model.model.layers[0].self_attn, torch.randn(1, 6, 32)
    assert isinstance(attention, ScratchAttention)
    mask = torch.zeros(6, 6).masked_fill(~window_mask(6, None), float("-inf"))
    query, key, value = (p(x).unflatten(-1, (-1, 8)).transpose(1, 2) for p in projections(attention))
    key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    scores = 0.7 * torch.tanh(query @ key.mT / 8**0.5 / 0.7)
    expected = attention.o_proj(((scores + mask).softmax(-1) @ value).transpose(1, 2).flatten(2))
    found, weights = attention(x, attention_mask=mask)
    torch.testing.assert_close(found, expected)
    assert scores.abs().max() > 0.5
    torch.testing.assert_close(weights, (scores + mask).softmax(-1))


def projections(attention: ScratchAttention) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The projections to queries, keys and values."""
    return attention.q_proj, attention.k_proj, attention.v_proj


@torch.no_grad()
def test_float64_with_left_padding_is_not_nan():
    """In float32, the lowest float64 is -inf, and the softmax of a padding token would be NaN."""
    model, x = lift_norms(tiny_model("llama")).double(), torch.randint(3, 99, (2, 8))
    mask = torch.ones_like(x)
    mask[1, :4] = 0
    model.set_attn_implementation("eager")
    eager = model(x, attention_mask=mask).logits
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(eager[:, 4:], model(x, attention_mask=mask).logits[:, 4:])


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, MIXED, EXPERTS, {"norm_position": "sandwich"}, {"parallel_residual": True}])
def test_forward_compiles_as_one_graph(fields):
    torch.manual_seed(0)
    model, x = lift_norms(tiny_model("llama", num_key_value_heads=2, **fields)), torch.randint(3, 99, (2, 9))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, use_cache=False).logits, model(x, use_cache=False).logits)
    torch.compiler.reset()
