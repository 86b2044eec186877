"""Blocks are compiled once for batches of all shapes, and train like eager ones in each of them."""

import pytest
import torch
from helpers.models import tiny_encoder, tiny_model, tiny_seq2seq
from helpers.processes import needs_compiler
from helpers.training import metrics
from helpers.translation import train as translate_tiny
from torch._dynamo.utils import counters

from scratch_gpt import ScratchEncoderForMaskedLM
from scratch_gpt.train.performance import any_shape
from scratch_gpt.train.performance.compile_blocks import compile_blocks

# In the first, rows, tokens, heads and rotated features per head have one size. The last ones have one row, one token.
SHAPES = ((4, 4), (3, 9), (16, 8), (2, 2), (7, 20), (1, 6), (5, 1))


def losses(model, choice: str) -> list[float]:
    """Train on a batch of each shape, some of its rows padded, and evaluate after each; return all losses."""
    torch.manual_seed(0)
    compile_blocks(model, choice, 1, fixed_shape=False)
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.05), []
    for rows, tokens in SHAPES:
        ids = torch.randint(3, 99, (rows, tokens))
        mask = torch.ones_like(ids)
        mask[::2, tokens // 2 + 1 :] = 0
        batch = {"input_ids": ids, "attention_mask": mask, "labels": ids}
        loss = model.train()(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # as the trainer does
            evaluated = model.eval()(**batch, use_cache=False).loss
        found += [loss.item(), evaluated.item()]
    return found


@needs_compiler
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("build", "kinds"),
    [
        (lambda: tiny_seq2seq("modern"), (2, 2)),  # blocks of the encoder and of the decoder
        (lambda: tiny_seq2seq("t5"), (2, 2)),  # the mask has a gradient
        (lambda: tiny_encoder(ScratchEncoderForMaskedLM, "bert"), (1, 1)),
        (lambda: tiny_model("llama"), (1, 2)),  # with SDPA, a causal block has no mask if there is no padding
    ],
    ids=["translation", "relative", "encoder", "gpt"],
)
def test_each_kind_of_block_is_compiled_once_for_all_shapes(build, kinds, attention, monkeypatch):
    """In the graphs alone: the compiler that makes code of them takes a minute."""
    graphs = []

    def record(graph: torch.fx.GraphModule, inputs: list) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(any_shape, "compile_without_size_guards", record)
    torch.compiler.reset()
    expected, found = [], []
    for choice, into in (("off", expected), ("on", found)):
        torch.manual_seed(0)
        model = build()
        model.set_attn_implementation(attention)
        into += losses(model, choice)
    assert len(graphs) == kinds[attention == "sdpa"]
    assert found == pytest.approx(expected, rel=1e-5)
    torch.compiler.reset()


@pytest.mark.release  # two graphs of a translator are compiled for two minutes
@needs_compiler
def test_compiled_translation_compiles_two_graphs_in_a_run(tmp_path):
    """Batches on both sides of 4,096 numbers, where the compiler's sums differ, and evaluations between them."""
    settings = ("--tokens_per_batch", "3000", "--num_pairs", "700", "--max_steps", "12", "--eval_every", "6")
    translate_tiny(tmp_path / "plain", *settings, "--compile", "off")
    torch.compiler.reset()
    counters.clear()
    translate_tiny(tmp_path / "compiled", *settings, "--compile", "on")
    assert counters["stats"]["unique_graphs"] == 2
    plain, compiled = metrics(tmp_path / "plain"), metrics(tmp_path / "compiled")
    for eager_row, compiled_row in zip(plain, compiled, strict=True):
        assert compiled_row["train_loss"] == pytest.approx(eager_row["train_loss"], rel=1e-4)
        assert compiled_row["grad_norm"] == pytest.approx(eager_row["grad_norm"], rel=1e-3)
    torch.compiler.reset()
