"""The film of a training run: copies of its weights at some steps, which a page shows one after the other.

`DIR/film/step-00000026.safetensors` has the weights after that step, as float16. Training writes such frames with
`--film`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from ..errors import ScratchError
from ..untrusted import check_regular
from .payload import ModelPayload, pack
from .support import MAX_PARAMETERS

FOLDER = "film"
NAME = re.compile(r"step-(\d{8,})\.safetensors")


class Film(NamedTuple):
    """A film as the data of a page.

    Attributes:
        content: what becomes JSON: `steps`, one per frame; `recorded`, the number of frames that the run has; and
            `tensors`, the shape, data type and offset of each weight in the bytes of every frame.
        frames: the bytes of each frame.
    """

    content: dict[str, Any]
    frames: list[bytes]


def frame_path(run: Path, step: int) -> Path:
    """The file of the weights after a step."""
    return run / FOLDER / f"step-{step:08d}.safetensors"


def frame_paths(run: Path) -> dict[int, Path]:
    """The frames of a run by their steps, in order."""
    found = {int(match[1]): path for path in (run / FOLDER).glob("step-*") if (match := NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def partial_frames(run: Path) -> list[Path]:
    """Incomplete frames, which a process that was killed while it wrote has left, by name."""
    return sorted((run / FOLDER).glob(".step-*.safetensors"))


def read_film(run: Path, model: ModelPayload, others: int = 0) -> Film:
    """Read the film of a run. If a page has no room for all frames, some of them are left out at equal distances.

    Args:
        run: directory of the run.
        model: its model, in the same page.
        others: number of parameters of other models in the page.

    Raises:
        ScratchError: the run has no film, a frame is not of this model, or the page has no room for two frames.
    """
    paths = frame_paths(run)
    if len(paths) < 2:
        found = f"only step {next(iter(paths))}" if paths else "nothing"
        raise ScratchError(f"{run} has no film, {found} in {run / FOLDER}: train it with --film")
    size = num_parameters(model)
    room = (MAX_PARAMETERS - others - size) // size
    if room < 2:
        raise ScratchError(
            f"the film of {run} does not fit: a page has at most {MAX_PARAMETERS:,} parameters in all, and each frame "
            f"has {size:,}: omit --film"
        )
    steps = evenly(list(paths), room)
    layout: dict[str, Any] = {}
    frames: list[bytes] = []
    for step in steps:
        layout, frame = read_frame(paths[step], model.content["tensors"], model.content["tied"])
        frames.append(frame)
    return Film({"steps": steps, "recorded": len(paths), "tensors": layout}, frames)


def num_parameters(model: ModelPayload) -> int:
    """The number of weights of a model, tied ones once."""
    return sum(math.prod(tensor["shape"]) for tensor in model.content["tensors"].values())


def evenly(steps: list[int], count: int) -> list[int]:
    """At most `count` of the steps, at least 2, at equal distances in the list; the first and the last are kept."""
    if len(steps) <= count:
        return steps
    return [steps[round(place * (len(steps) - 1) / (count - 1))] for place in range(count)]


def read_frame(path: Path, tensors: Mapping[str, Any], tied: Mapping[str, str]) -> tuple[dict[str, Any], bytes]:
    """Read the weights of a frame, which is not trusted to be valid.

    Args:
        path: its file.
        tensors: the weights that the model has, with their shapes.
        tied: names of tied weights with the name of the weight that each is.

    Returns:
        Shape, data type and offset of each weight by its name, and the bytes, as `pack` returns them.

    Raises:
        ScratchError: the file can't be read, is of another model, or has a weight that is not finite.
    """
    found: dict[str, torch.Tensor] = {}
    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            stored = set(file.keys())
            for name, tensor in tensors.items():
                names = [name, *(alias for alias, original in tied.items() if original == name)]
                known = next((each for each in names if each in stored), None)
                part = None if known is None else file.get_slice(known)
                if part is None or (part.get_shape(), part.get_dtype()) != (tensor["shape"], "F16"):
                    want = f"{name} of the shape {tensor['shape']}, as float16"
                    raise ScratchError(f"{path} is not a frame of this model: want {want}")
                found[name] = file.get_tensor(known)
    except (SafetensorError, OSError) as error:
        raise ScratchError(f"{path} can't be read: {error}") from error
    for name, weight in found.items():
        if not weight.isfinite().all():
            raise ScratchError(f"{path} can't be shown: {name} is not finite as float16: omit --film, or remove it")
    return pack(found, "float16")
