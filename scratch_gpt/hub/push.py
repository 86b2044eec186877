"""Publish a model directory: verified by a stranger's process, sent in one commit, patient with a busy Hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import get_session, set_client_factory
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from transformers import AutoConfig

from ..errors import HubError, ScratchError
from ..secrecy import is_secret, redact
from .model_directory import AUTO_CLASSES, TARGET_TOKENIZER, copy_tokenizers, kind_of_model
from .opening import check_files
from .twins import export_native

# What may leave the machine. Checkpoints, logs and anything else in the folder stays.
ALLOWED = (
    *("config.json", "generation_config.json", "model.safetensors.index.json", "README.md", "loss.png"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
)
ALLOWED_PATTERNS = ("model*.safetensors", "*.py", f"{TARGET_TOKENIZER}/tokenizer*.json")
NATIVE_REVISION = "native"
MODELS = Path(__file__).parents[1] / "models"

ATTEMPTS = 3  # of a push as a whole; single requests are repeated by huggingface_hub too, where it can
# What a Hub answers that is only busy, or whose branch somebody else has moved just now (412).
PASSING = {408, 412, 429, 500, 502, 503, 504}
VERIFICATION_TIMEOUT = 900.0  # seconds that a model may take to load and to generate two tokens
LONGEST_PAUSE = 300.0  # the Hub counts requests over five minutes

STRANGER = """
import json, sys
sys.modules["scratch_gpt"] = None  # as if it were not installed
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, pipeline
folder, remote = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=remote)
config = AutoConfig.from_pretrained(folder, trust_remote_code=remote)
model = getattr(transformers, sys.argv[3]).from_pretrained(folder, trust_remote_code=remote)
tokens = tokenizer("a", return_tensors="pt").input_ids
more = {"decoder_input_ids": tokens} if config.is_encoder_decoder else {}
if not torch.isfinite(model(tokens, **more).logits).all():
    sys.exit("the logits are not finite")
if model.can_generate():
    model.generate(tokens, max_new_tokens=2)
for task in getattr(config, "custom_pipelines", None) or ():
    pipeline(task, folder, trust_remote_code=remote)("a", max_new_tokens=2)
"""


def files_to_upload(folder: Path) -> list[Path]:
    """The files of a model directory that a push sends, in order of name.

    Raises:
        ScratchError: this is no model directory, or holds what is not to be opened, such as links that lead out of it.
    """
    if not (folder / "config.json").is_file() or not list(folder.glob("model*.safetensors")):
        raise ScratchError(f"{folder} is no model directory: want config.json and model.safetensors in it")
    try:
        check_files(folder)
    except ValueError as error:
        raise ScratchError(f"{folder} can't be pushed: {error}") from error
    found = {path for name in (*ALLOWED, *ALLOWED_PATTERNS) for path in folder.glob(name) if path.is_file()}
    return sorted(found)


def foreign_code(folder: Path) -> list[str]:
    """What opening a model directory may run that is not, byte for byte, this package's own: Python files, and
    references in its configs to code elsewhere, in other folders or repositories.

    Raises:
        ScratchError: a config can't be read.
    """
    ours = {path.name: path.read_bytes() for path in MODELS.glob("*.py")}
    files = {path.name for path in folder.glob("*.py") if ours.get(path.name) != path.read_bytes()}
    named: set[str] = set()
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        try:
            named |= _references(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else set()
        except (ValueError, AttributeError, TypeError) as error:
            raise ScratchError(f"{path} can't be read: {error}") from error
    return sorted(files | {name for name in named if f"{name.rpartition('.')[0]}.py" not in ours})


def _references(settings: Any) -> set[str]:
    """The code that a config names: the values of `auto_map`, and the classes of `custom_pipelines`."""
    found: list[Any] = list((settings.get("auto_map") or {}).values())
    found += [pipeline.get("impl") for pipeline in (settings.get("custom_pipelines") or {}).values()]
    flat = [part for value in found for part in (value if isinstance(value, list) else [value])]
    return {str(reference) for reference in flat if reference}


def verify_loads_without_package(folder: Path, remote_code: bool = True, timeout: float = VERIFICATION_TIMEOUT) -> None:
    """Load a directory in a process that cannot import this package, and let it work. It is handed no tokens.

    Args:
        folder: a model directory.
        remote_code: whether it needs, and may run, the code in it.
        timeout: seconds after which the process is ended.

    Raises:
        ScratchError: that process failed or took too long; its last words are the reason.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = {name: value for name, value in os.environ.items() if not is_secret(name)}
        environment |= {"HF_MODULES_CACHE": elsewhere, "HF_HUB_OFFLINE": "1", "HF_TOKEN_PATH": f"{elsewhere}/none"}
        command = [sys.executable, "-I", "-c", STRANGER, str(folder.resolve()), json.dumps(remote_code)]
        config = AutoConfig.from_pretrained(folder, trust_remote_code=remote_code)
        command.append(AUTO_CLASSES[kind_of_model(config)].__name__)
        options: dict[str, Any] = {"cwd": elsewhere, "env": environment, "stdin": subprocess.DEVNULL}
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)
        except subprocess.TimeoutExpired as error:
            raise ScratchError(
                f"{folder} was not pushed: loading it and generating two tokens in a process without this package "
                f"took over {timeout:g} s and was ended"
            ) from error
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ScratchError(f"{folder} does not open without this package, so it was not pushed: {reason}")


