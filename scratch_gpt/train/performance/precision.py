"""Whether a CPU computes matrix products faster in bfloat16 than in float32, by a measurement.

The answer depends on the processor, on its libraries and on the shape: with matrix units (AMX) bfloat16 is several
times as fast, with vector instructions for it (AVX-512 BF16) twice, and with neither it is emulated and many times
slower; the casts around a small product may take longer than bfloat16 saves. A product of the width of the model is
therefore timed in both types, once per processor and release of torch; the times are kept in the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.nn import functional as F

from ...atomic_files import write_text
from ...cache import cache_directory, make_cache
from ...errors import ScratchError
from ...untrusted import read_json

ROWS, MAX_WIDTH = 512, 1024  # more rows and columns take longer to time, and have the same ratio
MIN_WIDTH = 64  # a product of smaller matrices takes microseconds, and its ratio is noise: float32 is used
SECONDS = 0.05  # of timing, after one product of warm-up
NEEDED_RATIO = 1.2  # products are only a part of a step, and the casts of the rest take time too
ENVIRONMENT = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")  # limit the instruction set

CPUINFO = ("vendor_id", "cpu family", "model", "stepping", "model name", "flags")


@dataclass(frozen=True)
class ProductTimes:
    """Times of a matrix product on this processor.

    Attributes:
        width: of a product (ROWS, width) by (width, width).
        float32, bfloat16: seconds; that of bfloat16 includes casting both operands.
    """

    width: int
    float32: float
    bfloat16: float

    @property
    def prefers_bf16(self) -> bool:
        """Whether bfloat16 is enough faster to be used."""
        return self.width >= MIN_WIDTH and self.float32 >= NEEDED_RATIO * self.bfloat16

    def __str__(self) -> str:
        size = f"a product of {ROWS} rows with a {self.width} x {self.width} matrix"
        return f"{size} takes {self.bfloat16 * 1e3:.2f} ms in bfloat16 here, and {self.float32 * 1e3:.2f} ms in float32"


_known: dict[int, ProductTimes] = {}  # by width


def product_times(width: int) -> ProductTimes:
    """The times of a product of this width: those that this process knows, else those in the cache, else measured now.

    Args:
        width: of the model; wider ones than `MAX_WIDTH` have its times.
    """
    width = min(width, MAX_WIDTH)
    if width not in _known:
        _known[width] = _cached_times(width)
    return _known[width]


def share_product_times(width: int) -> None:
    """Give all processes of a run the times that the first one has, so that all choose the same; every process must
    call it."""
    width = min(width, MAX_WIDTH)
    with PartialState().local_main_process_first():  # a measurement beside others would be wrong
        times = [product_times(width)]
    broadcast_object_list(times)
    _known[width] = times[0]


def _cached_times(width: int) -> ProductTimes:
    key = {"processor": processor(), "rows": ROWS, "width": width}
    text = json.dumps(key, sort_keys=True)
    path = cache_directory() / "products" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    try:
        found = read_json(path)
        return ProductTimes(width, float(found["float32"]), float(found["bfloat16"]))
    except (OSError, ScratchError, KeyError, TypeError, ValueError):
        times = measure_product(width)
    make_cache("products")
    write_text(path, json.dumps({**key, **asdict(times)}, indent=1))
    return times


def measure_product(width: int) -> ProductTimes:
    """Time a product of this width in both types in turn, and keep the fastest of each. One thread is timed: several
    would wait for each other if another process keeps a core busy, and the ratio is the same."""
    left, right = torch.ones(ROWS, width), torch.ones(width, width)

    def seconds(dtype: torch.dtype) -> float:
        started = time.perf_counter()
        F.linear(left.to(dtype), right.to(dtype))
        return time.perf_counter() - started

    threads, dtypes = torch.get_num_threads(), (torch.float32, torch.bfloat16)
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for dtype in dtypes:
                seconds(dtype)  # warm-up: the library chooses its kernel
            times, end = [tuple(map(seconds, dtypes))], time.perf_counter() + SECONDS
            while time.perf_counter() < end:
                times.append(tuple(map(seconds, dtypes)))
    finally:
        torch.set_num_threads(threads)
    return ProductTimes(width, *map(min, zip(*times, strict=True)))


def model_width(config: Any) -> int:
    """The width of a model, also of one of another package; `MAX_WIDTH` if its config does not say."""
    width = getattr(config.get_text_config(), "hidden_size", None)
    return width if isinstance(width, int) and width > 0 else MAX_WIDTH


def uses_bf16(precision: str, device: torch.device, width: int) -> bool:
    """Whether to train in bfloat16: if requested, or with "auto" if it is faster.

    Args:
        precision: "fp32", "bf16" or "auto".
        device: of the training run.
        width: of the model.
    """
    return precision == "bf16" or (precision == "auto" and prefers_bf16(device, width))


def describe_precision(precision: str, device: torch.device, width: int) -> str:
    """The precision of a run, "bf16" or "fp32", and, if it was chosen by "auto", why; arguments as of `uses_bf16`."""
    chosen = "bf16" if uses_bf16(precision, device, width) else "fp32"
    if precision != "auto":
        return chosen
    return f"{chosen} ({product_times(width) if device.type == 'cpu' else f'the device is {device.type}'})"


def prefers_bf16(device: torch.device, width: int) -> bool:
    """Whether a device computes matrix products of this width faster in bfloat16 than in float32.

    Args:
        device: a CPU is measured; a GPU is asked whether it computes bfloat16 without emulation; others do not.
        width: of the model.
    """
    if device.type == "cpu":
        return product_times(width).prefers_bf16
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def processor() -> dict[str, str]:
    """What the speed of a product depends on, besides its shape and the threads: processor, torch and environment."""
    found = {"machine": platform.machine(), "name": platform.processor(), "torch": torch.__version__}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:  # not Linux
        lines = []
    named = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    found |= {name: named[name] for name in CPUINFO if name in named}
    return found | {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
