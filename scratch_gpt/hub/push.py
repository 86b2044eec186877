"""Publish a model directory: verified by a stranger's process, shown before it goes, sent in one commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoConfig

from ..errors import ScratchError
from .model_directory import AUTO_CLASSES, TARGET_TOKENIZER, copy_tokenizers, kind_of_model
from .twins import export_native

# What may leave the machine. Checkpoints, logs and anything else in the folder stays.
ALLOWED = (
    *("config.json", "generation_config.json", "model.safetensors.index.json", "README.md", "loss.png"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
)
ALLOWED_PATTERNS = ("model*.safetensors", "*.py", f"{TARGET_TOKENIZER}/tokenizer*.json")
NATIVE_REVISION = "native"

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
        ScratchError: this is no model directory.
    """
    if not (folder / "config.json").is_file() or not list(folder.glob("model*.safetensors")):
        raise ScratchError(f"{folder} is no model directory: want config.json and model.safetensors in it")
    found = {path for name in (*ALLOWED, *ALLOWED_PATTERNS) for path in folder.glob(name) if path.is_file()}
    return sorted(found)


def verify_as_stranger(folder: Path, remote_code: bool = True) -> None:
    """Load a directory in a process that cannot import this package, and let it work.

    Raises:
        ScratchError: that process failed; its last words are the reason.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = {**os.environ, "HF_MODULES_CACHE": elsewhere, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-I", "-c", STRANGER, str(folder.resolve()), json.dumps(remote_code)]
        command.append(AUTO_CLASSES[kind_of_model(AutoConfig.from_pretrained(folder))].__name__)
        result = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ScratchError(f"{folder} does not open without this package, so it was not pushed: {reason}")


def push_directory(
    folder: Path, name: str, *, private: bool = False, revision: str = "main", message: str = "Upload model"
) -> str:
    """Send the allowed files of a model directory to the Hub in one commit, which also removes what is stale there.

    Returns:
        The address of the commit.

    Raises:
        ScratchError: the Hub refuses; nothing is half-published, since a commit is all or nothing.
    """
    files = files_to_upload(folder)
    api = HfApi()
    try:
        full_name = api.create_repo(name, private=private, exist_ok=True).repo_id
        if revision != "main":
            api.create_branch(full_name, branch=revision, exist_ok=True)
        stale = _stale_files(api, full_name, revision, {str(path.relative_to(folder)) for path in files})
        operations = [CommitOperationAdd(str(path.relative_to(folder)), path) for path in files] + stale
        info = api.create_commit(full_name, operations, commit_message=message, revision=revision)
    except HfHubHTTPError as error:
        reason = " ".join(str(error).split())
        raise ScratchError(f"the Hub refused {name}: {reason} (is a token set? 'hf auth login' sets one)") from error
    return info.commit_url


def push_native(folder: Path, name: str, *, private: bool = False, confirm: Callable[[Path], None]) -> str:
    """Publish the native twin as the revision "native", which opens without remote code.

    Args:
        confirm: called with the folder that is about to be sent.

    Raises:
        ScratchError: no twin can express the model.
    """
    config = AutoConfig.from_pretrained(folder)
    native = export_native(AUTO_CLASSES[kind_of_model(config)].from_pretrained(folder))
    with tempfile.TemporaryDirectory() as temporary:
        twin = Path(temporary)
        native.save_pretrained(twin)
        copy_tokenizers(str(folder), config, twin)
        for extra in ("README.md", "loss.png"):
            if (folder / extra).exists():
                (twin / extra).write_bytes((folder / extra).read_bytes())
        verify_as_stranger(twin, remote_code=False)
        confirm(twin)
        return push_directory(
            twin, name, private=private, revision=NATIVE_REVISION, message=f"Upload {type(native).__name__} twin"
        )


def _stale_files(api: HfApi, name: str, revision: str, sent: set[str]) -> list:
    """Deletions for model files on the Hub that this push replaces by none."""
    from huggingface_hub import CommitOperationDelete

    try:
        there = api.list_repo_files(name, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return []
    ours = (".py", ".safetensors", ".json")
    return [CommitOperationDelete(path) for path in there if path.endswith(ours) and path not in sent]
