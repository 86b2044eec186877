"""The film of a run, with `--film`: copies of its weights at steps spaced by powers of 1.5.

Early steps change a model most, so that the steps 0, 1, 2, 3, 5, 8, 11, 17, 26, … show more of a training than as many
at equal distances. A frame has the weights that would be published, as float16; `scratch_gpt.see.film` reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ...atomic_files import replacing
from ...errors import TrainingError
from ...hub.model_directory import ModelDirectory
from ...hub.tensor_files import first_of_tied, whole
from ...see.film import FOLDER, frame_path, frame_paths, partial_frames
from ...terminal import SafeConsole
from ..checkpoints.background_writer import BackgroundWriter

GROWTH = 1.5


def is_film_step(step: int) -> bool:
    """Whether a film has a frame after this step: it is 0 or a power of 1.5, rounded."""
    if step < 1:
        return step == 0
    exponent = round(math.log(step, GROWTH))
    return any(round(GROWTH**near) == step for near in (exponent - 1, exponent, exponent + 1))


class Film:
    """Writes the frames of a run, asynchronously.

    A run that is resumed writes the later frames again, and continues the series of one that was interrupted: the last
    frame of a run that had ended, which is not of the series, is removed. Without `--film`, a run that is resumed
    removes the later frames too, since its weights may now be others.

    Args:
        folder: directory of the run.
        directory: says which weights are published.
        writer: writes in the background.
        step: optimizer steps already taken.
        last_step: optimizer steps at the end of the run.
        enabled: whether the run has a film.
        main: whether this is the main process; the others write and remove nothing.
    """

    def __init__(
        self,
        folder: Path,
        directory: ModelDirectory,
        writer: BackgroundWriter,
        step: int,
        last_step: int,
        enabled: bool,
        main: bool,
    ):
        self.folder, self.directory, self.writer, self.main = folder, directory, writer, main
        if main:
            for line in prepare_film(folder, step, last_step, enabled):
                SafeConsole().print(line, soft_wrap=True)

    def write(self, step: int, weights: dict[str, torch.Tensor]) -> None:
        """Copy the trained weights after a step in memory; a background thread writes them. If they are sharded, every
        process must call this."""
        self.writer.wait()
        frame = as_frame(self.directory.published(weights), self.main)
        if self.main:
            self.writer.submit(write_frame, self.folder, step, frame)


def prepare_film(folder: Path, step: int, last_step: int, enabled: bool) -> list[str]:
    """Remove what a run that starts or goes on would contradict: frames of steps that it trains again, and files that a
    killed process has left.

    Args:
        folder: directory of the run.
        step: optimizer steps already taken.
        last_step: optimizer steps at the end of the run.
        enabled: whether the run has a film.

    Returns:
        Lines about what was removed, and about frames that are missing or will be.
    """
    lines = []
    if partial := partial_frames(folder):
        lines.append(
            f"removed from {folder / FOLDER}, left by a killed run: {', '.join(each.name for each in partial)}"
        )
    frames = frame_paths(folder)
    outdated = [each for each in frames if each > step or (enabled and (each == step or not is_film_step(each)))]
    for path in (*partial, *(frames[each] for each in outdated)):
        path.unlink()
    # The frame of this step is written again at once.
    if removed := [each for each in outdated if each != step or not (is_film_step(step) or step == last_step)]:
        lines.append(
            f"removed from {folder / FOLDER}: frames of steps {listed(removed)}, as the run goes on from {step}"
        )
    kept = frames.keys() - set(outdated)
    if enabled and (missing := [each for each in film_steps(step) if each < step and each not in kept]):
        lines.append(f"{folder / FOLDER} has no frames of steps {listed(missing)}, which were trained without --film")
    if not enabled and kept:
        lines.append(f"{folder / FOLDER} has frames up to step {max(kept)} and gets no more, without --film")
    return lines


def film_steps(last: int) -> list[int]:
    """The steps of a film up to a last one, in order."""
    powers = range(math.ceil(math.log(last + 1, GROWTH)) + 1)
    return [step for step in sorted({0, *(round(GROWTH**power) for power in powers)}) if step <= last]


def listed(steps: Iterable[int]) -> str:
    """Steps as text."""
    return ", ".join(f"{step:,}" for step in steps)


@torch.no_grad()
def as_frame(weights: dict[str, torch.Tensor], keeps: bool = True) -> dict[str, torch.Tensor]:
    """Copies of weights as float16; tied ones, which are one object, have the first of their names only. Sharded ones
    are made whole one at a time, by all processes together.

    Args:
        weights: the weights, by name.
        keeps: whether this process keeps the copies; otherwise the result is empty.
    """
    if not keeps:  # it takes part, since the first process needs its rows
        for weight in first_of_tied(weights).values():
            whole(weight)
        return {}
    return {
        name: whole(weight).detach().to("cpu", torch.float16, copy=True).contiguous()
        for name, weight in first_of_tied(weights).items()
    }


def write_frame(folder: Path, step: int, frame: dict[str, torch.Tensor]) -> None:
    """Write a frame of a film.

    Args:
        folder: directory of the run.
        step: optimizer steps after which the model had these weights.
        frame: the weights, by name.

    Raises:
        TrainingError: it can't be written, such as on a full disk.
    """
    path = frame_path(folder, step)
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as staged:
            save_file(frame, staged, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} can't be written: {error}: fix the cause, then --resume") from error
