"""The state of a run: taken from the live objects of training, and restored into them.

Optimizer states and averages are named by parameter, independently of the number of processes and of sharding.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from ...hub.model_directory import ToPublished
from ...hub.tensor_files import ALONE, TensorFiles, Writers, first_of_tied, like
from ...untrusted import read_json
from ..optim.ema import MovingAverage
from ..optim.optimizer_states import Optimizers, load_named_states, named_states
from .background_writer import in_memory
from .random_state import get_random_state, set_random_state

TENSORS, NUMBERS = "training_state", "training_state.json"  # beginning of the files of tensors, and file of numbers
MAX_NUMBERS = 64 << 20  # bytes; the random state of a process takes 20 KB
OPTIMIZER = "optimizer."  # prefix of the states of optimizers
UNPUBLISHED = "unpublished."  # prefix of trained weights that are not in the model directory


@dataclass
class Snapshot:
    """The state of a run. Its tensors are those of training, so it must be written before training goes on, unless
    `copied` has copied it. With sharded weights, each process has its own rows of them, and all of them write it.

    Attributes:
        step: optimizer steps taken.
        weights: weights of the published model, by name.
        tensors: contents of the files of tensors.
        numbers: contents of `training_state.json`.
        writers: the processes that write it.
    """

    step: int
    weights: dict[str, torch.Tensor]
    tensors: dict[str, torch.Tensor]
    numbers: dict[str, Any]
    writers: Writers = ALONE

    @property
    def num_bytes(self) -> int:
        """Size of the tensors, of all processes together."""
        return sum(tensor.nbytes for part in (self.weights, self.tensors) for tensor in part.values())

    def copied(self) -> Snapshot:
        """The same with copies of the tensors in CPU memory."""
        return replace(self, weights=in_memory(self.weights), tensors=in_memory(self.tensors))

    @property
    def unpublished(self) -> dict[str, torch.Tensor]:
        """The trained weights that are not in the model directory, by name."""
        return {n.removeprefix(UNPUBLISHED): t for n, t in self.tensors.items() if n.startswith(UNPUBLISHED)}


def trained_weights(accelerator: Accelerator, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trained weights and the saved buffers of the prepared model, by name, not copied; tied weights are one
    object."""
    return dict(unwrapped(accelerator, model).state_dict(keep_vars=True))


@torch.no_grad()
def take_snapshot(
    step: int,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizers: Optimizers,
    numbers: dict[str, Any],
    published: ToPublished,
    average: MovingAverage | None = None,
) -> Snapshot:
    """Take the state of a run; every process must call it.

    Args:
        step: optimizer steps taken.
        accelerator: processes and device.
        model: the prepared model.
        optimizers: over its parameters.
        numbers: counters of the loop and the task, which JSON can hold.
        published: returns the weights of the model directory from the trained ones; the remaining weights are saved
            beside it.
        average: moving average of the weights, saved there too.

    Returns:
        The state; without sharding, an empty one on processes other than the first.
    """
    random_states = gather_object([get_random_state(accelerator.device)])
    sharded = accelerator.distributed_type == DistributedType.FSDP
    if not (sharded or accelerator.is_main_process):
        return Snapshot(step, {}, {}, {})
    trained = trained_weights(accelerator, model)
    weights = first_of_tied(published(trained))
    moments, groups = named_states(unwrapped(accelerator, model), _unwrapped_optimizers(optimizers))
    tensors = {f"{OPTIMIZER}{name}": tensor for name, tensor in moments.items()}
    unpublished = {f"{UNPUBLISHED}{name}": weight for name, weight in trained.items() if name not in published(trained)}
    tensors |= first_of_tied(unpublished)
    if average is not None:
        names = (name for name, _ in unwrapped(accelerator, model).named_parameters())
        tensors |= {f"average.{name}": mean for name, mean in zip(names, average.means, strict=True)}
    for process, (_, generators) in enumerate(random_states):
        tensors |= {f"random.{process}.{i}": generator for i, generator in enumerate(generators)}
    states = [state for state, _ in random_states]
    numbers = copy.deepcopy({"step": step, **numbers, "param_groups": groups, "random": states})
    writers = Writers(accelerator.process_index, accelerator.num_processes) if sharded else ALONE
    return Snapshot(step, weights, tensors, numbers, writers)


@torch.no_grad()
def load_training_state(
    folder: Path,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizers: Optimizers,
    average: MovingAverage | None = None,
) -> dict[str, Any]:
    """Restore optimizers, random generators, the moving average and the weights that are not in the model directory;
    the weights of the model directory are loaded with the model. If weights are sharded, a process keeps its rows of
    each tensor, and has one whole tensor at a time.

    Args:
        folder: directory of the checkpoint.
        accelerator: processes and device.
        model: the prepared model.
        optimizers: over its parameters.
        average: moving average of the weights.

    Returns:
        The `numbers` that `take_snapshot` was called with.
    """
    numbers = read_json(folder / NUMBERS, MAX_NUMBERS)
    own = unwrapped(accelerator, model)
    trained, parameters = trained_weights(accelerator, model), dict(own.named_parameters())
    with TensorFiles(folder, TENSORS) as tensors:
        moments = {}
        for name, tensor in tensors.starting_with(OPTIMIZER):
            parameter = parameters[name.rsplit(".", 1)[0]]
            moments[name] = like(tensor, parameter) if tensor.shape == parameter.shape else tensor
        load_named_states(own, _unwrapped_optimizers(optimizers), moments, numbers.pop("param_groups"))
        for name, weight in tensors.starting_with(UNPUBLISHED):
            trained[name].copy_(like(weight, trained[name]))
        if average is not None:
            means = dict(tensors.starting_with("average."))
            for name, mean in zip(parameters, average.means, strict=True):
                mean.copy_(like(means[name], mean))
        states, process = numbers.pop("random"), accelerator.process_index
        if len(states) == accelerator.num_processes:  # else the generators keep their seed
            mine = dict(tensors.starting_with(f"random.{process}."))
            set_random_state(states[process], [mine[name] for name in sorted(mine, key=int)], accelerator.device)
    return numbers


def unwrapped(accelerator: Accelerator, model: torch.nn.Module) -> PreTrainedModel:
    """The model without the wrappers of distributed training; that of mixed precision is kept."""
    return accelerator.unwrap_model(model, keep_fp32_wrapper=True)


def _unwrapped_optimizers(optimizers: Optimizers) -> Optimizers:
    return [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
