"""Models under FSDP2 on CPUs: sharded training gives the same gradients, and the saved model is an ordinary one.

Accelerate shards on accelerators only, so this test applies torch's `fully_shard` to each layer and to the model.
"""

import pytest
from helpers.processes import PROJECT, TWO_PROCESSES, run_python

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from helpers.models import tiny_model
from scratch_gpt import train_tokenizer
from scratch_gpt.hub.model_directory import ModelDirectory

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
x = torch.arange(3, 43).view(2, 20)
for preset in ("gpt2", "llama"):
    no_dropout = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), 0.0)
    whole, model = tiny_model(preset, **no_dropout), tiny_model(preset, **no_dropout)
    directory = ModelDirectory(model, train_tokenizer(["abc"], "char"), "", lambda: "")
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert type(model) is not type(whole)  # fully_shard replaces the class
    torch.testing.assert_close(model(x).logits, whole(x).logits, atol=1e-5, rtol=1e-4)
    model(x, labels=x).loss.backward()
    whole(x, labels=x).loss.backward()
    for (name, sharded), plain in zip(model.named_parameters(), whole.parameters()):
        torch.testing.assert_close(sharded.grad.full_tensor(), plain.grad, atol=1e-5, rtol=1e-3)
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        folder = Path(sys.argv[1]) / preset
        directory.write(folder, weights)
        assert (folder / "modeling_scratch_gpt.py").exists()
        reloaded = AutoModelForCausalLM.from_pretrained(folder)
        assert type(reloaded) is type(whole)
        assert torch.equal(reloaded(x).logits, whole(x).logits)
    dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_sharded_model_equals_the_unsharded_one(tmp_path):
    script = tmp_path / "shard.py"
    script.write_text(SCRIPT)
    run_python(*TWO_PROCESSES, str(script), str(tmp_path / "out"), str(PROJECT / "tests"), cwd=tmp_path)
