"""How long a checkpoint stops the loop, beside a plain copy of the same bytes in memory.

    pip install -e . && python stress/checkpoint_save.py --output save.json

A GPT of 100 million parameters with AdamW. In turn: copy every tensor of weights and optimizer (`clone`), and take the
snapshot that a save takes, after which the loop goes on. Then steps are timed with nothing else going on, and while the
snapshot is being written. Prints medians and ratios, writes JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM
from scratch_gpt.train.checkpoints.checkpoint import take_snapshot, write_checkpoint


def seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    result = act()
    ended = time.perf_counter()
    del result
    return ended - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden_size", type=int, default=768, help="768 makes 100 million parameters.")
    parser.add_argument("--repeats", type=int, default=7, help="How often each thing is timed.")
    parser.add_argument("--output", type=Path, help="Write the figures here, as JSON.")
    args = parser.parse_args()

    torch.manual_seed(0)
    sizes = {"hidden_size": args.hidden_size, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 20_000}
    model = ScratchGPTForCausalLM(ScratchGPTConfig.from_preset("gpt2", **sizes, max_position_embeddings=256))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    ids = torch.randint(0, 20_000, (1, 128))

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    tensors = list(model.state_dict(keep_vars=True).values())
    tensors = list({tensor.data_ptr(): tensor for tensor in tensors}.values())
    tensors += [t for state in optimizer.state.values() for t in state.values()]
    copies, snapshots = [], []
    for _ in range(args.repeats):
        copies.append(seconds(lambda: [tensor.detach().clone() for tensor in tensors]))
        snapshots.append(seconds(lambda: take_snapshot(1, accelerator, model, [optimizer], {})))

    alone = [seconds(step) for _ in range(args.repeats)]
    beside = []
    with tempfile.TemporaryDirectory() as folder:
        snapshot = take_snapshot(1, accelerator, model, [optimizer], {})
        write = (Path(folder), snapshot, lambda place, weights: model.save_pretrained(place, state_dict=weights), 1)
        writer = threading.Thread(target=write_checkpoint, args=write)
        started = time.perf_counter()
        writer.start()
        while writer.is_alive():
            beside.append(seconds(step))
        writing = time.perf_counter() - started

    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    figures = {
        "parameters": model.num_parameters(),
        "gigabytes": size / 1e9,
        "copy_seconds": statistics.median(copies),
        "snapshot_seconds": statistics.median(snapshots),
        "write_seconds": writing,
        "step_seconds": statistics.median(alone),
        "step_seconds_beside_a_write": statistics.median(beside),
    }
    figures["snapshot_to_copy"] = figures["snapshot_seconds"] / figures["copy_seconds"]
    figures["step_beside_a_write_to_step"] = figures["step_seconds_beside_a_write"] / figures["step_seconds"]
    table = Table("figure", "")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.3f}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)
    if args.output:
        args.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
