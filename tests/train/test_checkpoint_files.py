"""Checkpoints on disk: how many are kept, that files are synced before the rename, and that staging directories are
ignored."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.models import tiny_model
from helpers.training import make_trainer

from scratch_gpt.errors import TrainingError
from scratch_gpt.train.checkpoints import manifest
from scratch_gpt.train.checkpoints.checkpoint import (
    checkpoint_folders,
    newest_checkpoint,
    publish,
    publish_into,
    remove_partial,
)
from scratch_gpt.train.checkpoints.manifest import find_corruption, write_manifest

QUICK = {"optimizer": "adamw", "learning_rate": 1e-3, "eval_every": 0}


def steps_in(run: Path) -> list[int]:
    """The steps of the directories in `checkpoints`, all of which must be named as checkpoints."""
    names = [path.name for path in (run / "checkpoints").iterdir()]
    assert all(name == f"step-{int(name[5:]):08d}" for name in names), names
    return sorted(int(name[5:]) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(("keep_last", "kept"), [(1, [4]), (2, [3, 4]), (3, [2, 3, 4]), (9, [1, 2, 3, 4])])
def test_keep_last_checkpoints_are_kept(keep_last, kept, tmp_path):
    run = tmp_path / "run"
    make_trainer(run, tiny_model("llama"), max_steps=4, save_every=1, keep_last=keep_last, **QUICK).run()
    assert steps_in(run) == kept
    assert [find_corruption(folder) for folder in checkpoint_folders(run)] == [None] * len(kept)


def test_old_checkpoint_is_removed_after_the_new_one_is_written(tmp_path, monkeypatch):
    """At any time, at least `keep_last` checkpoints exist."""
    run, seen = tmp_path / "run", []
    real = shutil.rmtree

    def rmtree(path, *arguments, **options):
        if Path(path).name.startswith("step-"):
            seen.append((Path(path).name, steps_in(run)))
        real(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    make_trainer(run, tiny_model("llama"), max_steps=4, save_every=1, keep_last=2, **QUICK).run()
    assert seen == [("step-00000001", [1, 2, 3]), ("step-00000002", [2, 3, 4])]


# --- syncing ----------------------------------------------------------------------------


class Disk:
    """Records calls of `os.fsync` and renames into a directory, and executes them."""

    def __init__(self, monkeypatch, folder: Path):
        self.folder, self.synced, self.renamed = folder, {}, []
        real = {name: getattr(os, name) for name in ("fsync", "rename", "replace")}

        def fsync(descriptor: int) -> None:
            real["fsync"](descriptor)
            self.synced[identity(os.fstat(descriptor))] = state(os.fstat(descriptor))

        def renaming(name: str):
            def rename(source, target, **options) -> None:
                if Path(target).is_relative_to(folder):
                    self.renamed.append((Path(source), Path(target), self.unsynced(Path(source)), len(self.synced)))
                    # The directory must be synced again, for its new entry.
                    self.synced.pop(identity(Path(target).parent.stat()), None)
                real[name](source, target, **options)

            return rename

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "rename", renaming("rename"))
        monkeypatch.setattr(os, "replace", renaming("replace"))

    def unsynced(self, path: Path) -> list[str]:
        """Files and directories, from `path` downwards, that were not synced since they were last written."""
        paths = [path, *path.rglob("*")] if path.is_dir() else [path]
        return [p.name for p in paths if self.synced.get(identity(p.stat())) != state(p.stat())]


def identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def test_checkpoint_files_are_synced_before_the_rename(tmp_path, monkeypatch):
    """The parent directory is synced after the rename."""
    run = tmp_path / "run"
    trainer = make_trainer(run, tiny_model("llama"), max_steps=2, save_every=1, **QUICK)
    disk = Disk(monkeypatch, run / "checkpoints")
    trainer.run()
    assert [target.name for _, target, _, _ in disk.renamed] == ["step-00000001", "step-00000002"]
    assert [unsynced for _, _, unsynced, _ in disk.renamed] == [[], []]
    assert disk.unsynced(run / "checkpoints/step-00000002") == []
    assert identity((run / "checkpoints").stat()) in disk.synced
    files = {path.name for path in (run / "checkpoints/step-00000002").iterdir()}
    assert {"model.safetensors", "training_state.safetensors", "training_state.json", "manifest.json"} <= files


def test_best_model_files_are_synced_before_they_replace_others(tmp_path, monkeypatch):
    """Weights are moved last."""
    run = tmp_path / "run"
    trainer = make_trainer(run, tiny_model("llama"), max_steps=1, **QUICK)
    disk = Disk(monkeypatch, run)
    trainer.run()
    best = [(s, t, unsynced) for s, t, unsynced, _ in disk.renamed if t.parent == run and s.parent.parent == run]
    assert {"config.json", "tokenizer.json", "README.md", "model.safetensors"} <= {t.name for _, t, _ in best}
    assert [unsynced for _, _, unsynced in best] == [[]] * len(best)
    assert best[-1][1].name == "model.safetensors"
    for _, target, _ in best:
        assert disk.unsynced(target) == [], target


@pytest.mark.parametrize("publish_function", [publish, publish_into])
def test_files_in_subdirectories_are_synced(publish_function, tmp_path, monkeypatch):
    """This includes those of a second tokenizer; at the end, each directory with a new entry is synced."""
    unfinished = tmp_path / "unfinished"
    (unfinished / "target_tokenizer").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "target_tokenizer/tokenizer.json"):
        (unfinished / name).write_text(name)
    finished = tmp_path / "finished"
    if publish_function is publish_into:
        finished.mkdir()
    disk = Disk(monkeypatch, tmp_path)
    publish_function(unfinished, finished)
    assert disk.renamed
    assert [unsynced for _, _, unsynced, _ in disk.renamed] == [[]] * len(disk.renamed)
    assert (finished / "target_tokenizer/tokenizer.json").read_text() == "target_tokenizer/tokenizer.json"
    hold_new_names = [tmp_path] if publish_function is publish else [finished, finished / "target_tokenizer"]
    assert all(identity(folder.stat()) in disk.synced for folder in hold_new_names)  # after the last rename


def test_failed_sync_keeps_earlier_checkpoints(tmp_path, monkeypatch):
    """Whether the sync of a file or of the directory fails, the previous checkpoint stays valid, and no staging
    directory is left. If the last sync, after the rename, fails, the new checkpoint stays too."""
    run, real = tmp_path / "run", os.fsync
    trainer = make_trainer(run, tiny_model("llama"), max_steps=9, **QUICK)
    trainer.advance(1)
    calls = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(descriptor), real(descriptor)))
    trainer.save_now()
    total = len(calls)
    assert total >= len(list((run / "checkpoints/step-00000001").iterdir())) + 2  # the directory and its parent
    trainer.advance(1)
    for failing in (*range(0, total - 2, 5), total - 2, total - 1):
        calls.clear()

        def refuse(descriptor: int, failing=failing) -> None:
            calls.append(descriptor)
            if len(calls) > failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(TrainingError, match=r"checkpoint step-00000002 can't be written: .*No space left"):
            trainer.save_now()
        monkeypatch.setattr(os, "fsync", real)
        assert steps_in(run) == ([1] if failing < total - 1 else [1, 2]), failing
        assert find_corruption(newest_checkpoint(run)) is None
    trainer.save_now()
    assert steps_in(run) == [1, 2]
    assert find_corruption(run / "checkpoints/step-00000002") is None


# --- unfinished checkpoints --------------------------------------------------------------------


@pytest.fixture
def killed(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A run of three steps that was killed right before the rename of its third checkpoint, whose files are all
    written, synced and listed in the staging directory. Returns both directories."""
    run, unfinished = tmp_path / "run", []
    real = os.rename

    def rename(source, target, **options):
        if Path(target).name == "step-00000003":
            unfinished.append(Path(source))
            shutil.copytree(source, tmp_path / "aside")
            assert checkpoint_folders(run) == [run / "checkpoints" / f"step-0000000{n}" for n in (1, 2)]
        real(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        make_trainer(run, tiny_model("llama"), max_steps=3, save_every=1, keep_last=2, **QUICK).run()
    shutil.rmtree(run / "checkpoints/step-00000003")
    shutil.copytree(run / "checkpoints/step-00000002", run / "checkpoints/step-00000001")
    (tmp_path / "aside").rename(unfinished[0])
    assert find_corruption(unfinished[0]) is None  # it differs from a checkpoint only by its name
    return run, unfinished[0]


def test_staging_directory_is_not_a_checkpoint(killed):
    run, unfinished = killed
    assert unfinished.exists()
    assert [folder.name for folder in checkpoint_folders(run)] == ["step-00000001", "step-00000002"]
    assert newest_checkpoint(run) == run / "checkpoints/step-00000002"


@pytest.mark.parametrize("name", ["step-00000009.copy", "old-step-00000009", "step-", ".step-00000009", "step-9x"])
def test_copy_under_another_name_is_not_a_checkpoint(name, tmp_path):
    run = tmp_path / "run"
    make_trainer(run, tiny_model("llama"), max_steps=1, **QUICK).run()
    shutil.copytree(run / "checkpoints/step-00000001", run / "checkpoints" / name)
    assert checkpoint_folders(run) == [run / "checkpoints/step-00000001"]


def test_staging_directories_are_removed_on_resume(killed, capsys):
    run, unfinished = killed
    (run / ".best.partial").mkdir()
    remove_partial(run)
    printed = capsys.readouterr().out
    assert all(f"removed {folder}, left by a killed run\n" in printed for folder in (unfinished, run / ".best.partial"))
    assert not unfinished.exists()
    assert not (run / ".best.partial").exists()
    assert steps_in(run) == [1, 2]


def test_manifest_covers_subdirectories_but_not_itself(tmp_path):
    """A truncated or empty manifest is corruption; one in a subdirectory is a file like any other."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below/manifest.json").write_text("{}")
    write_manifest(tmp_path)
    assert find_corruption(tmp_path) is None
    (tmp_path / "below/manifest.json").write_text("[]")
    assert find_corruption(tmp_path) == "the bytes of below/manifest.json were changed"
    for text in ("", "{}", "[]", '{"files": {}}'):
        (tmp_path / "manifest.json").write_text(text)
        assert find_corruption(tmp_path) is not None


def test_on_windows_files_are_synced_open_for_writing_and_directories_are_not(tmp_path, monkeypatch):
    """Windows refuses to open a directory, and to flush a file that is open for reading."""
    (tmp_path / "weights").write_bytes(b"1")
    opened = []

    def open_as_windows(path, flags: int) -> int:
        assert path.is_file()
        opened.append(flags)
        return os.open(path, flags)

    windows = SimpleNamespace(name="nt", open=open_as_windows, fsync=os.fsync, close=os.close)
    windows.O_RDONLY, windows.O_RDWR = os.O_RDONLY, os.O_RDWR
    monkeypatch.setattr(manifest, "os", windows)
    manifest.sync(tmp_path)
    assert opened == [os.O_RDWR]
