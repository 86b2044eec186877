"""Checks before a push: that a model directory, and its native twin, load in a process without this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig

from ..errors import ScratchError, tokenizer_errors
from ..models.compatibility import OLDEST
from ..redaction import is_secret
from ..tokenization.safety import check_growth
from ..untrusted import read_json
from .base_model import stored_dtype
from .card_usage import CODE_REVISION
from .directory_checks import check_size
from .engines.native_class import check_difference, logit_difference
from .loading import load_model
from .model_directory import AUTO_CLASSES, copy_tokenizers, kind_of_model
from .native.convert import NoNativeClassError, export_native, native_twin, save_native
from .native.twin import Twin
from .staging import DOCUMENTS, foreign_code, staged
from .upload import MAIN_REVISION

VERIFICATION_TIMEOUT = 900.0  # seconds for loading a model and generating two tokens

LOAD_WITHOUT_PACKAGE = """
import json, sys
sys.modules["scratch_gpt"] = None  # as if it were not installed
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer
folder, remote = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=remote)
config = AutoConfig.from_pretrained(folder, trust_remote_code=remote)
auto_class = getattr(transformers, sys.argv[3])
model = auto_class.from_pretrained(folder, trust_remote_code=remote, use_safetensors=True)
tokens = tokenizer("a", return_tensors="pt").input_ids
more = {"decoder_input_ids": tokens} if config.is_encoder_decoder else {}
if not torch.isfinite(model(tokens, **more)[0]).all():
    sys.exit("its outputs are not finite")
if model.can_generate():
    model.generate(tokens, max_new_tokens=2)
for task in getattr(config, "custom_pipelines", None) or ():
    from transformers import pipeline  # takes seconds to import
    options = {"trust_remote_code": remote, "model_kwargs": {"use_safetensors": True}}
    pipeline(task, folder, **options)("a", max_new_tokens=2)
