"""What a model card says of a tuned model's origin: its base model, whose code it runs on, and what it knows.

The facts come from `run.yaml`, which is untrusted: what does not have the expected form is omitted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .base_model import is_repo_id

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
FROM_SCRATCH = "scratch_gpt, which implements every part of the model from scratch; the result is a Hugging Face model"


@dataclass(frozen=True)
class CardOrigin:
    """The origin of a tuned model.

    Attributes:
        ids: Hub ids of the base model; empty if they are not known.
        adapter: whether only an adapter is published.
        imported: class of transformers that the weights were imported from, or "".
        own_class: class of transformers that the model has, or "".
        license, license_name, license_link: license of the base model, if its card states it.
    """

    ids: tuple[str, ...]
    adapter: bool
    imported: str
    own_class: str
    license: str | None
    license_name: str | None
    license_link: str | None

    @classmethod
    def of(cls, facts: dict[str, Any]) -> CardOrigin | None:
        """The origin in the facts of a run; None if the run trained a new model."""
        base = facts.get("base_model")
        if not isinstance(base, dict):
            return None
        texts = {name: value for name, value in base.items() if isinstance(value, str)}
        ids = base["ids"] if isinstance(base.get("ids"), list) else []
        known = tuple(each for each in ids if isinstance(each, str) and is_repo_id(each))
        stated = texts.get("license", "")
        link = texts.get("license_link", "")
        return cls(
            known,
            texts.get("relation") == "adapter",
            texts.get("imported", ""),
            str(facts.get("own_class", "")),
            stated if LICENSE.fullmatch(stated) else None,
            " ".join(texts["license_name"].split())[:100] if stated == "other" and "license_name" in texts else None,
            link if stated == "other" and re.fullmatch(r"https://[^\s\"'<>()]{1,300}", link) else None,
        )

    def metadata(self) -> dict[str, Any]:
        """Fields of the card's metadata, as the Hub reads them."""
        fields: dict[str, Any] = {}
        if self.ids:
            fields["base_model"] = self.ids[0] if len(self.ids) == 1 else list(self.ids)
            fields["base_model_relation"] = "adapter" if self.adapter else "finetune"
        stated = {name: getattr(self, name) for name in ("license", "license_name", "license_link")}
        return fields | {name: value for name, value in stated.items() if value is not None}

    def rows(self, code_span: Callable[[Any], str]) -> list[tuple[str, str]]:
        """Rows of the table of the model: base model, and its license."""
        rows = [("base model", ", ".join(map(code_span, self.ids)))] if self.ids else []
        stated = self.license_name or self.license
        return [*rows, ("license of the base model", code_span(stated))] if stated else rows

    def introduction(self, kind: str, code_span: Callable[[Any], str]) -> str:
        """The first sentence of the card.

        Args:
            kind: kind of model, such as "language model".
            code_span: formats a name as code.
        """
        base = ", ".join(map(code_span, self.ids)) or "a pretrained checkpoint"
        if self.adapter:
            return f"An adapter (LoRA) of {base}, a {kind}, trained with scratch_gpt; PEFT loads it on that model."
        if self.own_class:
            made = f"a {code_span(self.own_class)} of transformers"
            return f"A {kind}: {base}, {made}, fine-tuned with scratch_gpt."
        if self.imported:
            theirs = f"which was trained as a {code_span(self.imported)} of transformers"
            return (
                f"A {kind}: the weights of {base}, {theirs}, in scratch_gpt's own implementation of that architecture, "
                "fine-tuned with it; the result is a Hugging Face model."
            )
        return f"A {kind}, fine-tuned from {base} with {FROM_SCRATCH}."

    def knowledge(self, code_span: Callable[[Any], str]) -> str:
        """A sentence on what the model knows."""
        base = ", ".join(map(code_span, self.ids)) or "the checkpoint that it was fine-tuned from"
        return f"What the model knows comes from {base} and from the data above; it may repeat the contents of both."


def introduction_of_new(kind: str) -> str:
    """The first sentence of the card of a new model."""
    return f"A {kind} trained with {FROM_SCRATCH}."


KNOWLEDGE_OF_NEW = "The model knows nothing beyond its training data and may repeat its contents."
