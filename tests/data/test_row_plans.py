"""Packing of few and of many segments, and plans that the processes of a machine share."""

import os
import shutil
import time

import numpy as np
import pytest

from scratch_gpt import train_tokenizer
from scratch_gpt.data.batching import row_plans
from scratch_gpt.data.batching.packing import PackedRows
from scratch_gpt.data.batching.row_plans import best_fit, best_fit_decreasing
from scratch_gpt.data.batching.token_shards import Shard, prepare
from scratch_gpt.data.readers.sources import open_source

T = 64
DRAWS = {
    "uniform": lambda draw: draw.integers(1, T, 5000),
    "short": lambda draw: draw.integers(1, 9, 5000),
    "long": lambda draw: draw.integers(T // 2 + 1, T, 5000),
    "log-normal": lambda draw: np.clip(np.ceil(draw.lognormal(2.5, 1, 5000)), 1, T - 1).astype(np.int64),
    "one length": lambda draw: np.full(1000, 7),
    "one segment": lambda draw: np.asarray([5]),
    "none": lambda draw: np.empty(0, np.int64),
}


def rows_of(order: np.ndarray, sizes: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(order, np.cumsum(sizes)[:-1])] if len(sizes) else []


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("pack", [best_fit, best_fit_decreasing])
def test_each_segment_is_in_one_row(pack, name):
    lengths = DRAWS[name](np.random.default_rng(0))
    order, sizes = pack(lengths, T)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert sizes.sum() == len(lengths)
    assert all(0 < lengths[row].sum() <= T for row in rows_of(order, sizes))


@pytest.mark.parametrize("name", DRAWS)
def test_many_segments_are_packed_as_densely_as_few(name):
    lengths = DRAWS[name](np.random.default_rng(0))
    rows = [len(pack(lengths, T)[1]) for pack in (best_fit_decreasing, best_fit)]
    assert rows[0] <= rows[1]
    if name in ("uniform", "short", "log-normal"):
        assert rows[0] <= 1.01 * np.ceil(lengths.sum() / T)


def test_best_fit_takes_the_row_with_the_least_room():
    rows = rows_of(*best_fit(np.asarray([40, 50, 10, 24, 14, 5, 5]), T))
    # 10 goes to 50 (14 left) and not to 40 (24 left); 24 fills the other; 14 needs a new row, which the rest joins.
    assert rows == [[0, 3], [1, 2], [4, 5, 6]]


def test_segments_of_a_length_are_combined_at_random():
    """With many segments, too, a row is repeated in another epoch by chance only."""
    lengths = np.random.default_rng(1).integers(1, T, 3000)
    shuffled = [np.random.default_rng(seed).permutation(3000) for seed in (2, 3)]
    found = []
    for order in shuffled:
        rows = rows_of(*best_fit_decreasing(lengths[order], T))
        found.append({frozenset(order[row].tolist()) for row in rows if len(row) > 1})
    assert len(found[0] & found[1]) < 0.1 * len(found[0])


@pytest.fixture
def shard(tmp_path, monkeypatch) -> Shard:
    """A shard in the cache, whose plans are shared."""
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_plans, "SHARED_SEGMENTS", 1)
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(f'{{"text": "{"ab " * (1 + i % 50)}"}}\n' for i in range(300)))
    return prepare(open_source(str(path)), train_tokenizer(["ab "], "char"))["train"]


def arrays(plan) -> list[list[int]]:
    return [plan.starts.tolist(), plan.lengths.tolist(), plan.offsets.tolist()]


def test_shared_plan_is_that_of_a_single_process(shard, tmp_path, monkeypatch):
    rows = PackedRows(shard, T, 1, 0, seed=0)
    shared = rows.plan(1)
    assert isinstance(shared.starts.base, np.memmap)
    assert len(list((tmp_path / "cache" / "plans").glob("*.1"))) == 1
    monkeypatch.setattr(row_plans, "SHARED_SEGMENTS", 1 << 30)
    alone = PackedRows(shard, T, 1, 0, seed=0).plan(1)
    assert not isinstance(alone.starts.base, np.memmap)
    assert arrays(shared) == arrays(alone)
    monkeypatch.setattr(row_plans, "FEW_SEGMENTS", 0)
    assert len(PackedRows(shard, T, 1, 0, seed=0).plan(1)) <= len(alone)


def test_processes_of_a_machine_build_a_plan_once(shard, tmp_path, monkeypatch):
    """Three processes need the plan at the same time: one builds it, the others wait and open the same files."""
    built = tmp_path / "built"
    built.mkdir()
    original = PackedRows._build_plan

    def build(self, epoch):
        (built / str(os.getpid())).touch()
        time.sleep(0.2)
        return original(self, epoch)

    monkeypatch.setattr(PackedRows, "_build_plan", build)
    children = []
    for number in range(3):
        if not (child := os.fork()):
            try:
                plan = PackedRows(shard, T, 1, 0, seed=0).plan(0)
                np.savez(tmp_path / f"{number}.npz", *map(np.asarray, (plan.starts, plan.lengths, plan.offsets)))
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert len(list(built.iterdir())) == 1
    found = [[part.tolist() for part in np.load(tmp_path / f"{number}.npz").values()] for number in range(3)]
    assert found[0] == found[1] == found[2] == arrays(original(PackedRows(shard, T, 1, 0, seed=0), 0))


def test_old_plans_are_removed_and_other_settings_have_their_own(shard, tmp_path):
    rows = PackedRows(shard, T, 1, 0, seed=0)
    for epoch in range(4):
        rows.plan(epoch)
        time.sleep(0.01)
    folder = tmp_path / "cache" / "plans"
    assert sorted(path.suffix for path in folder.iterdir() if path.is_dir()) == [".2", ".3"]
    for other in (PackedRows(shard, T, 1, 0, seed=1), PackedRows(shard, 2 * T, 1, 0, seed=0)):
        assert arrays(other.plan(3)) != arrays(rows.plan(3))
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 4


def save(name, change):
    def corrupt(entry):
        path = entry / f"{name}.npy"
        np.save(path, change(np.load(path)))

    return corrupt


def changed(array, index, value):
    array[index] = value
    return array


CORRUPTIONS = {
    "missing": lambda entry: (entry / "starts.npy").unlink(),
    "truncated": lambda entry: os.truncate(entry / "lengths.npy", 200),
    "outside the text": save("starts", lambda array: changed(array, 3, 10**9)),
    "negative": save("starts", lambda array: changed(array, 3, -1)),
    "too long for a row": save("lengths", lambda array: changed(array, 3, T + 1)),
    "data type": save("lengths", lambda array: array.astype(np.float32)),
    "order": save("offsets", lambda array: changed(array, 2, 0)),
    "fewer": save("lengths", lambda array: array[:-1]),
    "file": lambda entry: (shutil.rmtree(entry), entry.write_text("x")),
    "link": lambda entry: (entry.rename(entry.with_name("elsewhere")), entry.symlink_to(entry.with_name("elsewhere"))),
}


@pytest.mark.parametrize("case", CORRUPTIONS)
def test_corrupt_plan_is_replaced(case, shard, tmp_path):
    expected = arrays(PackedRows(shard, T, 1, 0, seed=0).plan(0))
    (entry,) = (tmp_path / "cache" / "plans").glob("*.0")
    CORRUPTIONS[case](entry)
    assert arrays(PackedRows(shard, T, 1, 0, seed=0).plan(0)) == expected
    assert entry.is_dir()
    assert not entry.is_symlink()
