"""Assignment of parameters to optimizers."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from ..arguments.default_rates import with_default_rates
from ..arguments.training import TrainingArguments
from ..performance.precision import model_width, prefers_bf16
from .muon import Muon


def parameter_groups(model: PreTrainedModel) -> dict[str, list[nn.Parameter]]:
    """Group the trainable parameters: "matrices" of the blocks (with those of routers, and the stacks of experts),
    "embeddings" (and the matrices of the head and of a pooler), and "vectors" (norms and biases).

    Every trainable parameter is in exactly one group.
    """
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    pooler = getattr(model.base_model, "pooler", None)  # part of the head, although in the trunk
    heads = set() if pooler is None else {id(p) for p in pooler.parameters()}
    trunk = {id(p) for p in model.base_model.parameters()} - tables - heads
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "embeddings": [], "vectors": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = "vectors" if parameter.ndim < 2 else "matrices" if id(parameter) in trunk else "embeddings"
            groups[kind].append(parameter)
    assert sum(map(len, groups.values())) == len({id(p) for p in model.parameters() if p.requires_grad})
    return groups


def muon_uses_bf16(model: PreTrainedModel) -> bool:
    """Whether Muon orthogonalizes the matrices of a model in bfloat16: if its device computes them faster so."""
    return prefers_bf16(model.device, model_width(model.config))


def build_optimizers(model: PreTrainedModel, args: TrainingArguments) -> list[torch.optim.Optimizer]:
    """Build AdamW for all parameters, or Muon (Jordan 2024, kellerjordan.github.io/posts/muon) for the matrices of the
    blocks and AdamW for the rest.

    Weight decay applies to the matrices of the blocks only. Rates that are not given are those of a new model (see
    `with_default_rates`).
    """
    args, _ = with_default_rates(args)
    assert args.learning_rate is not None
    assert args.muon_learning_rate is not None
    groups = parameter_groups(model)
    plain = groups["embeddings"] + groups["vectors"]
    decayed = {"params": groups["matrices"], "weight_decay": args.weight_decay}
    optimizers: list[torch.optim.Optimizer] = []
    adam_groups = [{"params": plain, "weight_decay": 0.0}]
    if args.optimizer == "muon" and groups["matrices"]:
        optimizers.append(Muon([decayed], lr=args.muon_learning_rate, bf16=muon_uses_bf16(model)))
    elif groups["matrices"]:
        adam_groups.append(decayed)
    betas = (args.adam_beta1, args.adam_beta2)
    optimizers.append(torch.optim.AdamW(adam_groups, lr=args.learning_rate, betas=betas, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers
