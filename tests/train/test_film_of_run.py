"""`--film`: copies of the weights at steps spaced by powers of 1.5."""

import shutil

import pytest
import torch
from helpers.models import randomise, tiny_model
from helpers.native import save_chat_model
from helpers.pages import payload_in, weights_in
from helpers.processes import PRETRAIN, PROJECT, TINY_RUN, TWO_PROCESSES, run_here, run_python
from helpers.training import make_trainer, pretrain, weights
from safetensors.torch import load_file
from transformers import AutoTokenizer

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


def test_verify_says_nothing_of_a_film(text_file, tmp_path):
    """It resumes the run in temporary folders, which have no frames."""
    pretrain(tmp_path / "filmed", text_file, "--max_steps", "3", "--film")
    verified = run_here("scratch-gpt", "verify", str(tmp_path / "filmed"))
    assert "bit-equal" in verified.stdout
    assert "frames" not in verified.stdout


def test_a_run_that_is_resumed_says_what_of_its_film_is_missing(text_file, tmp_path):
    """With a film, then without, then with it again: no frame is of weights that the run does not have."""
    run, film = tmp_path / "run", tmp_path / "run" / "film"
    constant = ("--schedule", "constant", "--warmup_steps", "0", "--save_every", "2", "--keep_last", "99")
    pretrain(run, text_file, *constant, "--max_steps", "6", "--film", "--page")
    shutil.rmtree(run / "checkpoints" / "step-00000006")  # as if it had been killed after step 5
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    (film / ".step-00000008.ab12.safetensors").write_bytes(b"a part")
    (film / "notes.txt").write_text("mine")
    first = frames(run)

    def resume(*options):
        options = ("--resume", "--allow_changed_settings", *options)
        return run_here(PRETRAIN, "--output_dir", str(run), *options).stdout

    printed = resume("--no-film", "--no-page", "--max_steps", "9")
    assert f"removed from {film}, left by a killed run: .step-00000008.ab12.safetensors\n" in printed
    assert f"removed from {film}: frames of steps 3, 5, 6, as the run goes on from 2\n" in printed
    assert f"{film} has frames up to step 2 and gets no more, without --film\n" in printed
    assert f"{run / 'see.html'} is from before this run" in printed
    assert list(frames(run)) == [0, 1, 2]
    assert sorted(path.name for path in film.iterdir() if "step-" not in path.name) == ["notes.txt"]

    printed = resume("--film", "--max_steps", "12")
    assert f"{film} has no frames of steps 3, 5, 8, which were trained without --film\n" in printed
    assert "removed" not in printed
    found = frames(run)
    assert list(found) == [0, 1, 2, 11, 12]
    assert all(same(found[step], first[step]) for step in (0, 1, 2))
    expected = weights(run / "checkpoints" / "step-00000012")
    assert all(torch.equal(weight, expected[name].half()) for name, weight in found[12].items())
    assert "removed" not in resume("--film", "--max_steps", "12")  # it has ended


@pytest.mark.parametrize(
    "decay",
    [pytest.param((), marks=pytest.mark.release), pytest.param(("--average_decay", "0.9"), marks=pytest.mark.slow)],
)
def test_only_the_first_of_two_processes_writes_the_film(decay, text_file, tmp_path):
    """Its frames are the weights of the checkpoints, which both processes have."""
    run = tmp_path / "run"
    options = ("--max_steps", "3", "--save_every", "1", "--keep_last", "99", "--film", *decay)
    start = ("--output_dir", str(run), "--dataset", str(text_file), *TINY_RUN, *options)
    printed = run_python(*TWO_PROCESSES, PRETRAIN, *start, cwd=PROJECT)
    found = frames(run)
    assert list(found) == [0, 1, 2, 3]
    assert {path.name for path in (run / "film").iterdir()} == {f"step-{step:08d}.safetensors" for step in found}
    for step in (1, 2, 3):
        expected = weights(run / "checkpoints" / f"step-{step:08d}")
        if decay:
            state = load_file(run / "checkpoints" / f"step-{step:08d}" / "training_state.safetensors")
            expected = {name: state[f"average.{name}"] for name in expected}
        assert all(torch.equal(weight, expected[name].half()) for name, weight in found[step].items())
    (run / "film" / ".step-00000005.ab12.safetensors").write_bytes(b"a part")
    more = ("--resume", "--allow_changed_settings", "--max_steps", "5")
    printed = run_python(*TWO_PROCESSES, PRETRAIN, "--output_dir", str(run), *more, cwd=PROJECT).stdout
    assert printed.count("left by a killed run") == 1
    assert list(frames(run)) == [0, 1, 2, 3, 5]


