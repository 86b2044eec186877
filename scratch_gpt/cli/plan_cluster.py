"""The part of `scratch-gpt plan` for named accelerators: what its options mean, and the table that it prints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ClusterOptions:
    """Options of `scratch-gpt plan` for named accelerators; None if not given.

    Attributes:
        device: name of the accelerator.
        devices: number of them on all machines.
        machines: number of machines.
        mfu: assumed fraction of the peak FLOP/s.
        network: GB/s per device and direction between machines.
        disk: GB/s at which a checkpoint is written.
        price_per_hour: of one device.
    """

    device: str | None
    devices: int | None
    machines: int | None
    mfu: float | None
    network: float | None
    disk: float | None
    price_per_hour: float | None

    def check(self) -> None:
        """Check that the options belong together.

        Raises:
            ScratchError: options of accelerators are given without one, or numbers are out of bounds.
        """
        from ..errors import ScratchError

        given = [name for name, value in vars(self).items() if value is not None]
        if given and self.device is None:
            raise ScratchError(f"--{' and --'.join(given)} need --device, such as --device h100")
        wrong = []
        for name in ("mfu", "network", "disk", "price_per_hour"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                wrong.append(f"{name} is {value}, want a finite number above 0")
        if self.mfu is not None and self.mfu > 1:
            wrong.append(f"mfu is {self.mfu:g}, want a fraction of the peak, at most 1")
        if wrong:
            raise ScratchError("; ".join(wrong))

    def plan(self, config: Any, args: Any, length: int, tokens: int, is_tuned: bool) -> Any:
        """Estimate a run on these accelerators: a `ClusterPlan`.

        Args:
            config: config of the model.
            args: training arguments, with `--shard`, `--replicas` and the batch size per device.
            length: of a sequence in tokens.
            tokens: of the whole run.
            is_tuned: whether the model is pretrained.
        """
        from ..train.cost_estimate.accelerators import MFU, find_accelerator
        from ..train.cost_estimate.cluster import DISK, NETWORK, Cluster, ClusterPlan
        from ..train.cost_estimate.model_shape import shape_of

        device = find_accelerator(self.device or "")
        network = NETWORK if self.network is None else 1e9 * self.network
        cluster = Cluster(device, self.devices or 1, self.machines or 1, args.shard, args.replicas, network)
        shape = shape_of(config, args, length, device, args.shard, is_tuned)
        speed = MFU if self.mfu is None else self.mfu
        disk = DISK if self.disk is None else 1e9 * self.disk
        return ClusterPlan(cluster, shape, args, length, tokens, speed, disk, self.price_per_hour)


def cluster_table(planned: Any, title: str) -> Any:
    """Build the table of the costs of a run on named accelerators.

    Args:
        planned: a `ClusterPlan`.
        title: of the table.
    """
    from rich.table import Table

    table = Table(title=title, show_header=False)
    for name, value in (*_model_rows(planned), *_memory_rows(planned), *_speed_rows(planned), *_cost_rows(planned)):
        table.add_row(name, value)
    return table


def _model_rows(planned: Any) -> list[tuple[str, str]]:
    cluster, shape = planned.cluster, planned.shape
    layout = "a whole copy of the model on each" if cluster.devices > 1 else "the whole model"
    if cluster.shard:
        layout = f"the model sharded over {cluster.shards} (FSDP2)"
        if cluster.replicas > 1:
            layout = f"{cluster.replicas} copies of the model, each sharded over {cluster.shards} (hybrid sharding)"
    machines = f" on {cluster.machines} machines" if cluster.machines > 1 else ""
    rows = [
        ("devices", f"{cluster.devices} x {cluster.device.title}{machines}; {layout}"),
        ("tokens of the run", f"{planned.tokens:,}"),
        ("parameters", f"{shape.parameters:,}"),
    ]
    if shape.inactive:
        rows.append(("active parameters per token", f"{shape.parameters - shape.inactive:,}"))
    rows.append(("FLOPs per token", f"{shape.flops:,.0f}"))
    micro = planned.args.gradient_accumulation_steps
    accumulated = f" x {micro} accumulated" if micro > 1 else ""
    batch = f"{cluster.devices} x {planned.args.batch_size} x {planned.length}{accumulated}"
    rows.append(("tokens per step", f"{planned.step_tokens:,} ({batch})"))
    return rows


def _memory_rows(planned: Any) -> list[tuple[str, str]]:
    memory, cluster = planned.memory, planned.cluster
    part = f", 1/{cluster.shards} of them" if cluster.shard else ""
    working = "weights and gradients being computed" if cluster.shard else "gradient buckets"
    parts = {
        f"weights{part}": memory.weights,
        f"gradients{part}": memory.gradients,
        f"optimizer states{part}": memory.optimizer,
        f"moving average{part}": memory.average,
        working: memory.communication,
        "activations": memory.activations,
        "logits": memory.logits,
        "update, when activations are free": memory.update,
        "workspace": memory.workspace,
        "total": memory.total,
    }
    rows = [(f"memory: {name}", _gigabytes(size)) for name, size in parts.items() if size]
    limit = cluster.device.memory
    verdict = "fits" if planned.fits else "does not fit"
    rows.append(("memory of a device", f"{_gigabytes(limit)}; {verdict} into 90% of it"))
    largest = planned.largest_batch
    hints = ["add --shard"] * (not cluster.shard)
    hints += ["use --gradient_checkpointing"] * (not planned.args.gradient_checkpointing)
    hints += ["use shorter sequences, a smaller model or devices with more memory"]
    hint = "" if largest else f": {', or '.join(hints)}"
    rows.append(("largest batch per device", f"{largest} x {planned.length} tokens{hint}"))
    return rows


def _speed_rows(planned: Any) -> list[tuple[str, str]]:
    traffic, cluster = planned.traffic, planned.cluster
    names = {
        "all_gather": "weights (all-gather)",
        "reduce_scatter": "gradients (reduce-scatter)",
        "all_reduce": "gradients (all-reduce)",
        "all_to_all": "matrices of Muon (all-to-all)",
    }
    rows = [
        (f"sent per step: {title}", _gigabytes(getattr(traffic, name)))
        for name, title in names.items()
        if getattr(traffic, name)
    ]
    if cluster.devices > 1:
        between = f", {cluster.network / 1e9:g} GB/s between machines" if cluster.machines > 1 else ""
        links = f"{cluster.device.link / 1e9:g} GB/s per device{between}"
        rows.append(
            ("sent per step: total", f"{_gigabytes(traffic.total)}; {planned.traffic_seconds:.3f} s at {links}")
        )
    rows.append(
        ("computation of a step", f"{planned.compute_seconds:.3f} s at {planned.mfu:.0%} of the peak (an assumption)")
    )
    if planned.update_seconds:
        whose = "each device a part of the matrices" if cluster.shard else "each device all matrices"
        rows.append(("update with Muon", f"{planned.update_seconds:.3f} s, {whose}"))
    if planned.traffic_seconds > planned.compute_seconds:
        rows.append(
            ("limited by", "traffic: larger batches, accumulation or hybrid sharding need less of it per token")
        )
    rows.append(("tokens per second", f"{planned.tokens_per_second:,.0f}"))
    return rows


def _cost_rows(planned: Any) -> list[tuple[str, str]]:
    written = (
        f"{_gigabytes(planned.checkpoint_bytes)}; {planned.checkpoint_seconds:.1f} s at {planned.disk / 1e9:g} GB/s"
    )
    rows = [("time of the run", f"{planned.seconds / 3600:,.1f} h"), ("checkpoint", written)]
    if planned.price is not None:
        rows.append(("price per day", f"{planned.price_per_day:,.2f}, at {planned.price:g} per device and hour"))
        rows.append(("price of the run", f"{planned.total_price:,.2f}"))
    return rows


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"
