"""The parts of the lean step: the same functions as the modules whose place they take."""

import platform

import pytest
import torch
from torch import nn

from scratch_gpt.models import fast_decoding
from scratch_gpt.models.normalization import RMSNorm


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-3, 1.0, 1e4])
def test_the_lean_norm_is_the_norm(weighted, size):
    norm, x = RMSNorm(64, elementwise_affine=weighted), size * torch.randn(3, 64)
    for weight in norm.parameters():
        torch.nn.init.normal_(weight)
    torch.testing.assert_close(fast_decoding.functional_norm(norm, x)(x), norm(x))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("size", [(12, 8), (14, 8), (7, 8), (67, 8)])
@pytest.mark.parametrize("biased", [True, False])
def test_cores_share_a_product(rows, size, biased, monkeypatch):
    """Where the library would leave it to one; a matrix that can't be cut evenly stays whole."""
    taken, of_blocks = [], fast_decoding.product_of_blocks
    monkeypatch.setattr(fast_decoding, "product_of_blocks", lambda *given: taken.append(given[2]) or of_blocks(*given))
    monkeypatch.setattr(fast_decoding, "processor_name", lambda: "AMD EPYC")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    layer, x = nn.Linear(*reversed(size), bias=biased), torch.randn(rows, size[1])
    assert fast_decoding.num_row_blocks(layer.weight) == 1  # too small
    monkeypatch.setattr(fast_decoding, "SHARED_WEIGHTS", 1)
    count = {12: 4, 14: 7, 7: 7, 67: 67}[size[0]]
    assert fast_decoding.num_row_blocks(layer.weight) == count
    with torch.no_grad():
        torch.testing.assert_close(fast_decoding.linear(layer)(x), layer(x))
    assert taken == [count]
    assert fast_decoding.num_row_blocks(layer.weight.bfloat16()) == 1
    assert fast_decoding.num_row_blocks(nn.Linear(8, 73).weight) == 1  # can't be cut evenly
    monkeypatch.setattr(fast_decoding, "processor_name", lambda: "Intel(R) Xeon(R)")
    assert fast_decoding.num_row_blocks(layer.weight) == 1


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not hasattr(torch.cpu, "get_capabilities"),
    reason="the name tells AMD's processors apart, and older releases of torch do not say it",
)
def test_torch_knows_the_processors_name():
    assert fast_decoding.processor_name()