def conversations(folder, **fields):
    """A chat model of this package, and a file of conversations."""
    save_chat_model(folder / "chat", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "chat")
    randomise(tiny_model("llama", vocab_size=len(tokenizer), **fields)).save_pretrained(folder / "ours")
    tokenizer.save_pretrained(folder / "ours")
    (folder / "chats.jsonl").write_text('{"prompt": "Rose a?", "completion": "red"}\n' * 12)
    return folder


def test_a_film_of_adapters_has_the_merged_weights(tmp_path):
    """A page shows it; where it could not, the run is refused before anything is written."""
    base, run = conversations(tmp_path), tmp_path / "run"
    options = ["--dataset", str(base / "chats.jsonl"), "--output_dir", str(run), "--num_threads", "1", "--film"]
    options += ["--max_steps", "3", "--save_every", "1", "--batch_size", "2", "--precision", "fp32"]
    options += ["--lora_rank", "4", "--learning_rate", "0.02", "--warmup_steps", "1", "--page", "--keep_last", "99"]
    sft = str(PROJECT / "training" / "sft.py")
    for name, more, message in (
        ("ours", ["--adapter_only"], "--film keeps whole models, and --adapter_only publishes none"),
        ("chat", [], "--film is for models of this package, and this run trains a "),
    ):
        refused = run_here(sft, "--init_from", str(base / name), *options, *more, check=False)
        assert (refused.returncode, message in refused.stderr) == (2, True), refused.stderr
        assert not run.exists()
    run_here(sft, "--init_from", str(base / "ours"), *options)
    found = frames(run)
    assert list(found) == [0, 1, 2, 3]
    start = load_file(base / "ours" / "model.safetensors")
    assert all(torch.equal(weight, start[name].half()) for name, weight in found[0].items())
    for step in (1, 2, 3):
        expected = weights(run / "checkpoints" / f"step-{step:08d}")
        assert all(torch.equal(weight, expected[name].half()) for name, weight in found[step].items())
    assert not same(found[0], found[3])
    assert payload_in(run / "see.html")["film"]["steps"] == [0, 1, 2, 3]


def test_a_film_of_a_policy_has_no_value_head(tmp_path):
    base, run = conversations(tmp_path), tmp_path / "run"
    (base / "prompts.txt").write_text("\n".join(f"Rose {each}?" for each in "abcdefghijkl"))
    options = [
        "--dataset",
        str(base / "prompts.txt"),
        "--output_dir",
        str(run),
        "--num_threads",
        "1",
        "--film",
        "--page",
    ]
    options += ["--max_steps", "2", "--save_every", "1", "--keep_last", "99", "--prompts_per_rollout", "4"]
    options += ["--validation_prompts", "2", "--max_new_tokens", "4", "--algorithm", "ppo", "--reward", "re:a"]
    options += ["--num_generations", "2", "--eval_every", "2"]
    run_here(str(PROJECT / "training" / "policy_gradient.py"), "--init_from", str(base / "ours"), *options)
    checkpoint = run / "checkpoints" / "step-00000002"
    assert "unpublished.value_head.score.weight" in load_file(checkpoint / "training_state.safetensors")
    found, expected = frames(run), weights(checkpoint)
    assert list(found) == [0, 1, 2]
    assert found[2].keys() <= expected.keys()
    assert all(torch.equal(weight, expected[name].half()) for name, weight in found[2].items())
    assert payload_in(run / "see.html")["film"]["steps"] == [0, 1, 2]


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
