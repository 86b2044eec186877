"""A graph pass that separates the bias of linear layers from their matrix product, in float32 on a CPU.

`addmm` first copies the bias into every row of the result and then accumulates into it: two more passes over memory. As
a separate addition, the bias is fused into the kernel that follows, at no cost. In 16 bits the two stay fused, so that
the sum is rounded once.

Importing this module imports the compiler, which takes a second: it is imported only for compilation.
"""

from __future__ import annotations

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

addmm, mm, add = torch.ops.aten.addmm.default, torch.ops.aten.mm.default, torch.ops.aten.add.Tensor


class UnfuseBias(CustomGraphPass):
    """Replaces addmm(bias, x, weight) by mm(x, weight) + bias, if the bias is a vector."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        """Transform the graph in place."""
        for node in graph.find_nodes(op="call_function", target=addmm):
            bias, x, weight = node.args
            if node.kwargs or bias.meta["val"].ndim != 1 or node.meta["val"].dtype != torch.float32:
                continue
            with graph.inserting_before(node):
                product = graph.call_function(mm, (x, weight))
                total = graph.call_function(add, (product, bias))
            for new in (product, total):  # shape, dtype and strides stay
                new.meta.update(node.meta)
            node.replace_all_uses_with(total)
            graph.erase_node(node)

    def uuid(self) -> bytes:
        """Hash of this file, a key of the compiler's cache."""
        return get_hash_for_files((__file__,))
