"""Estimates for named accelerators: their arithmetic against numbers computed by hand, and the command."""

import re
from dataclasses import replace

import pytest
from helpers.models import tiny_config
from helpers.processes import run_here
from torch._subclasses.fake_tensor import FakeTensorMode

from scratch_gpt import ScratchGPTConfig
from scratch_gpt.errors import ScratchError
from scratch_gpt.train.cost_estimate.accelerators import ACCELERATORS, Accelerator, find_accelerator
from scratch_gpt.train.cost_estimate.cluster import Cluster, ClusterPlan
from scratch_gpt.train.cost_estimate.model_shape import Shape, shape_of
from scratch_gpt.train.cost_estimate.this_machine import make_plan, saved_bytes
from scratch_gpt.train.tasks.language_modeling.arguments import PretrainingArguments
from scratch_gpt.train.tasks.language_modeling.build import build_model

# Round numbers: 1000 parameters, of which 800 are in 4 blocks; 10 bytes of activations per sequence.
DEVICE = Accelerator("round", flops=1e6, memory=20_000, link=1e3, source="this test")
SHAPE = Shape(
    parameters=1000,
    inactive=0,
    block=200,
    blocks=800,
    matrices=((8, 10, 4), (10, 8, 2), (8, 20, 1)),  # 640 parameters
    optimizer=5440,  # 4 per parameter of matrices, 8 per other one
    flops=6000.0,
    constant=100,
    per_row=10,
    logits=50,
    itemsize=2,
)
ARGS = PretrainingArguments(batch_size=8, average_decay=0.0)


def plan_of(cluster: Cluster, args: PretrainingArguments = ARGS, **fields) -> ClusterPlan:
    return ClusterPlan(cluster, SHAPE, args, length=5, tokens=10**6, mfu=0.5, **fields)


def test_one_device_has_everything():
    memory = plan_of(Cluster(DEVICE)).memory
    assert (memory.weights, memory.gradients, memory.optimizer, memory.average) == (4000, 4000, 5440, 0)
    assert (memory.communication, memory.activations, memory.logits) == (0, 100 + 8 * 10, 50)
    assert memory.update == 4 * 80 * 8  # more than activations and logits, 230, which are free by then
    assert memory.total == pytest.approx(1.1 * (4000 + 4000 + 5440 + 2560), abs=1)


def test_data_parallelism_adds_buckets_and_an_all_reduce():
    plan = plan_of(Cluster(DEVICE, devices=4))
    assert plan.memory.communication == 4000
    assert plan.traffic.total == plan.traffic.all_reduce == 2 * 4000 * 3 / 4
    assert plan.traffic_seconds == pytest.approx(6.0)
    assert plan.step_tokens == 4 * 8 * 5


def test_sharding_divides_the_states_and_gathers_weights():
    """Blocks are gathered in bfloat16 for both passes, embeddings and head once in float32; gradients are reduced in
    float32; each device sends its rows of the matrices to Muon in float32, and the updates back in bfloat16."""
    plan = plan_of(Cluster(DEVICE, devices=4, shard=True))
    assert (plan.memory.weights, plan.memory.gradients, plan.memory.optimizer) == (1000, 1000, 1360)
    assert plan.memory.communication == 2 * 2 * 200 + 4 * 200 + (2 + 4) * 200 + 2 * 4 * 200
    assert plan.memory.update == max(4 * 80 * (4 + 2) / 4 + 80 * (4 + 4 * 2), 160 * (4 + 2) / 4 + 160 * (4 + 4 * 2))
    assert plan.traffic.all_gather == (2 * 2 * 800 + 4 * 200) * 3 / 4
    assert plan.traffic.reduce_scatter == 4 * 1000 * 3 / 4
    assert plan.traffic.all_to_all == 640 / 4 * (4 + 2) * 3 / 4
    assert plan.traffic.all_reduce == 0


def test_accumulation_gathers_for_each_batch_and_keeps_whole_gradients():
    once, twice = (
        plan_of(Cluster(DEVICE, devices=4, shard=True), replace(ARGS, gradient_accumulation_steps=steps))
        for steps in (1, 2)
    )
    assert twice.traffic.all_gather == 2 * once.traffic.all_gather
    assert twice.traffic.reduce_scatter == once.traffic.reduce_scatter
    assert twice.memory.communication == 2 * 2 * 200 + 4 * 200 + 4 * 1000
    assert twice.step_tokens == 2 * once.step_tokens


