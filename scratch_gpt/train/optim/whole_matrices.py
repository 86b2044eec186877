"""Functions of whole matrices whose rows are sharded over processes (FSDP2).

In each round, every process sends its rows of one matrix to each process, which then has a whole matrix, computes, and
sends the rows of the result back. So a process has one whole matrix at a time, and none is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor


def map_matrices(
    shards: list[torch.Tensor],
    parameter: DTensor,
    function: Callable[[torch.Tensor], torch.Tensor],
    dtype: torch.dtype,
) -> list[torch.Tensor]:
    """Apply a function to whole matrices; every process of the mesh must call it.

    Args:
        shards: this process's rows of each matrix, (rows, columns).
        parameter: one of shape and sharding of the matrices.
        function: of matrices (1, rows, columns) to matrices of this shape.
        dtype: of what the function returns.

    Returns:
        This process's rows of each result.
    """
    group, (total, columns) = parameter.device_mesh.get_group(-1), parameter.shape  # the last dimension shards
    rank, processes = dist.get_rank(group), dist.get_world_size(group)
    rows = rows_of_processes(total, processes)
    results: list[torch.Tensor] = []
    for start in range(0, len(shards), processes):
        matrices = shards[start : start + processes]
        has_one = rank < len(matrices)
        sent = [rows[rank] * columns if i < len(matrices) else 0 for i in range(processes)]
        received = [count * columns if has_one else 0 for count in rows]
        whole = shards[0].new_empty(sum(received))
        dist.all_to_all_single(whole, torch.cat([shard.flatten() for shard in matrices]), received, sent, group)
        result = function(whole.view(1, total, columns)).flatten() if has_one else whole.to(dtype)
        own = result.new_empty(sum(sent))
        dist.all_to_all_single(own, result.contiguous(), sent, received, group)
        results += own.view(len(matrices), rows[rank], columns).unbind()
    return results


def rows_of_processes(rows: int, processes: int) -> list[int]:
    """Number of rows of a matrix that each process has: the first ones as many as fit evenly, rounded up."""
    size = -(-rows // processes)
    return [max(0, min(size, rows - i * size)) for i in range(processes)]
