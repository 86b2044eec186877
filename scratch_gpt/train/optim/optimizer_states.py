"""States of optimizers by the names of their parameters, which other numbers of processes and of shards have too."""

from __future__ import annotations

from typing import Any

import torch

Optimizers = list[torch.optim.Optimizer]


def named_states(
    model: torch.nn.Module, optimizers: Optimizers
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The states of optimizers over the parameters of a model: tensors by "PARAMETER.KEY", not copied, and parameter
    groups with the names of their parameters."""
    tensors: dict[str, torch.Tensor] = {}
    groups: list[dict[str, Any]] = []
    for optimizer in optimizers:
        names, state = _names(model, optimizer), optimizer.state_dict()
        tensors |= {f"{names[i]}.{key}": value for i, kept in state["state"].items() for key, value in kept.items()}
        groups += [{**group, "params": [names[i] for i in group["params"]]} for group in state["param_groups"]]
    return tensors, groups


def load_named_states(
    model: torch.nn.Module, optimizers: Optimizers, tensors: dict[str, torch.Tensor], groups: list[dict[str, Any]]
) -> None:
    """Restore what `named_states` returned.

    Args:
        model, optimizers: as of `named_states`.
        tensors: by "PARAMETER.KEY"; those of the shape of their parameter must be sharded as it is.
        groups: parameter groups.

    Raises:
        ValueError: the parameters are grouped in another way.
    """
    states: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, key = name.rsplit(".", 1)
        states.setdefault(parameter, {})[key] = tensor
    remaining = iter(groups)
    for optimizer in optimizers:
        names = _names(model, optimizer)
        numbers = {name: i for i, name in enumerate(names)}
        loaded = []
        for group in optimizer.state_dict()["param_groups"]:
            saved = next(remaining, {"params": None})
            if saved["params"] != [names[i] for i in group["params"]]:
                raise ValueError("its optimizers have other groups of parameters")
            loaded.append({**saved, "params": group["params"]})
        state = {numbers[name]: kept for name, kept in states.items() if name in numbers}
        optimizer.load_state_dict({"state": state, "param_groups": loaded})


def _names(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of an optimizer's parameters, in the order in which it numbers them."""
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return [by_id[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
