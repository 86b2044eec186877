"""The card of a distilled model."""

from ....hub.card import CardText
from ....hub.card_usage import GENERATION
from ..language_modeling.task import METRICS
from .task import DETAILS

CARD = CardText(
    kind="language model",
    pipeline_tag="text-generation",
    data=(
        ("text", "{{ dataset }}, {{ train_characters }} characters, {{ train_tokens }} tokens"),
        ("teacher", "{{ teacher }}"),
    ),
    held_out="On the held-out part of the same text: {{ validation_characters }} characters, every token scored once.",
    metrics=METRICS,
    details=DETAILS,
    usage=GENERATION,
    limits="It imitates its teacher, including its errors, and was not fine-tuned to follow instructions.",
)
