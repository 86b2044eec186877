"""Estimate a training run on named accelerators before it starts: memory and traffic of each, speed, checkpoints, cost.

This is arithmetic on the sizes of a model (`model_shape`) and on data sheets (`accelerators`). Nothing is measured: the
speed follows from an assumed fraction of the peak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import ScratchError
from ..tasks.language_modeling.arguments import PretrainingArguments
from .accelerators import MFU, Accelerator
from .model_shape import Shape
from .this_machine import BYTES, WORKSPACE

USABLE = 0.9  # fraction of the memory of a device; the rest is for its context, libraries and communication buffers
NETWORK = 50e9  # bytes per second, device and direction between machines: 400 Gbit/s per device, as in HGX machines
DISK = 1e9  # bytes per second at which a checkpoint is written
HOUR = 3600  # seconds
MUON_STEPS = 5  # iterations of Muon for each matrix


@dataclass(frozen=True)
class Cluster:
    """Devices of a run, and how the model is divided among them.

    Attributes:
        device: kind of all devices.
        devices: number of them, on all machines together.
        machines: number of machines, each with as many devices.
        shard: whether weights, gradients and optimizer states are sharded (FSDP2).
        replicas: number of copies of the model, if sharded (hybrid sharding).
        network: bytes per second, device and direction between machines.
    """

    device: Accelerator
    devices: int = 1
    machines: int = 1
    shard: bool = False
    replicas: int = 1
    network: float = NETWORK

    def __post_init__(self) -> None:
        wrong = []
        if self.machines > self.devices or self.devices % self.machines:
            wrong.append(f"{self.devices} devices can't be divided among {self.machines} machines: choose a multiple")
        if self.shard and self.devices == 1:
            wrong.append("weights are sharded over devices, and there is one: set --devices, or omit --shard")
        elif self.shard and (self.devices % self.replicas or self.devices == self.replicas):
            wrong.append(
                f"{self.devices} devices can't shard {self.replicas} replicas of the model: choose a smaller divisor "
                f"of {self.devices}, or omit --shard"
            )
        if not self.shard and self.replicas != 1:
            wrong.append(f"replicas is {self.replicas}: copies of the model are sharded ones, so add --shard")
        if wrong:
            raise ScratchError("; ".join(wrong))

    @property
    def shards(self) -> int:
        """Number of devices over which a copy of the model is sharded."""
        return self.devices // self.replicas if self.shard else 1

    @property
    def copies(self) -> int:
        """Number of copies of the model, sharded or not."""
        return self.devices // self.shards

    def seconds(self, sent: float, size: int, is_shard: bool) -> float:
        """Time of collectives among the devices of a copy, or among those that have the same part of each copy.

        Args:
            sent: bytes that each device sends, (size - 1) / size of those of the tensors.
            size: number of devices that take part.
            is_shard: whether these are the devices of one copy, which are consecutive.
        """
        if size == 1:
            return 0.0
        per_machine = self.devices // self.machines
        # Neighbours on one machine: the consecutive devices of a copy, or one of each copy on this machine.
        local = min(size, per_machine) if is_shard else max(1, per_machine // self.shards)
        groups = math.ceil(size / local)
        inside = sent / self.device.link if local > 1 else 0.0
        if groups == 1:
            return inside
        # Of what a machine's devices gather together, (groups - 1) / groups comes from other machines, over all links.
        outside = sent * size / (size - 1) * (groups - 1) / groups / (self.network * local)
        return max(inside, outside)


@dataclass(frozen=True)
class DeviceMemory:
    """Peak memory of one device in a training step, in bytes.

    Attributes:
        weights, gradients, optimizer, average: of this device's part of the model; the average is that of the weights.
        communication: whole weights and gradients of the blocks that are being computed (FSDP2), or the buckets in
            which gradients are averaged (data parallelism); with FSDP2 and accumulation, all whole gradients.
        activations: that the backward pass needs.
        logits: temporary buffers of the loss.
        update: temporary buffers of the optimizer's step, for which activations and logits are free.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    communication: int
    activations: int
    logits: int
    update: int

    @property
    def states(self) -> int:
        """What stays from step to step: weights, gradients, optimizer states and their average."""
        return self.weights + self.gradients + self.optimizer + self.average

    @property
    def workspace(self) -> int:
        """Temporary buffers of kernels, and memory that the allocator keeps."""
        return round(WORKSPACE * (self.states + self.temporary))

    @property
    def temporary(self) -> int:
        """What a step needs at its peak, in the backward pass or in the update of the weights."""
        return max(self.communication + self.activations + self.logits, self.update)

    @property
    def total(self) -> int:
        """The peak."""
        return self.states + self.temporary + self.workspace


