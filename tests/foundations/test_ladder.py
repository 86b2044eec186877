"""The ladder: all rungs are causal, rungs equal special cases of the models, and rungs without gain are named."""

import math
import re

import pytest
import torch

from scratch_gpt.cli.app import main
from scratch_gpt.errors import ScratchError
from scratch_gpt.foundations import ladder, ladder_models

SCREEN = 24  # lines


@pytest.mark.slow
@pytest.mark.parametrize("rung", ladder.RUNGS, ids=lambda rung: rung.name)
def test_rungs_are_causal_and_reduce_the_loss(rung):
    torch.manual_seed(0)
    model = rung.build(13).eval()
    ids = torch.randint(13, (2, ladder.CONTEXT))
    changed = ids.clone()
    changed[:, 40] = (changed[:, 40] + 1) % 13
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert before.shape == (2, ladder.CONTEXT, 13)
    torch.testing.assert_close(before[:, :40], after[:, :40])
    assert (before[:, 40] - after[:, 40]).abs().max() > 1e-4
    optimized = [p for optimizer in ladder.build_optimizers(model) for g in optimizer.param_groups for p in g["params"]]
    assert {id(p) for p in optimized} == {id(p) for p in model.parameters()}
    assert len(optimized) == len({id(p) for p in optimized})
    sample = "the cat sat on the mat. " * 60
    result = ladder.train(rung, sample, 0, 30)
    assert result.loss < math.log(len(set(sample)))
    assert result.parameters == sum(p.numel() for p in rung.build(len(set(sample))).parameters())


def test_the_block_with_all_parts_equals_the_gpts():
    torch.manual_seed(0)
    complete = ladder_models.IncompleteGPT(13, ladder_models.HEADS, feed_forward=True, residual=True, norm=True)
    gpt = ladder_models.GPT(13, num_hidden_layers=1, tie_word_embeddings=False).model
    block = gpt.model.layers[0]
    parts = {
        "embed_tokens": gpt.model.embed_tokens,
        "embed_positions": gpt.model.embed_positions,
        "branches.0": block.self_attn,
        "branches.1": block.mlp,
        "norms.0": block.input_layernorm,
        "norms.1": block.post_attention_layernorm,
        "norms.2": gpt.model.norm,
        "lm_head": gpt.lm_head,
    }
    for name, part in parts.items():
        complete.get_submodule(name).load_state_dict(part.state_dict())
    ids = torch.randint(13, (2, 20))
    torch.testing.assert_close(complete(ids), gpt(ids).logits)


def test_the_recurrent_rung_equals_torch():
    torch.manual_seed(0)
    model = ladder_models.Recurrent(13)
    rnn = torch.nn.RNN(ladder_models.HIDDEN, ladder_models.HIDDEN, batch_first=True)
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(model.input.weight)
        rnn.bias_ih_l0.copy_(model.input.bias)
        rnn.weight_hh_l0.copy_(model.recurrent.weight)
        rnn.bias_hh_l0.zero_()
    ids = torch.randint(13, (2, 20))
    torch.testing.assert_close(model(ids), model.lm_head(rnn(model.embed_tokens(ids))[0]))


def test_rungs_without_gain_are_named():
    def rung(name, *losses):
        return name, [ladder.Result(name, seed, loss, 1, 1.0) for seed, loss in enumerate(losses)]

    rungs = [rung("a", 2.5, 2.6), rung("b", 2.0, 2.1), rung("c", 2.02, 2.1), rung("d", 2.4, 2.5), rung("e", 2.35, 2.45)]
    found = ladder.find_without_gain(dict(rungs))
    assert len(found) == 3
    assert found[0].startswith("c is within the noise of b (+0.010")
    assert found[1].startswith("d is worse than c (+0.390")
    assert found[2].startswith("e is within the noise of d (-0.050")


@pytest.mark.slow
def test_the_ladder_prints_a_table_and_saves_a_plot(monkeypatch, capsys, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("the cat sat on the mat. " * 60)
    argv = ["learn", "ladder", "--dataset", str(file), "--seeds", "2", "--steps", "2", "--save", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["scratch-gpt", *argv])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(rung.name in printed for rung in ladder.RUNGS)
    assert "ladder.py" in printed
    assert (tmp_path / "out" / "ladder.png").stat().st_size > 20_000
    assert all(len(part.splitlines()) <= SCREEN for part in re.split(r"\n\d+\. ", printed))


def test_unusable_texts_are_an_error_before_training(tmp_path):
    with pytest.raises(ScratchError, match="the text has 90 characters, want at least 650"):
        ladder.train_all("nine lives" * 9, 1, 1)
    with pytest.raises(ScratchError, match="one repeated character, 'a'"):
        ladder.train_all("a" * 1000, 1, 1)
    (tmp_path / "latin").write_bytes("süß".encode("latin-1"))
    with pytest.raises(ScratchError, match="is not UTF-8 text"):
        ladder.open_text(tmp_path / "latin")
    assert len(ladder.open_text(None)) > 500_000


def test_a_rung_is_evaluated_on_all_characters_but_the_first():
    torch.manual_seed(0)
    model = ladder_models.Bigram(7)
    ids = torch.randint(7, (ladder.CONTEXT * 70 + 20,))  # more windows than one evaluation batch
    log_probs = model.model.table.weight.detach().log_softmax(-1)
    expected = -log_probs[ids[:-1], ids[1:]][: ladder.CONTEXT * 70].mean().item()
    assert ladder.evaluate(model, ids) == pytest.approx(expected, rel=1e-5)
    train, held_out, characters = ladder.split_text("abc" * 500)
    assert (len(train), len(held_out), characters) == (1350, 150, ["a", "b", "c"])
