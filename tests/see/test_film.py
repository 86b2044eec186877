"""The training film of a page: frames of a run in it, and refusals in one line."""

import re
import shutil

import pytest
import torch
from helpers.models import randomise
from helpers.pages import payload_in, shown, weights_in
from helpers.processes import refusals, run_here
from safetensors.torch import load_file, save_file

from scratch_gpt.hub.model_directory import save_tokenizers
from scratch_gpt.see import film, page
from scratch_gpt.see.film import evenly, frame_path, frame_paths
from scratch_gpt.train.engine.film import as_frame, write_frame

STEPS = (0, 1, 2, 3, 5, 8, 9)


def save_run(folder, kind="causal"):
    """A model directory with a film of random weights."""
    found = shown(kind)
    for step in STEPS:
        write_frame(folder, step, as_frame(randomise(shown(kind).model, seed=step).state_dict(keep_vars=True)))
    found.model.save_pretrained(folder)
    save_tokenizers(*found.tokenizers, folder)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    for name, kind in (("run", "causal"), ("characters", "ngram"), ("translator", "two_vocabularies")):
        (folder / name).mkdir()
        save_run(folder / name, kind)
    shutil.copytree(folder / "run", folder / "copy", ignore=shutil.ignore_patterns("film"))
    for name in ("one", "broken", "infinite", "smaller"):
        shutil.copytree(folder / "run", folder / name)
    for path in list(frame_paths(folder / "one").values())[1:]:
        path.unlink()
    frame_path(folder / "broken", 9).write_bytes(b"no weights")
    path = frame_path(folder / "infinite", 3)
    frame = load_file(path)
    frame["model.norm.weight"][0] = torch.inf
    save_file(frame, path)
    frame["model.norm.weight"] = torch.ones(3, dtype=torch.float16)
    save_file(frame, frame_path(folder / "smaller", 0))
    return folder


@pytest.mark.parametrize(("name", "run"), [("run", "run"), ("copy", "run"), ("translator", "translator")])
def test_a_page_has_the_frames_of_a_run(name, run, world):
    result = run_here("scratch-gpt", "see", name, "--film", run, "--dtype", "float32", cwd=world)
    assert "recorded steps" not in result.stdout
    found = payload_in(world / "see.html")["film"]
    assert (found["steps"], found["recorded"]) == (list(STEPS), len(STEPS))
    for index, path in enumerate(frame_paths(world / run).values()):
        expected = load_file(path)
        weights = weights_in(world / "see.html", found["tensors"], f"film-{index}")
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weight, expected[key]) for key, weight in weights.items())


@pytest.mark.parametrize("against", [False, True])
def test_frames_that_do_not_fit_are_left_out_evenly(against, world, monkeypatch):
    size = shown("causal").model.num_parameters()
    for module in (film, page):
        monkeypatch.setattr(module, "MAX_PARAMETERS", (6 if against else 5) * size + size // 2)
    options = ["--against", "copy"] if against else []
    result = run_here("scratch-gpt", "see", "run", "--film", "run", *options, cwd=world)
    assert "the page has 4 of the 7 recorded steps" in result.stdout
    found = payload_in(world / "see.html")["film"]
    assert (found["steps"], found["recorded"]) == ([0, 2, 5, 9], 7)
    assert "film-4" not in (world / "see.html").read_text()


def test_steps_at_equal_distances():
    assert evenly([0, 1, 2], 3) == [0, 1, 2]
    assert evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert evenly(list(range(20)), 2) == [0, 19]
    for count in range(2, 30):
        found = evenly(list(range(29)), count)
        assert len(set(found)) == min(count, 29)
        assert (found[0], found[-1]) == (0, 28)


FAILS = [
    ("copy --film copy", "copy has no film, nothing in copy/film: train it with --film"),
    ("one --film one", "one has no film, only step 0 in one/film: train it with --film"),
    ("run --film none", "no model can be opened from 'none'"),
    ("run --film characters", "--film characters is of a model with another config than run"),
    ("broken --film broken", "broken/film/step-00000009.safetensors can't be read"),
    ("infinite --film infinite", "step-00000003.safetensors can't be shown: model.norm.weight is not finite"),
    ("smaller --film smaller", "step-00000000.safetensors is not a frame of this model: want model.norm.weight"),
    ("run --film", "requires an argument"),
]


def test_bad_input_is_an_error_in_one_line(world):
    (world / "see.html").unlink(missing_ok=True)
    outcomes = refusals("scratch-gpt", [["see", *arguments.split()] for arguments, _ in FAILS], cwd=world)
    for (arguments, message), (code, errors) in zip(FAILS, outcomes, strict=True):
        assert code == 2, (arguments, errors)
        (line,) = re.findall("^error: .*$", errors, re.M)
        assert message in line, arguments
    assert not (world / "see.html").exists()


def test_a_film_that_does_not_fit_is_refused(world, monkeypatch):
    size = shown("causal").model.num_parameters()
    monkeypatch.setattr(film, "MAX_PARAMETERS", 2 * size + size // 2)
    result = run_here("scratch-gpt", "see", "run", "--film", "run", cwd=world, check=False)
    assert result.returncode == 2
    assert f"the film of run does not fit: a page has at most {2 * size + size // 2:,} parameters" in result.stderr