"""


def check_sizes(folder: Path) -> None:
    """Check, before any process loads a model, the sizes in its config and how much its tokenizers can expand a text.
    Code in the folder is not run.

    Raises:
        ScratchError: the config or a tokenizer can't be read, the model is too large for this machine or for its
            weights, or a tokenizer can expand a text too much.
    """
    try:
        for path in (folder / "tokenizer.json", folder / "target_tokenizer" / "tokenizer.json"):
            if path.is_file():
                with tokenizer_errors():
                    check_growth(Tokenizer.from_file(str(path)))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        check_size(AUTO_CLASSES[kind_of_model(config)], config, folder, False)
    except Exception as error:  # a malicious config can cause any exception
        raise ScratchError(f"{folder} can't be loaded, so it was not pushed: {error}") from error


def verify_loads_without_package(folder: Path, remote_code: bool = True, timeout: float = VERIFICATION_TIMEOUT) -> None:
    """Load a model directory and run the model in a process that cannot import this package. Access tokens and other
    secrets are removed from its environment.

    Args:
        folder: a model directory.
        remote_code: whether to load it with `trust_remote_code`. Its code never runs in this process.
        timeout: seconds after which the process is killed.

    Raises:
        ScratchError: the process failed, with the last line of its standard error as the reason, or it timed out.
    """
    raw = read_json(folder / "config.json")
    config = SimpleNamespace(architectures=raw.get("architectures"), is_encoder_decoder=raw.get("is_encoder_decoder"))
    with tempfile.TemporaryDirectory() as temporary:
        environment = {name: value for name, value in os.environ.items() if not is_secret(name)}
        environment |= {"HF_MODULES_CACHE": temporary, "HF_HUB_OFFLINE": "1", "HF_TOKEN_PATH": f"{temporary}/none"}
        arguments = ["-I", "-c", LOAD_WITHOUT_PACKAGE, str(folder.resolve()), json.dumps(remote_code)]
        arguments.append(AUTO_CLASSES[kind_of_model(config)].__name__)
        try:
            result = run_python(arguments, temporary, environment, timeout)
        except subprocess.TimeoutExpired as error:
            raise ScratchError(
                f"{folder} was not pushed: loading it and generating two tokens in a process without this package "
                f"took over {timeout:g} s and was killed"
            ) from error
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ScratchError(f"{folder} does not load without this package, so it was not pushed: {reason}")


def run_python(
    arguments: list[str], folder: str, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess:
    """Run this Python in another process, without input.

    Args:
        arguments: of the interpreter.
        folder: working directory.
        environment: all environment variables.
        timeout: seconds.

    Raises:
        subprocess.TimeoutExpired: it was killed after the timeout.
    """
    options: dict[str, Any] = {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=timeout, **options)


def write_native_twin(folder: Path, twin: Path, trust_remote_code: bool = False) -> Twin:
    """Export the model in `folder` to transformers' own class (its native twin), and check that it loads without
    remote code.

    Args:
        folder: a model directory.
        twin: an empty folder to save the native twin in.
        trust_remote_code: whether to run model and tokenizer code in `folder` that is not this package's.

    Returns:
        The twin's conversion, with its class and the releases of transformers that it opens in.

    Raises:
        NoNativeClassError: no native class can express the model.
        ScratchError: the model or its tokenizers can't be loaded, or the twin computes other logits.
    """
    model = load_model(folder, trust_remote_code)
    found = native_twin(model)
    native: Any = export_native(model)
    config: Any = model.config
    shape = (4, min(16, config.max_position_embeddings))
    rows = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).tolist()
    check_difference(logit_difference(model, native, rows))
    # Rounded once, after the folds of the conversion
    save_native(native.to(stored_dtype(folder, trust_remote_code)), twin)
    try:
        copy_tokenizers(str(folder), model.config, twin, trust_remote_code)
    except Exception as error:  # a malicious tokenizer can cause any exception
        raise ScratchError(f"no tokenizer can be loaded from {str(folder)!r}: {error}") from error
    for document in DOCUMENTS:
        if (folder / document).is_file():
            (twin / document).write_bytes((folder / document).read_bytes())
    with staged(twin) as copy:
        verify_loads_without_package(copy, remote_code=False)
    return found


class Revision(NamedTuple):
    """A revision of a repository.

    Attributes:
        name: name of the branch.
        folder: the model directory to upload.
        content: what it contains, in words.
        needs: what loading it needs, in words.
    """

    name: str
    folder: Path
    content: str
    needs: str


def revisions_to_push(folder: Path, trust_remote_code: bool) -> tuple[list[Revision], NoNativeClassError | None]:
    """The revisions that a push publishes: where transformers has a class for the model, the main revision is in that
    class, and another one has our code. The native twin is written beside `folder`. A model that is in transformers'
    own class already is published as it is.

    Args:
        folder: a staged model directory.
        trust_remote_code: whether to run model and tokenizer code in it that is not this package's.

    Returns:
        The revisions, and the reason if there is no native one.

    Raises:
        ScratchError: the model or its tokenizers can't be loaded.
    """
    content = "model, code and card"
    needs = f"transformers {'.'.join(map(str, OLDEST))} or later with trust_remote_code=True"
    if not foreign_code(folder):
        needs += ", or the package scratch_gpt"
    config = read_json(folder / "config.json")
    class_name = (config.get("architectures") or [""])[0]
    if isinstance(class_name, str) and hasattr(transformers, class_name) and "auto_map" not in config:
        own = f"transformers, for its own class {class_name}"
        return [Revision(MAIN_REVISION, folder, f"{class_name} and card", own)], None
    twin = folder.with_name(f"{folder.name}-native")
    try:
        native = write_native_twin(folder, twin, trust_remote_code)
    except NoNativeClassError as error:
        return [Revision(MAIN_REVISION, folder, content, needs)], error
    class_name = native.model_class.__name__
    native_needs = f"transformers {native.since} or later{native.note}, for its own class {class_name}"
    main = Revision(MAIN_REVISION, twin, f"{class_name} and card", native_needs)
    return [main, Revision(CODE_REVISION, folder, content, needs)], None
