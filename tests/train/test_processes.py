"""Resuming with another number of processes: each sample is seen once, and the result is the same."""

import json
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.processes import PRETRAIN, PROJECT, TINY_RUN, TWO_PROCESSES, run_here, run_python
from helpers.training import weights

from scratch_gpt import train_tokenizer
from scratch_gpt.data.batching.encoding import encode_pairs
from scratch_gpt.data.batching.token_shards import prepare
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.hub.loading import Tokenizers
from scratch_gpt.train.engine.task import DataState
from scratch_gpt.train.tasks.language_modeling.task import LanguageModeling
from scratch_gpt.train.tasks.translation.task import Translation


def language_modeling(tokenizer, accelerator) -> LanguageModeling:
    """A task whose step has eight rows, shared by the processes and their accumulated batches."""
    shards = prepare(open_source("stories", num_stories=60), tokenizer)
    return LanguageModeling(accelerator, shards, tokenizer, 32, 2, seed=3)


def translation(tokenizer, accelerator) -> Translation:
    """A task whose step has four batches, each with any number of rows."""
    pairs = list(open_pairs("grammar", "de", "en", num_pairs=300).read())
    encoded = encode_pairs(iter(pairs), tokenizer, tokenizer, 128, False)
    sides = [source for source, _ in pairs], [target for _, target in pairs]
    return Translation(accelerator, encoded, encoded, sides, Tokenizers(tokenizer, tokenizer), 128, 3, eval_beams=1)


def rows_of(batch: dict[str, torch.Tensor]) -> list[tuple]:
    """Return the labels of each row of a batch, without padding."""
    return [tuple(label for label in row if label != -100) for row in batch["labels"].tolist()]


def rows_of_epoch(task: LanguageModeling | Translation) -> Counter:
    """Return the labels of all rows of the first epoch, read without the order of the batches."""
    if isinstance(task, Translation):
        target = task.train.pairs.target
        return Counter(tuple(target[number].tolist()) for number in range(len(target)))
    plan = task.rows.plan(0)
    shard = task.shards["train"]  # rows consist of its pieces: each token is in one of them
    pieces = np.concatenate([np.arange(s, s + n) for s, n in zip(plan.starts, plan.lengths, strict=True)])
    assert sorted(pieces.tolist()) == list(range(len(shard.tokens)))
    return Counter(row for number in range(len(plan)) for row in rows_of(task.rows.batch([(plan, number)])))


def samples(make_task, tokenizer, state: DataState, processes: int, steps: int | None) -> tuple[Counter, DataState]:
    """Return the rows of `steps` steps (None: the rest of the epoch) of all processes, and the state after them."""
    tasks = []
    for index in range(processes):
        accelerator = SimpleNamespace(process_index=index, num_processes=processes, device=torch.device("cpu"))
        tasks.append(make_task(tokenizer, accelerator))
    seen: Counter = Counter()
    streams = [task.batches(state) for task in tasks]
    count = tasks[0].batches_left(state, 1) if steps is None else steps * 4 // processes
    for _ in range(count):
        for stream in streams:
            batch, next_state = next(stream)
            seen.update(rows_of(batch))
        state = next_state
    return seen, state


@pytest.mark.parametrize("make_task", [language_modeling, translation])
@pytest.mark.parametrize("changes", [(2, 1, 2), (1, 4, 2), (4, 2, 1)])
def test_samples_of_an_epoch_are_independent_of_the_processes(make_task, changes):
    """Seven steps with the first number of processes, eight with the second, the rest of the epoch with the third: each
    row occurs once; only the last step of several processes may reach into the next epoch."""
    tokenizer = train_tokenizer(
        [text for pair in open_pairs("grammar", "de", "en", num_pairs=300).read() for text in pair], "char"
    )
    alone = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    whole = rows_of_epoch(make_task(tokenizer, alone))
    state, seen = DataState(), Counter()
    for processes, steps in zip(changes, (7, 8, None), strict=True):
        part, state = samples(make_task, tokenizer, state, processes, steps)
        seen += part
    assert sum(whole.values()) > 15 * 4
    assert not whole - seen
    ahead, _ = samples(make_task, tokenizer, DataState(1, 0), 1, 1)
    assert sum((seen - whole).values()) <= sum(ahead.values())
    assert not (seen - whole) - ahead
    if state == DataState(1, 0):
        assert seen == whole


@pytest.mark.slow
def test_changing_the_number_of_processes_keeps_the_result(tmp_path):
    """Each step has the same rows, and the loss curves are equal within rounding."""
    text, straight, changing = tmp_path / "text.txt", tmp_path / "straight", tmp_path / "changing"
    text.write_text("One day, Anna has two old lamps and a dog that sleeps.\n" * 60)
    options = ("--max_steps", "9", "--save_every", "3", "--keep_last", "9", "--log_every", "1", "--dropout", "0")
    start = ("--output_dir", str(straight), "--dataset", str(text), *TINY_RUN, *options)
    run_python(*TWO_PROCESSES, PRETRAIN, *start, cwd=PROJECT)
    shutil.copytree(straight, changing)
    for step, processes in ((3, 1), (6, 2)):
        for folder in (changing / "checkpoints").glob("step-*"):
            if folder.name > f"step-{step:08d}":
                shutil.rmtree(folder)
        resume = ("--output_dir", str(changing), "--resume", "--gradient_accumulation_steps", str(2 // processes))
        if processes == 1:
            run_here(PRETRAIN, *resume)
            state = json.loads((changing / "checkpoints/step-00000009/training_state.json").read_text())
            assert len(state["random"]) == 1  # written by one process
        else:
            run_python(*TWO_PROCESSES, PRETRAIN, *resume, cwd=PROJECT)
    for step in (3, 6, 9):
        name = f"checkpoints/step-{step:08d}"
        numbers = [json.loads((r / name / "training_state.json").read_text())["loop"] for r in (straight, changing)]
        assert numbers[0]["data"] == numbers[1]["data"]
        for weight, expected in weights(straight / name).items():
            torch.testing.assert_close(weights(changing / name)[weight], expected, atol=2e-4, rtol=1e-3, msg=weight)
    rows = [[json.loads(line) for line in (r / "metrics.jsonl").read_text().splitlines()] for r in (straight, changing)]
    for one, other in zip(*rows, strict=True):
        assert one["tokens"] == other["tokens"]
        assert other["train_loss"] == pytest.approx(one["train_loss"], abs=1e-4)
