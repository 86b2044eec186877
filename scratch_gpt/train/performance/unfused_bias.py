"""What compiled blocks do with the bias of a linear layer in float32 on a processor.

torch's product with a bias first copies that into every row of the result and then adds to it: two more passes over
memory. Taken apart, the bias goes into the code that the compiler makes of what follows, and costs nothing. In 16 bits
the two stay together: there the sum is rounded once.

This imports the compiler, which takes a second: only who compiles imports it.
"""

from __future__ import annotations

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

addmm, mm, add = torch.ops.aten.addmm.default, torch.ops.aten.mm.default, torch.ops.aten.add.Tensor


class BiasApart(CustomGraphPass):
    """addmm(bias, x, weight) as mm(x, weight) + bias, where the bias is a vector; a pass over a compiler's graph."""

    def __call__(self, graph: torch.fx.Graph) -> None:
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
        """What tells the compiler's cache that this file has changed."""
        return get_hash_for_files((__file__,))