def test_hybrid_sharding_sends_gradients_only_between_machines():
    """Two machines of four: each shards its copy, and sends its part of the gradients over its own link."""
    hybrid = plan_of(Cluster(DEVICE, devices=8, machines=2, shard=True, replicas=2, network=100.0))
    sharded = plan_of(Cluster(DEVICE, devices=8, machines=2, shard=True, network=100.0))
    assert hybrid.memory.weights == 2 * sharded.memory.weights == 1000
    assert hybrid.traffic.all_reduce == 2 * 1000 / 2
    inside = hybrid.traffic.total - hybrid.traffic.all_reduce
    assert hybrid.traffic_seconds == pytest.approx(inside / 1e3 + 1000 / 100)
    # Of the whole 8/7 of what is sent, a machine gets half from the other, over four links.
    assert sharded.traffic_seconds == pytest.approx(sharded.traffic.total * 8 / 7 / 2 / (100 * 4))


def test_speed_and_cost():
    plan = plan_of(Cluster(replace(DEVICE, link=1e12), devices=4), price=2.0)
    assert plan.compute_seconds == pytest.approx(160 * 6000 / (0.5 * 4e6))
    assert plan.tokens_per_second == pytest.approx(160 / (plan.compute_seconds + plan.update_seconds))
    assert plan.seconds == pytest.approx(1e6 / plan.tokens_per_second)
    assert plan.price_per_day == 2 * 4 * 24
    assert plan.total_price == pytest.approx(plan.seconds / 3600 * 4 * 2)
    slow = plan_of(Cluster(DEVICE, devices=4))
    assert slow.step_seconds == slow.traffic_seconds + slow.update_seconds > slow.compute_seconds
    again = plan_of(Cluster(replace(DEVICE, link=1e12), devices=4), replace(ARGS, gradient_checkpointing=True))
    assert again.compute_seconds == pytest.approx(plan.compute_seconds * 4 / 3)


def test_update_of_muon_is_divided_by_sharding_only():
    """Five iterations of X Xᵀ, its square, and their product with X, with X on its side if it is high."""
    small, large = 4 * 8**2 * 10 + 2 * 8**3, 4 * 8**2 * 20 + 2 * 8**3
    for devices in (1, 4):
        plan = plan_of(Cluster(DEVICE, devices=devices))
        assert plan.update_seconds == pytest.approx(5 * (6 * small + large) / 0.5e6)
    sharded = plan_of(Cluster(DEVICE, devices=4, shard=True))  # of four, two and one matrices, each at most one
    assert sharded.update_seconds == pytest.approx(5 * (2 * small + large) / 0.5e6)


def test_checkpoint_has_weights_states_and_average():
    plan = plan_of(Cluster(DEVICE, devices=4, shard=True), replace(ARGS, average_decay=0.9), disk=100.0)
    assert plan.checkpoint_bytes == 4000 + 5440 + 4000
    assert plan.checkpoint_seconds == pytest.approx(134.4)
    assert plan.memory.average == 1000


def test_the_largest_batch_fits_and_one_more_does_not():
    plans = [plan_of(Cluster(DEVICE, devices=n, shard=n > 1)) for n in (1, 2, 4, 8)]
    for plan in plans:
        assert plan.memory_of(plan.largest_batch).total <= 0.9 * 20_000 < plan.memory_of(plan.largest_batch + 1).total
    batches = [plan.largest_batch for plan in plans]
    assert batches == sorted(batches) != [0] * 4
    totals = [plan.memory.total for plan in plans[1:]]
    assert totals == sorted(totals, reverse=True)
    assert plan_of(Cluster(replace(DEVICE, memory=1000))).largest_batch == 0


