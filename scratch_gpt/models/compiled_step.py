"""A decoding step that is compiled ahead of time into a library without Python: `DecodingStep` by AOTInductor.

For a small model, Python and the launches of some hundred operations take longer than the arithmetic; for a large one,
the loops that the compiler writes read the weights faster than the library of matrix products does for a single row.
The readable step remains the reference: it is what is compiled, and tests compare the two.

Compiling takes half a minute or more, once per architecture, number of rows and processor: the library is kept in the
cache of the package, reads the weights of the model where they are, and takes any number of cached tokens.
traced_step.py holds the function that is compiled, and step_threads.py the choice of threads.
"""

import hashlib
import json
import math
import os
import platform
import tempfile
import time
import warnings
import weakref
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from .experts import MixtureOfExperts
from .functional_layers import MAX_LOOP_ROWS
from .step_threads import StepThreads, threads, use_huge_pages
from .traced_step import StepInputs, TracedStep

logger = logging.get_logger(__name__)

SECONDS, SECONDS_PER_LAYER = 25.0, 2.0  # of compiling, estimated
STEPS_BEFORE = 8  # steps after which compiling is considered: the first are slower
SAVED = 0.5  # of the time of a step, estimated
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS = {
    "aot_inductor.package_constants_in_so": False,  # the weights are the model's
    "aot_inductor.compile_wrapper_opt_level": "O1",
    "cpp.dynamic_threads": True,  # `StepThreads` chooses
    "scalar_asserts": False,  # export assumes that several tokens are cached; the code is right for one, too
    "cpp.enable_floating_point_contract_flag": "fast",  # multiply and add in one instruction
    "cpp.use_decompose_tanh": True,
}

_libraries: "weakref.WeakKeyDictionary[Any, dict[str, Library]]" = weakref.WeakKeyDictionary()  # of each model, by key
_spent: dict[str, float] = {}  # seconds of steps that were not compiled, by key


@dataclass
class Library:
    """A loaded library.

    Attributes:
        package: the library itself.
        threads: chooses the number of threads; None if there is only one, or for many rows, which are left to the
            library of matrix products, whose rounding may depend on that number.
        weights: which the library reads, and which must exist as long as it does.
    """

    package: Any
    threads: StepThreads | None
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def read_weights(self, tensors: dict[str, torch.Tensor]) -> None:
        """Make the library read the tensors of the model, unless it does."""
        weights = {name: tensors[name.removeprefix("model.")] for name in self.package.get_constant_fqns()}
        if {name: x.data_ptr() for name, x in weights.items()} != {n: x.data_ptr() for n, x in self.weights.items()}:
            use_huge_pages(weights.values())
            self.package.load_constants(weights, check_full_update=True, user_managed=True)
            self.weights = weights


class CompiledStep:
    """A compiled step of one decoder.

    Args:
        library: the loaded library.
        inputs: of the step.
    """

    def __init__(self, library: Library, inputs: StepInputs):
        self.library, self.run, self.inputs = library, library.package.loader.run, inputs

    def __call__(self, token_ids: torch.Tensor, ngrams: torch.Tensor | None) -> torch.Tensor:
        """Append one token to each row (B,), and return the logits (B, V)."""
        inputs, choice = self.inputs(token_ids, ngrams), self.library.threads
        if choice is None:
            logits, *new = self.run(inputs)
        else:
            started = time.perf_counter()
            with threads(choice.count):
                logits, *new = self.run(inputs)
            choice.record(time.perf_counter() - started)
        for buffer, written in zip(self.inputs.decoder.buffers, new, strict=True):
            buffer.write(written)
        return logits