@dataclass(frozen=True)
class Traffic:
    """Bytes that one device sends per optimizer step; it receives as many.

    Attributes:
        all_gather: weights, for the forward and backward passes.
        reduce_scatter: gradients, to the devices that have their part of the weights.
        all_reduce: gradients, or parts of them, among the copies of the model.
        all_to_all: rows of matrices, to and from the device that orthogonalizes them for Muon.
    """

    all_gather: float = 0.0
    reduce_scatter: float = 0.0
    all_reduce: float = 0.0
    all_to_all: float = 0.0

    @property
    def total(self) -> float:
        """The sum."""
        return self.all_gather + self.reduce_scatter + self.all_reduce + self.all_to_all


@dataclass(frozen=True)
class ClusterPlan:
    """The estimated cost of a run on a cluster.

    Attributes:
        cluster: the devices.
        shape: of the model and its batches.
        args: batch size, accumulation, moving average and gradient checkpointing of the run.
        length: of a sequence in tokens.
        tokens: of the whole run.
        mfu: assumed fraction of the peak FLOP/s.
        disk: bytes per second at which a checkpoint is written.
        price: of one device per hour, in any currency, or None.
    """

    cluster: Cluster
    shape: Shape
    args: PretrainingArguments
    length: int
    tokens: int
    mfu: float = MFU
    disk: float = DISK
    price: float | None = None

    @property
    def memory(self) -> DeviceMemory:
        """Peak memory of a device."""
        return self.memory_of(self.args.batch_size)

    def memory_of(self, rows: int) -> DeviceMemory:
        """Peak memory of a device with a batch of this many sequences."""
        shape, shards = self.shape, self.cluster.shards
        weights = BYTES * shape.parameters
        return DeviceMemory(
            weights=math.ceil(weights / shards),
            gradients=math.ceil(weights / shards),
            optimizer=math.ceil(shape.optimizer / shards),
            average=math.ceil(weights / shards) if self.args.average_decay else 0,
            communication=self._communication_bytes(),
            activations=shape.constant + rows * shape.per_row,
            logits=shape.logits,
            update=self._update_bytes(),
        )

    def _communication_bytes(self) -> int:
        shape = self.shape
        if not self.cluster.shard:
            return BYTES * shape.parameters if self.cluster.devices > 1 else 0
        root = shape.parameters - shape.blocks  # embeddings, head and norm: whole, in float32
        gathered = 2 * shape.itemsize * shape.block + BYTES * root  # one block is computed, the next one gathered
        if self.args.gradient_accumulation_steps > 1:
            return gathered + BYTES * shape.parameters
        return (
            gathered + (shape.itemsize + BYTES) * shape.block + 2 * BYTES * root
        )  # before, and while, they are reduced

    def _update_bytes(self) -> int:
        """Of Muon: directions and updates of all matrices of a shape; and copies of the matrices in the iteration, of
        one of them if they are sharded, else of all."""
        itemsize, shards = self.shape.itemsize, self.cluster.shards
        most = 0
        for rows, columns, count in self.shape.matrices:
            size = rows * columns
            if shards == 1:
                needed = count * size * max(2 * BYTES, 4 * itemsize)
            else:
                needed = math.ceil(count * size * (BYTES + itemsize) / shards) + size * (BYTES + 4 * itemsize)
            most = max(most, needed)
        return most

    @property
    def largest_batch(self) -> int:
        """The largest number of sequences per device that fits; 0 if not even one does."""
        limit, low = USABLE * self.cluster.device.memory, 0
        most = max(1, math.ceil(limit / max(1, self.shape.per_row)))
        while low < most:  # the total grows with the batch
            middle = (low + most + 1) // 2
            low, most = (middle, most) if self.memory_of(middle).total <= limit else (low, middle - 1)
        return low

    @property
    def fits(self) -> bool:
        """Whether the batch fits into the usable memory of a device."""
        return self.memory.total <= USABLE * self.cluster.device.memory

    @property
    def traffic(self) -> Traffic:
        """Bytes that a device sends per optimizer step, with ring collectives."""
        shape, cluster = self.shape, self.cluster
        shards, copies = cluster.shards, cluster.copies
        part, other = (shards - 1) / shards, (copies - 1) / copies
        root = shape.parameters - shape.blocks
        once = 2 * shape.itemsize * shape.blocks + BYTES * root  # blocks forward and backward, the rest once
        return Traffic(
            all_gather=self.args.gradient_accumulation_steps * once * part,
            reduce_scatter=BYTES * shape.parameters * part,
            all_reduce=2 * BYTES * shape.parameters / shards * other,
            all_to_all=sum(rows * columns * count for rows, columns, count in shape.matrices)
            / shards
            * (BYTES + shape.itemsize)
            * part,
        )

    @property
    def traffic_seconds(self) -> float:
        """Time of the traffic of a step, if nothing else limits it."""
        sent, cluster = self.traffic, self.cluster
        inside = cluster.seconds(sent.all_gather + sent.reduce_scatter + sent.all_to_all, cluster.shards, is_shard=True)
        return inside + cluster.seconds(sent.all_reduce, cluster.copies, is_shard=False)

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimizer step, of all devices."""
        return self.cluster.devices * self.args.batch_size * self.length * self.args.gradient_accumulation_steps

    @property
    def compute_seconds(self) -> float:
        """Time of the computation of a step at the assumed fraction of the peak. With gradient checkpointing, blocks
        are computed forward twice: a third more."""
        again = 4 / 3 if self.args.gradient_checkpointing else 1.0
        peak = self.cluster.devices * self.cluster.device.flops
        return again * self.step_tokens * self.shape.flops / (self.mfu * peak)

    @property
    def update_seconds(self) -> float:
        """Time of Muon's matrix products at the assumed fraction of the peak. A device computes all matrices, or, if
        they are sharded, as many of each shape as are left after they are dealt out evenly, rounded up."""
        products = 0
        for rows, columns, count in self.shape.matrices:
            short, long = sorted((rows, columns))
            products += math.ceil(count / self.cluster.shards) * (4 * short**2 * long + 2 * short**3)
        return MUON_STEPS * products / (self.mfu * self.cluster.device.flops)

    @property
    def step_seconds(self) -> float:
        """Time of a step: of computation or traffic, whichever is longer, as if they overlapped completely, and of the
        update."""
        return max(self.compute_seconds, self.traffic_seconds) + self.update_seconds

    @property
    def tokens_per_second(self) -> float:
        """Speed of all devices together."""
        return self.step_tokens / self.step_seconds if self.step_seconds else math.inf

    @property
    def seconds(self) -> float:
        """Duration of the run, without evaluation and checkpoints."""
        return self.tokens / self.tokens_per_second

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint: weights, optimizer states and, if there is one, the moving average."""
        average = BYTES * self.shape.parameters if self.args.average_decay else 0
        return BYTES * self.shape.parameters + self.shape.optimizer + average

    @property
    def checkpoint_seconds(self) -> float:
        """Time to write a checkpoint at the speed of the disk."""
        return self.checkpoint_bytes / self.disk

    @property
    def price_per_day(self) -> float | None:
        """Of all devices."""
        return None if self.price is None else 24 * self.price * self.cluster.devices

    @property
    def total_price(self) -> float | None:
        """Of the whole run."""
        return None if self.price is None else self.price * self.cluster.devices * self.seconds / HOUR