def write_native_twin(folder: Path, twin: Path, trust_remote_code: bool = False) -> str:
    """Write the native twin of the model in `folder` into `twin`, and see that it opens without remote code.

    Args:
        folder: a model directory.
        twin: an empty folder.
        trust_remote_code: whether to run code in `folder` that is not this package's.

    Returns:
        The name of its class.

    Raises:
        ScratchError: no twin can express the model.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    model = AUTO_CLASSES[kind_of_model(config)].from_pretrained(folder, trust_remote_code=trust_remote_code)
    native = export_native(model)
    native.save_pretrained(twin)
    copy_tokenizers(str(folder), config, twin, trust_remote_code)
    for extra in ("README.md", "loss.png"):
        if (folder / extra).exists():
            (twin / extra).write_bytes((folder / extra).read_bytes())
    verify_loads_without_package(twin, remote_code=False)
    return type(native).__name__


def push_directory(
    folder: Path,
    name: str,
    *,
    private: bool = False,
    revision: str = "main",
    message: str = "Upload model",
    timeout: float = 120.0,
) -> str:
    """Send the allowed files of a model directory to the Hub in one commit, which also removes what is stale there.

    Where the Hub is out of reach or busy, the whole is tried again; a push that has arrived already is none then, and
    one that arrives late is refused, since each commit names the one that it follows.

    Args:
        timeout: seconds to wait for a Hub that neither takes nor sends a byte, for as long as this process lives;
            huggingface_hub itself would wait for ever.

    Returns:
        The address of the commit.

    Raises:
        HubError: the Hub stayed out of reach or busy. A commit is all or nothing, so that nothing is half-published.
        ScratchError: the Hub refuses.
    """
    client = get_session()
    if client.timeout != type(client.timeout)(timeout):  # else another thread's requests would be cut for nothing
        set_client_factory(lambda: type(client)(event_hooks=client.event_hooks, follow_redirects=True, timeout=timeout))
    patiently = Retrying(
        retry=retry_if_exception(_passes),
        wait=_pause,
        stop=stop_after_attempt(ATTEMPTS),
        before_sleep=_say_why,
        reraise=True,
    )

    try:
        return redact(patiently(_push_once, folder, name, private, revision, message))
    except (HTTPError, RuntimeError, ConnectionError, TimeoutError) as error:
        if _passes(error):
            raise HubError(
                f"the Hub could not be reached, or was too busy, {ATTEMPTS} times: {_reason(error)}. {folder} is as it "
                f"was, and revision {revision!r} of {name} has all of it or nothing: push again later"
            ) from error
        if _answer(error) is None:
            raise
        raise ScratchError(
            f"the Hub refused {name}: {_reason(error)} (is a token set? 'hf auth login' sets one)"
        ) from error


def _push_once(folder: Path, name: str, private: bool, revision: str, message: str) -> str:
    files = {str(path.relative_to(folder)): path for path in files_to_upload(folder)}
    api = HfApi()
    full_name = api.create_repo(name, private=private, exist_ok=True).repo_id
    if revision != "main":
        # Begun at the first commit, where a repository is empty: main's files would show another model until ours came.
        first = api.list_repo_commits(full_name)[-1].commit_id
        api.create_branch(full_name, branch=revision, revision=first, exist_ok=True)
    parent = api.model_info(full_name, revision=revision).sha
    ours = (".py", ".safetensors", ".json", ".jinja")
    there = api.list_repo_files(full_name, revision=revision)
    stale = [CommitOperationDelete(path) for path in there if path.endswith(ours) and path not in files]
    operations = [CommitOperationAdd(path, file) for path, file in files.items()] + stale
    info = api.create_commit(full_name, operations, commit_message=message, revision=revision, parent_commit=parent)
    return info.commit_url


def _answer(error: BaseException | None) -> HfHubHTTPError | None:
    """What the Hub has answered, where an error or what caused it says so."""
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _passes(error: BaseException) -> bool:
    """Whether the same may succeed a little later: the Hub was out of reach, or busy."""
    if answer := _answer(error):
        return answer.response.status_code in PASSING
    # What goes wrong while a large file is sent comes as a RuntimeError, whichever way it is sent.
    uploading = isinstance(error, RuntimeError) and "uploading" in str(error)
    return uploading or isinstance(error, (HTTPError, ConnectionError, TimeoutError))


def _pause(state: RetryCallState) -> float:
    """Seconds before the next attempt: as the Hub asks for, else 2, 4, 8 …"""
    answer = _answer(state.outcome.exception() if state.outcome else None)
    headers = answer.response.headers if answer else {}
    limit = re.search(r"\bt=(\d+)", headers.get("RateLimit", ""))  # IETF draft ratelimit-headers, as the Hub has it
    asked = limit[1] if limit else headers.get("Retry-After", "")
    return min(LONGEST_PAUSE, float(asked) + 1 if asked.isdigit() else 2.0**state.attempt_number)


def _say_why(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    seconds = state.next_action.sleep if state.next_action else 0
    print(f"{_reason(error)}; trying again in {seconds:.0f} s", file=sys.stderr)


def _reason(error: BaseException | None) -> str:
    """An error in one line, with what caused it, without secrets."""
    said = []
    while error is not None:
        said.append(" ".join(str(error).split()) or type(error).__name__)
        error = error.__cause__
    return redact(": ".join(dict.fromkeys(said)))
