"""Gradients of uncompiled training on a CPU: those that torch computes operation by operation."""

import pytest
import torch
from torch.nn import functional as F

from scratch_gpt.models import cpu_gradients, positions
from scratch_gpt.models.cpu_gradients import has_cpu_gradients, rms_norm, rotate
from scratch_gpt.models.normalization import RMSNorm

DTYPES = [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)]


def gradients(function, inputs, grad):
    """The result of a function and its gradients with respect to its inputs."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*inputs)
    return [output, *torch.autograd.grad(output, inputs, grad.to(output.dtype))]


def difference(found, wanted):
    """The largest difference, relative to the largest value."""
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(found, wanted, strict=True))


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch):
    monkeypatch.setattr(cpu_gradients, "MIN_ELEMENTS", 1)


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("has_weight", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_a_norm_has_the_gradients_of_its_formula(dtype, tolerance, has_weight, layout):
    torch.manual_seed(0)
    x, grad = torch.randn(2, 5, 3, 48) * 3 + 1, torch.randn(2, 5, 3, 48)
    if layout == "transposed":
        x, grad = x.transpose(1, 2), grad.transpose(1, 2)
    weight = [torch.randn(48)] if has_weight else []
    inputs = [tensor.to(dtype) for tensor in (x, *weight)]
    found = gradients(lambda x, w=None: rms_norm(x, w, 1e-6), inputs, grad.to(dtype))
    in_float64 = [tensor.double() for tensor in inputs]
    wanted = gradients(lambda x, w=None: F.rms_norm(x, (48,), w, 1e-6), in_float64, grad.to(dtype).double())
    assert difference(found, wanted) < tolerance


def cos_sin(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `RotaryEmbedding` returns, (..., R), for angles (..., R/2)."""
    return torch.cat((angles.cos(), angles.cos()), dim=-1), torch.cat((-angles.sin(), angles.sin()), dim=-1)


@pytest.mark.parametrize("rotated", [16, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_a_rotation_has_the_gradients_of_its_formula(dtype, tolerance, rotated):
    torch.manual_seed(0)
    x, grad = torch.randn(2, 5, 3, 16).transpose(1, 2).to(dtype), torch.randn(2, 3, 5, 16)
    angles = torch.randn(2, 5, rotated // 2)
    found = gradients(lambda x: rotate(x, *cos_sin(angles)), [x], grad)
    assert found[0].dtype == torch.float32  # as of the product of 16 bits with angles of 32
    angles = angles.double()  # for which `apply_rotary` is differentiated by torch
    wanted = gradients(lambda x: positions.apply_rotary(x, *cos_sin(angles)), [x.double()], grad.double())
    assert difference(found, wanted) < tolerance


def test_second_derivatives_are_computed():
    torch.manual_seed(0)
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 8), (8,)))
    assert torch.autograd.gradgradcheck(lambda x, weight: rms_norm(x, weight, 1e-6), (x, weight))
    angles = torch.randn(1, 3, 2, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda x: rotate(x[None, None], *cos_sin(angles)), (x,))


def test_gradients_of_each_example_are_computed_by_torch_func(monkeypatch):
    torch.manual_seed(0)
    norm, batch, angles = RMSNorm(16), torch.randn(4, 2, 3, 16), torch.randn(1, 3, 8)

    def loss(weight, x):
        y = torch.func.functional_call(norm, {"weight": weight}, (x,))
        return positions.apply_rotary(y[None], *cos_sin(angles)).pow(3).sum()

    per_example = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
    found = per_example(norm.weight.detach(), batch)
    monkeypatch.setattr(cpu_gradients, "has_cpu_gradients", lambda x: False)
    wanted = torch.stack([torch.autograd.grad(loss(norm.weight, x), norm.weight)[0] for x in batch])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_they_are_used_in_training_only():
    x = torch.randn(2, 8, requires_grad=True)
    assert has_cpu_gradients(x)
    assert not has_cpu_gradients(x.detach())
    assert not has_cpu_gradients(x.double())
    assert not has_cpu_gradients(x.to("meta"))
    assert "_RMSNorm" in RMSNorm(8)(x).grad_fn.name()
    with torch.no_grad():
        assert not has_cpu_gradients(x)
    assert torch.compile(has_cpu_gradients, backend="eager")(x) is False
