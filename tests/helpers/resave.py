"""Load a sharded state with the processes of this run, and save it again: `torchrun … resave.py FROM TO`. FROM may be
"new", for a state after two steps."""

import os
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from helpers.models import tiny_model
from scratch_gpt import train_tokenizer
from scratch_gpt.hub.model_directory import ModelDirectory
from scratch_gpt.hub.tensor_files import TensorFiles, like
from scratch_gpt.train.arguments.training import TrainingArguments
from scratch_gpt.train.checkpoints.checkpoint import write_checkpoint, write_sharded_checkpoint
from scratch_gpt.train.checkpoints.snapshot import load_training_state, take_snapshot, trained_weights
from scratch_gpt.train.engine.sharding import enable_sharding, is_sharded, prepare, shard
from scratch_gpt.train.optim.ema import MovingAverage
from scratch_gpt.train.optim.optimizers import build_optimizers

source, target = sys.argv[1], Path(sys.argv[2])
torch.set_num_threads(1)
accelerator = Accelerator(cpu=True)
if int(os.environ["WORLD_SIZE"]) > 1:
    enable_sharding(accelerator, replicas=1)
torch.manual_seed(0)
model = tiny_model("mixtral")  # with stacks of matrices, and sizes that 4 processes do not divide evenly
directory = ModelDirectory(model, train_tokenizer(["abc"], "char"), "", lambda: "")
if is_sharded(accelerator):
    shard(model, accelerator, replicas=1)
optimizers = build_optimizers(model, TrainingArguments(output_dir="", optimizer="muon", learning_rate=1e-2))
model, *optimizers = prepare(accelerator, model, optimizers)
average = MovingAverage(model, 0.9)
if source == "new":
    ids = torch.arange(24).reshape(2, 12) % 10
    for step in range(2):
        accelerator.backward(model(input_ids=ids, labels=ids).loss)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.update(model, step)
else:
    with TensorFiles(Path(source), "model") as stored, torch.no_grad():  # a run opens them with `from_pretrained`
        for name, weight in trained_weights(accelerator, model).items():
            if name in stored:
                weight.copy_(like(stored[name], weight))
    load_training_state(Path(source), accelerator, model, optimizers, average)
snapshot = take_snapshot(2, accelerator, model, optimizers, {}, dict, average)
write_model = partial(directory.write, writers=snapshot.writers)
write = write_sharded_checkpoint if is_sharded(accelerator) else write_checkpoint
write(target, snapshot, write_model, 1)
accelerator.end_training()
