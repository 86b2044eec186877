"""The card of a language model."""

from ....hub.card import CardText
from ....hub.card_usage import GENERATION
from .task import DETAILS, METRICS

CARD = CardText(
    kind="language model",
    pipeline_tag="text-generation",
    data=(
        (
            "text",
            "{{ dataset }}, {{ train_characters }} characters, {{ train_tokens }} tokens, "
            "{{ train_documents }} document{{ '' if train_documents == '1' else 's' }}",
        ),
    ),
    held_out="On the held-out part of the same text: {{ validation_characters }} characters, every token scored once.",
    metrics=METRICS,
    details=DETAILS,
    usage=GENERATION,
    limits="{% if is_tuned %}This training did not teach it to follow instructions or to refuse any."
    "{% else %}It was not fine-tuned to follow instructions or to refuse any.{% endif %}",
)
