"""Copies of the tokenizers of a checkpoint, byte for byte where that is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils import cached_file

from ..errors import ScratchError
from ..tokenization.saving import save_tokenizer
from .loading import open_tokenizer
from .model_directory import TARGET_TOKENIZER, has_target_tokenizer

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("source.spm", "target.spm", "chat_template.jinja", "chat_template.json"),
)
PROBE = "Hello, world!  Zwei Häuser\n\t1234 – 今天 🙂"


def copy_tokenizer_files(name: str, config: Any, folder: Path) -> list[str]:
    """Copy the files of a checkpoint's tokenizer, and of its target tokenizer if there is one, to another folder.

    transformers can choose the class of a tokenizer by the type of the model beside it. A copy that does not open as
    the original does is replaced by one that states its class.

    Args:
        name: folder or Hub id of the checkpoint.
        config: the model's config.
        folder: a model directory.

    Returns:
        What a user should know about the copies, in words.
    """
    notes = _copy(name, "", folder)
    return notes + (_copy(name, TARGET_TOKENIZER, folder) if has_target_tokenizer(config) else [])


def _copy(name: str, subfolder: str, folder: Path) -> list[str]:
    destination, copied = folder / subfolder, []
    for file in TOKENIZER_FILES:
        found = cached_file(name, file, subfolder=subfolder, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            destination.mkdir(exist_ok=True)
            (destination / file).write_bytes(Path(found).read_bytes())
            copied.append(destination / file)
    if not copied:
        return [f"{name} has no {subfolder or 'tokenizer'}: none was copied"]
    try:
        original = open_tokenizer(name, subfolder, needs_end=False)
    except ScratchError as error:
        return [f"the files of its tokenizer were copied, but it can't be used here: {error}"]
    try:
        is_same = _behaviour(original) == _behaviour(open_tokenizer(str(folder), subfolder, needs_end=False))
    except ScratchError:
        is_same = False
    if not is_same:
        for path in copied:
            path.unlink()
        save_tokenizer(original, destination)
    return []


def _behaviour(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, ...]:
    ids = tokenizer(PROBE, verbose=False)["input_ids"]
    return ids, len(tokenizer), tokenizer.special_tokens_map, tokenizer.chat_template, tokenizer.padding_side
