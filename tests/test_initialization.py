"""Fresh weights: the standard deviations that the configs promise."""

import pytest
import torch
from conftest import tiny_config, tiny_encoder, tiny_seq2seq
from torch import nn

from scratch_gpt import ScratchEncoderForMaskedLM, ScratchGPTForCausalLM, ScratchSeq2SeqForConditionalGeneration
from scratch_gpt.models.feed_forward import OutputProjection

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
# Branches on the way to the head: attention and feed-forward of each block, in a decoder with a source a third one.
BRANCHES = {"gpt": 2 * LAYERS, "encoder": 2 * LAYERS, "seq2seq": 3 * LAYERS}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", ["normal", "scaled", "zero"])
def test_the_last_matrix_of_each_branch_begins_as_its_config_says(family, choice):
    """ "scaled" is GPT-2's: the standard deviation over the root of the number of branches that are added up."""
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
