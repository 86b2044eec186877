"""Initial weights have the standard deviations of the config."""

import pytest
import torch
from helpers.models import tiny_config, tiny_encoder, tiny_seq2seq
from torch import nn

from scratch_gpt import ScratchEncoderForMaskedLM, ScratchGPTForCausalLM, ScratchSeq2SeqForConditionalGeneration
from scratch_gpt.models.feed_forward import OutputProjection
from scratch_gpt.models.token_weights import TokenWeights

LAYERS = 3
FAMILIES = {
    "gpt": lambda **fields: ScratchGPTForCausalLM(tiny_config("llama", num_hidden_layers=LAYERS, **fields)),
    "encoder": lambda **fields: ScratchEncoderForMaskedLM(
        tiny_encoder(ScratchEncoderForMaskedLM, "bert", num_hidden_layers=LAYERS, **fields).config
    ),
    "seq2seq": lambda **fields: ScratchSeq2SeqForConditionalGeneration(
        tiny_seq2seq("vaswani2017", decoder_layers=LAYERS, **fields).config
    ),
}
# Residual branches before the head: attention and feed-forward per block, and cross-attention in a seq2seq decoder.
BRANCHES = {"gpt": 2 * LAYERS, "encoder": 2 * LAYERS, "seq2seq": 3 * LAYERS}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", ["normal", "scaled", "zero"])
def test_output_projections_are_initialized_as_in_the_config(family, choice):
    """ "scaled" is GPT-2's: the standard deviation divided by the square root of the number of residual branches."""
    torch.manual_seed(0)
    model = FAMILIES[family](output_projection_init=choice, hidden_size=96, initializer_range=0.05)
    last = [module.weight for module in model.modules() if isinstance(module, OutputProjection)]
    assert len(last) >= BRANCHES[family]
    expected = {"normal": 0.05, "scaled": 0.05 * BRANCHES[family] ** -0.5, "zero": 0.0}[choice]
    for weight in last:
        assert weight.std().item() == pytest.approx(expected, rel=0.05)
        assert weight.mean().item() == pytest.approx(0, abs=0.003)
    others = [m for m in model.modules() if type(m) is nn.Linear and m.weight.shape[0] >= 96]
    assert others
    assert all(m.weight.std().item() == pytest.approx(0.05, rel=0.05) for m in others)


def test_token_weights_missing_from_a_checkpoint_are_initialized(tmp_path):
    """1 for each token, 0 for padding, and 1 for each n-gram, and not uninitialized memory."""
    shape = {"num_hidden_layers": 0, "pad_token_id": 0, "ngram_sizes": [2], "ngram_buckets": 64}
    tiny_encoder(ScratchEncoderForMaskedLM, "fasttext", token_weights=False, **shape).save_pretrained(tmp_path)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills uninitialized memory with NaN
    try:
        model = ScratchEncoderForMaskedLM.from_pretrained(tmp_path, token_weights=True)
    finally:
        torch.use_deterministic_algorithms(False)
    (weights,) = [module for module in model.modules() if isinstance(module, TokenWeights)]
    assert weights.tokens.tolist() == [0.0] + [1.0] * (model.config.vocab_size - 1)
    assert weights.ngrams.tolist() == [[1.0] * 64]