class StepCompiler:
    """Decides whether the step of a decoder is compiled, compiles it, and finds it in the cache.

    Args:
        decoder: a `StepDecoder`.
        model: its model.
        choice: "auto", "on" or "off".
        beams: number of consecutive rows with the same source.
    """

    def __init__(self, decoder: Any, model: Any, choice: str, beams: int):
        self.decoder, self.model, self.choice, self.beams = decoder, model, choice, beams
        self.inputs = StepInputs(decoder)
        self.threads = torch.get_num_threads()
        named = *model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)
        self.tensors = {name: tensor.detach() for name, tensor in named}  # the weights
        self.key = self._key()
        self.steps = 0  # of this decoder that were not compiled

    def find(self) -> CompiledStep | None:
        """The compiled step, if it is known or in the cache, or is to be compiled in any case."""
        path = cache_path(self.key)
        if self.key not in _libraries.get(self.model, {}):
            if self.choice == "on" and not path.exists():
                self.compile(path)
            if not path.exists():
                return None
        return self._load(path)

    def consider(self, seconds: float) -> CompiledStep | None:
        """After a step that was not compiled, compile if that saves more time than it takes: in the steps that remain,
        or if as many follow as this process has had already.

        Args:
            seconds: duration of the step.
        """
        self.steps += 1
        _spent[self.key] = spent = _spent.get(self.key, 0.0) + seconds
        if self.steps != STEPS_BEFORE or spent < 0:  # negative after a failure
            return None
        ahead = (self.decoder.remaining - self.steps) * seconds
        if max(spent, ahead) * SAVED <= self.cost or not has_compiler():
            return None
        try:
            self.compile(cache_path(self.key))
        except Exception as error:  # of the compiler, which raises any kind; the text can be written without it
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning(f"the decoding step can't be compiled, and is used as it is: {reason}")
            _spent[self.key] = -math.inf  # do not try again in this process
            return None
        return self._load(cache_path(self.key))

    @property
    def cost(self) -> float:
        """Estimated seconds of compiling."""
        return SECONDS + SECONDS_PER_LAYER * len(self.decoder.trunk.layers)

    def compile(self, path: Path) -> None:
        """Compile the step into a file of the cache."""
        use_private_cache()
        from torch._inductor import aoti_compile_and_package

        logger.warning(
            f"compiling the decoding step of {type(self.model).__name__} once, for about "
            f"{self.cost:.0f} s; it is kept in {path.parent}"
        )
        examples = self.inputs.examples()
        automatic = torch.export.Dim.AUTO
        fixed = dict(enumerate(self.inputs.varying, start=3))
        shapes: list[Any] = [None, None, dict.fromkeys(range(examples[2].ndim - 1), automatic)]
        shapes += [dict.fromkeys(fixed[i], automatic) if i in fixed else None for i in range(3, len(examples))]
        traced = TracedStep(self.model, self.inputs, self.beams).eval()
        with torch.no_grad(), tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, about its own code
            exported = torch.export.export(
                traced, tuple(examples), dynamic_shapes={"tensors": tuple(shapes)}, strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )  # fmt: skip
            package = aoti_compile_and_package(
                exported, package_path=str(Path(folder, "step.pt2")), inductor_configs=OPTIONS
            )
            os.replace(package, path)

    def _load(self, path: Path) -> CompiledStep | None:
        """Load the library for the model, which is one per model, and give it the weights."""
        from torch._inductor import aoti_load_package

        libraries = _libraries.setdefault(self.model, {})
        if self.key not in libraries:
            try:
                package = aoti_load_package(str(path))
            except RuntimeError as error:  # cut off, or of another system
                logger.warning(f"{path} can't be loaded and is removed: {error}")
                path.unlink(missing_ok=True)
                return None
            adaptive = self.threads > 1 and self.inputs.rows <= MAX_LOOP_ROWS
            libraries[self.key] = Library(package, StepThreads(self.threads) if adaptive else None)
        libraries[self.key].read_weights(self.tensors)
        return CompiledStep(libraries[self.key], self.inputs)

    def _key(self) -> str:
        ignored = ("transformers_version", "architectures", "auto_map", "id2label", "label2id")
        parts = {
            "config": {
                name: value
                for name, value in vars(self.model.config).items()
                if not name.startswith("_") and name not in ignored
            },
            "weights": [(name, str(x.dtype), tuple(x.shape)) for name, x in self.tensors.items()],
            "inputs": self.inputs.layout,
            "per row": self.inputs.per_row,
            "rows": self.inputs.rows,
            "beams": self.beams,
            "threads": self.threads,
            "torch": torch.__version__,
            "processor": processor_flags(),
            "sources": sources_digest(),
        }
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def find_compiler(decoder: Any, model: Any, beams: int) -> StepCompiler | None:
    """The compiler of a decoder's step; None if the model's `decoding_compilation` is "off", or if the step can't be
    compiled, which is said if it is "on".

    Args:
        decoder, model, beams: see `StepCompiler`.
    """
    choice = getattr(model, "decoding_compilation", "off")
    if choice == "off":
        return None
    buffer = decoder.buffers[0].buffer
    reason = None
    if buffer.device.type != "cpu":
        reason = f"the model is on {buffer.device.type}"
    elif buffer.dtype not in DTYPES:
        reason = f"its weights are {buffer.dtype}"
    elif any(isinstance(module, MixtureOfExperts) for module in decoder.trunk.modules()):
        reason = "its experts are chosen by the data"
    elif choice == "on" and not has_compiler():
        reason = "there is no C++ compiler: install g++"
    if reason is None:
        return StepCompiler(decoder, model, choice, beams)
    if choice == "on":
        logger.warning_once(f"the decoding step of {type(model).__name__} is not compiled: {reason}")
    return None


def cache_folder(name: str) -> Path:
    """A folder in the cache of the package, which only its owner can read and write: `make_cache`, which files that are
    saved with a checkpoint can't import."""
    cache = Path(os.environ.get("SCRATCH_GPT_CACHE") or Path.home() / ".cache" / "scratch_gpt")
    for folder in (cache, cache / name):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return cache / name


def use_private_cache() -> None:
    """Make the compiler keep its code in the cache of the package, unless the environment names another folder. The
    default is a folder with a predictable name in the temporary directory, which other users could create."""
    import torch._inductor.codecache as codecache  # the import takes a second, and sets the environment variable
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    if folder == default_cache_dir():
        folder = os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder("compiled"))
    # Compiled headers are in the temporary directory whatever the environment says.
    codecache._HEADER_DIR = os.path.join(folder, "precompiled_headers")
    codecache._HEADER_LOCK_DIR = os.path.join(folder, "precompiled_headers", "locks")


def cache_path(key: str) -> Path:
    """The file of a compiled step."""
    return cache_folder("steps") / f"{key}.pt2"


def has_compiler() -> bool:
    """Whether there is a C++ compiler."""
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(cpp_builder.get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


@cache
def processor_flags() -> str:
    """What compiled code depends on besides its source: the architecture and instruction sets of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.platform()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()} {flags}"


@cache
def sources_digest() -> str:
    """Digest of the files of this folder, from which the step is made."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
