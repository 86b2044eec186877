"""`--film`: copies of the weights at steps spaced by powers of 1.5."""

import pytest
import torch
from helpers.models import tiny_model
from helpers.pages import payload_in, weights_in
from helpers.processes import PRETRAIN, run_here
from helpers.training import make_trainer, pretrain, weights
from safetensors.torch import load_file

from scratch_gpt.see import film as film_of_page
from scratch_gpt.see.film import frame_paths
from scratch_gpt.train.engine.film import is_film_step

KEEP_ALL = {"save_every": 1, "keep_last": 99}


def frames(run) -> dict[int, dict[str, torch.Tensor]]:
    return {step: load_file(path) for step, path in frame_paths(run).items()}


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(weight, others[name]) for name, weight in some.items())


def test_steps_are_powers_of_one_and_a_half():
    assert [step for step in range(-5, 100) if is_film_step(step)] == [0, 1, 2, 3, 5, 8, 11, 17, 26, 38, 58, 86]
    assert [step for step in range(900_000, 1_300_000) if is_film_step(step)] == [round(1.5**34)]


@pytest.mark.parametrize("decay", [None, 0.9])
def test_frames_are_the_weights_at_their_steps(decay, tmp_path):
    """Those that would be published: the moving average, if there is one."""
    run, model = tmp_path / "run", tiny_model("llama")
    before = {name: weight.half() for name, weight in model.state_dict().items()}
    make_trainer(run, model, max_steps=12, film=True, average_decay=decay, **KEEP_ALL).run()
    found = frames(run)
    assert list(found) == [0, 1, 2, 3, 5, 8, 11, 12]
    for step, frame in found.items():
        expected = before
        if step > 0:
            folder = run / "checkpoints" / f"step-{step:08d}"
            expected = weights(folder)
            if decay:
                state = load_file(folder / "training_state.safetensors")
                expected = {name: state[f"average.{name}"] for name in expected}
        assert frame.keys() <= expected.keys() <= before.keys()
        assert sum(weight.numel() for weight in frame.values()) == model.num_parameters()
        assert all(torch.equal(weight, expected[name].half()) for name, weight in frame.items()), step
    assert not same(found[11], found[12])


def test_a_film_does_not_change_the_run(text_file, tmp_path):
    options = ("--max_steps", "4", "--dropout", "0.2", "--save_every", "2")
    pretrain(tmp_path / "with", text_file, *options, "--film")
    pretrain(tmp_path / "without", text_file, *options)
    for part in (".", "checkpoints/step-00000004", "checkpoints/step-00000002"):
        assert same(weights(tmp_path / "with" / part), weights(tmp_path / "without" / part))
    assert not (tmp_path / "without" / "film").exists()


def test_a_resumed_run_continues_the_film(text_file, tmp_path):
    """The last frame of the first part is not one of the series, and is removed."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = (
        "--schedule",
        "constant",
        "--warmup_steps",
        "0",
        "--dropout",
        "0.1",
        "--save_every",
        "2",
        "--film",
        "--eval_every",
        "3",
    )
    pretrain(whole, text_file, *options, "--max_steps", "9")
    pretrain(parts, text_file, *options, "--max_steps", "6")
    assert list(frames(parts)) == [0, 1, 2, 3, 5, 6]
    run_here(PRETRAIN, "--output_dir", str(parts), "--resume", "--allow_changed_settings", "--max_steps", "9")
    found, expected = frames(parts), frames(whole)
    assert list(found) == list(expected) == [0, 1, 2, 3, 5, 8, 9]
    assert all(same(found[step], expected[step]) for step in expected)
    run_here(PRETRAIN, "--output_dir", str(parts), "--resume")  # it has ended: nothing changes
    assert all(same(frame, expected[step]) for step, frame in frames(parts).items())


def test_the_page_of_a_run_shows_its_film(text_file, tmp_path, monkeypatch):
    run = tmp_path / "run"
    pretrain(run, text_file, "--max_steps", "4", "--film", "--page")
    film = payload_in(run / "see.html")["film"]
    assert film["steps"] == [0, 1, 2, 3, 4]
    for index, frame in enumerate(frames(run).values()):
        assert same(weights_in(run / "see.html", film["tensors"], f"film-{index}"), frame)
    monkeypatch.setattr(film_of_page, "MAX_PARAMETERS", 1000)
    printed = run_here(PRETRAIN, "--output_dir", str(run), "--resume").stdout
    assert f"{run / 'see.html'} has no film: the film of {run} does not fit" in printed
    assert payload_in(run / "see.html")["film"] is None