WRONG = [
    ({"devices": 8, "machines": 3}, "8 devices can't be divided among 3 machines"),
    ({"devices": 1, "shard": True}, "weights are sharded over devices, and there is one"),
    ({"devices": 8, "shard": True, "replicas": 3}, "8 devices can't shard 3 replicas"),
    ({"devices": 8, "shard": True, "replicas": 8}, "choose a smaller divisor of 8, or omit --shard"),
    ({"devices": 8, "replicas": 2}, "replicas is 2: copies of the model are sharded ones, so add --shard"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_impossible_clusters_are_refused(fields, message):
    with pytest.raises(ScratchError, match=re.escape(message)):
        Cluster(DEVICE, **fields)


def test_accelerators_have_plausible_data_sheets():
    for name, accelerator in ACCELERATORS.items():
        assert find_accelerator(name.upper().replace("-", "_")) is accelerator
        assert 5e12 < accelerator.flops < 1e16
        assert 10e9 < accelerator.memory < 1e12
        assert 10e9 < accelerator.link < 1e12
        assert "data sheet" in accelerator.source or "white paper" in accelerator.source


@pytest.mark.parametrize("preset", ["gpt2", "llama", "nanochat"])
def test_fake_tensors_count_the_same_activations(preset):
    """As a forward pass with data does; they grow by the same number of bytes with each sequence."""
    shape = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ScratchGPTConfig.from_preset(preset, max_position_embeddings=128, **shape)
    for bf16 in (False, True):
        real = [saved_bytes(build_model(config).train(), rows, 128, bf16) for rows in (1, 2, 4)]
        with FakeTensorMode():
            assert [saved_bytes(build_model(config).train(), rows, 128, bf16) for rows in (1, 2, 4)] == real
        assert real[2] - real[1] == 2 * (real[1] - real[0])


def test_one_device_is_planned_as_this_machine_is():
    """The parts of the memory, and the FLOPs, are those of the plan that measures this machine in float32."""
    config = tiny_config("llama", max_position_embeddings=32)
    for optimizer in ("adamw", "muon"):
        args = PretrainingArguments(batch_size=3, precision="auto", optimizer=optimizer)
        shape = shape_of(config, args, 32, ACCELERATORS["t4"], shard=False)
        found = ClusterPlan(Cluster(ACCELERATORS["t4"]), shape, args, 32, 1000)
        measured = make_plan(config, replace(args, precision="fp32"), 32, 1000, steps=1)
        assert found.memory.weights == measured.memory.weights
        assert found.memory.activations + found.memory.logits == measured.memory.activations
        assert found.shape.flops == measured.flops_per_token
        assert found.shape.parameters == measured.parameters
        if optimizer == "adamw":
            assert found.memory.optimizer == measured.memory.optimizer


def test_sharding_and_checkpointing_save_activations():
    """Sharded, the copies of the weights in bfloat16 are not kept; with gradient checkpointing, one block is."""
    config, args = tiny_config("llama", max_position_embeddings=32), PretrainingArguments(optimizer="muon")
    h100 = ACCELERATORS["h100"]
    whole, sharded = (shape_of(config, args, 32, h100, shard) for shard in (False, True))
    assert whole.per_row == sharded.per_row
    assert whole.constant - sharded.constant == pytest.approx(
        2 * sum(a * b * count for a, b, count in whole.matrices), rel=0.02
    )
    saving = shape_of(config, replace(args, gradient_checkpointing=True), 32, h100, shard=False)
    assert whole.per_row / 2 < saving.per_row < whole.per_row  # two blocks


TINY = ("--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "2", "--tokens", "1000000")


def test_plan_of_named_accelerators_prints_their_table():
    options = ("--device", "h100", "--devices", "16", "--machines", "2", "--shard", "--replicas", "2")
    result = run_here("scratch-gpt", "plan", *options, *TINY, "--price_per_hour", "2.5", "--batch_size", "4")
    printed = " ".join(result.stdout.split())
    assert "16 x H100 on 2 machines; 2 copies of the model, each sharded over 8 (hybrid sharding)" in printed
    for row in ("memory: weights, 1/8 of them", "memory: activations", "memory: logits", "largest batch per device"):
        assert row in printed
    assert "tokens per step │ 16,384 (16 x 4 x 256)" in printed
    assert "at 35% of the peak (an assumption)" in printed
    assert "price per day │ 960.00, at 2.5 per device and hour" in printed
    assert "measuring" not in result.stderr


REFUSED = {
    "alone": (("--devices", "8", "--mfu", "0.4"), "--devices and --mfu need --device, such as --device h100"),
    "unknown": (("--device", "h1000"), "device is h1000, want one of t4, l4"),
    "mfu": (("--device", "h100", "--mfu", "35"), "mfu is 35, want a fraction of the peak, at most 1"),
    "zero": (("--device", "h100", "--mfu", "0", "--disk", "-1"), "mfu is 0.0, want a finite number above 0; disk is"),
    "replicas": (("--device", "h100", "--devices", "8", "--replicas", "2"), "so add --shard"),
    "fp32": (("--device", "h100", "--precision", "fp32"), "is that of bfloat16: remove --precision fp32"),
    "bf16": (("--device", "t4", "--precision", "bf16"), "T4 has no units for bfloat16: remove --precision bf16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_make_no_plan_are_refused(case):
    options, message = REFUSED[case]
    refused = run_here("scratch-gpt", "plan", *options, *TINY, check=False)
    assert (refused.returncode, message in " ".join(refused.stderr.split())) == (2, True), refused.stderr
