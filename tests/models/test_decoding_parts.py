"""The parts of a fast decoding step compute the same functions as the modules that they replace."""

import platform

import pytest
import torch
from torch import nn

from scratch_gpt.models import functional_layers
from scratch_gpt.models.normalization import RMSNorm


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-3, 1.0, 1e4])
def test_functional_norm_equals_the_module(weighted, size):
    norm, x = RMSNorm(64, elementwise_affine=weighted), size * torch.randn(3, 64)
    for weight in norm.parameters():
        torch.nn.init.normal_(weight)
    torch.testing.assert_close(functional_layers.functional_norm(norm, x)(x), norm(x))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("size", [(12, 8), (14, 8), (7, 8), (67, 8)])
@pytest.mark.parametrize("biased", [True, False])
def test_matmul_is_split_into_blocks_for_all_cores(rows, size, biased, monkeypatch):
    """On AMD processors, where MKL uses one core; a matrix that can't be split evenly is not split."""
    counts, row_block_matmul = [], functional_layers.row_block_matmul
    monkeypatch.setattr(
        functional_layers, "row_block_matmul", lambda *args: counts.append(args[2]) or row_block_matmul(*args)
    )
    monkeypatch.setattr(functional_layers, "processor_name", lambda: "AMD EPYC")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    layer, x = nn.Linear(*reversed(size), bias=biased), torch.randn(rows, size[1])
    assert functional_layers.num_row_blocks(layer.weight) == 1  # too small
    monkeypatch.setattr(functional_layers, "MIN_SPLIT_WEIGHTS", 1)
    count = {12: 4, 14: 7, 7: 7, 67: 67}[size[0]]
    assert functional_layers.num_row_blocks(layer.weight) == count
    with torch.no_grad():
        torch.testing.assert_close(functional_layers.functional_linear(layer)(x), layer(x))
    assert counts == [count]
    assert functional_layers.num_row_blocks(layer.weight.bfloat16()) == 1
    assert functional_layers.num_row_blocks(nn.Linear(8, 73).weight) == 1  # can't be split evenly
    monkeypatch.setattr(functional_layers, "processor_name", lambda: "Intel(R) Xeon(R)")
    assert functional_layers.num_row_blocks(layer.weight) == 1


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not hasattr(torch.cpu, "get_capabilities"),
    reason="the name of the CPU identifies AMD processors; older releases of torch do not report it",
)
def test_processor_name_is_reported():
    assert functional_layers.processor_name()
