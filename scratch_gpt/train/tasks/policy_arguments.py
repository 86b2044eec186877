"""Arguments of the model that DPO and policy-gradient methods tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..arguments.training import argument
from .text_arguments import CHAT_TEMPLATE


@dataclass
class PolicyModelArguments:
    """The model to tune."""

    _argument_group_name: ClassVar[str] = "model"

    init_from: str | None = argument(
        None,
        "The model to tune (directory or Hub id); unchanged, it is also the reference model.",
        private=True,
        with_init_from=True,
    )
    chat_template: str | None = argument(None, CHAT_TEMPLATE, private=True, with_init_from=True)
    trust_remote_code: bool = argument(
        False,
        "Run the code that a checkpoint contains (--init_from, or a classifier that gives rewards). Read it first.",
        resumable=True,
        with_init_from=True,
    )
    dropout: float = argument(
        0.0,
        "Dropout during training; if not 0, the log-probabilities of training and scoring differ.",
        at_least=0,
        at_most=1,
        with_init_from=True,
    )
