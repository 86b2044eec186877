"""Muon: equal to torch.optim.Muon, in a dtype that the device supports natively."""

import pytest
import torch

from scratch_gpt.train.optim import muon
from scratch_gpt.train.optim.muon import Muon


def test_muon_equals_torch_muon():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 8), (16, 8), (8, 24), (8, 8), (16, 8))]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    optimizers = (
        Muon(ours, lr=0.02, weight_decay=0.1, bf16=True),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        for our_parameter, their_parameter in zip(ours, theirs, strict=True):
            our_parameter.grad = torch.randn_like(our_parameter)
            their_parameter.grad = our_parameter.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for our_parameter, their_parameter in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_parameter, their_parameter, atol=1e-6, rtol=1e-5)


def test_each_expert_is_orthogonalised_by_itself():
    """A stack of matrices is updated as torch.optim.Muon updates its matrices as parameters of their own."""
    torch.manual_seed(0)
    stacks = [torch.nn.Parameter(torch.randn(shape)) for shape in ((4, 16, 8), (4, 8, 12), (4, 16, 8))]
    matrices = [torch.nn.Parameter(matrix.detach().clone()) for stack in stacks for matrix in stack]
    optimizers = (
        Muon(stacks, lr=0.02, weight_decay=0.1, bf16=True),
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        for stack in stacks:
            stack.grad = torch.randn_like(stack)
        for matrix, gradient in zip(matrices, (g for stack in stacks for g in stack.grad), strict=True):
            matrix.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    for found, expected in zip((m for stack in stacks for m in stack), matrices, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_muon_has_the_defaults_of_torch_muon():
    """Except the learning rate, which is scaled to match AdamW's here."""
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    ours, theirs = Muon([parameter]).defaults, torch.optim.Muon([parameter]).defaults
    names = ours.keys() - {"lr", "bf16"}
    assert names == {"weight_decay", "momentum", "ns_steps"}
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}


def test_precision_of_the_iteration_is_saved():
    """A resumed run goes on with it, wherever it is resumed."""
    parameter = torch.nn.Parameter(torch.randn(4, 4))
    state, other = Muon([parameter], bf16=True).state_dict(), Muon([parameter])
    other.load_state_dict(state)
    assert other.param_groups[0]["bf16"] is True


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(2, 16, 16), (3, 24, 8), (1, 8, 24)])
def test_orthogonalize_gives_nearly_orthogonal_matrices(dtype, shape):
    """Singular values that are not tiny end up between 0.7 and 1.2, and singular vectors are unchanged."""
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(1.0, 0.1, u.shape[-1])
    result = muon.orthogonalize(u * values @ vh, steps=5, dtype=dtype).float()
    found = torch.diagonal(u.mT @ result @ vh.mT, dim1=-2, dim2=-1)
    assert 0.65 < found.min() < found.max() < 1.25
    torch.testing.assert_close(u * found[:, None] @ vh, result, atol=5e-6 if dtype == torch.float32 else 2e-2, rtol=0)
