"""Models that training starts from (`--init_from`). A model in a class of transformers that has an equivalent of this
package is converted to it in memory; others are trained in their own class, where the task can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ...errors import ScratchError
from ...hub.loading import load_model, open_config, open_tokenizer
from ...hub.model_directory import Kind
from ...hub.native.importing import NotImportableError, import_to_memory, is_native_config, plan_import
from ...tokenization.chat import read_chat_template
from .common import note


def load_initial_model(
    name: str | Path,
    trust_remote_code: bool,
    kind: Kind,
    resumed: bool = False,
    announce: bool = True,
    keep_class: str | None = None,
    **settings: Any,
) -> PreTrainedModel:
    """Load the model that training starts from, in float32 on the CPU.

    Args:
        name: folder or Hub id.
        trust_remote_code: whether to run code from the checkpoint.
        kind: kind of model that the task trains.
        resumed: whether it is a checkpoint of this run, whose class stays the same.
        announce: whether to print that it was imported, or why not.
        keep_class: why a model in a class of transformers is not converted; None to convert it if it can be.
        settings: config fields to override, such as dropouts.

    Raises:
        ScratchError: the model can't be opened, or is of another kind.
    """
    if resumed or not is_native_config(open_config(name, trust_remote_code)):
        return load_model(name, trust_remote_code, kind, **settings)
    try:
        plan = None if keep_class else plan_import(name, kind, **settings)
    except NotImportableError as error:
        plan, keep_class = None, error.reason
    if plan is None:
        model = load_model(name, trust_remote_code, kind, **settings)
        line = f"{name} is trained in its own class {type(model).__name__}: {keep_class}"
    else:
        model = import_to_memory(plan)
        line = f"imported {name} ({plan.class_name})"
    if announce:
        note(line)
    return model


def check_initial_model(name: str | Path, trust_remote_code: bool, kind: Kind, model_type: str, task: str) -> None:
    """Check from the config of a checkpoint that a task that trains models of this package only can start from it.

    Args:
        name: folder or Hub id.
        trust_remote_code: whether to run code from the checkpoint.
        kind: kind of model that the task trains.
        model_type: type of our config that the task trains.
        task: what the task does, for errors, such as "translation trains".

    Raises:
        ScratchError: it is another type of model, and can't be converted; the message says which classes can.
    """
    config = open_config(name, trust_remote_code)
    found = config.model_type
    wanted = f"{name} is a {found} model, and {task} {model_type} models only"
    if is_native_config(config):
        try:
            found = plan_import(name, kind).config.model_type
        except NotImportableError as error:
            raise ScratchError(f"{wanted}: {error}") from error
    if found != model_type:
        raise ScratchError(wanted)


def load_chat_tokenizer(args: Any, resume_from: Path | None) -> PreTrainedTokenizerFast:
    """Load the tokenizer of the model that training starts from, with the chat template of `--chat_template`, if given.

    Args:
        args: model arguments with `init_from`, `trust_remote_code` and `chat_template`.
        resume_from: checkpoint of the run that is resumed, whose tokenizer has the template already; or None.
    """
    name = str(resume_from or args.init_from)
    tokenizer = open_tokenizer(name, trust_remote_code=args.trust_remote_code, report=note)
    if args.chat_template is not None and resume_from is None:
        read_chat_template(tokenizer, args.chat_template)
    return tokenizer
