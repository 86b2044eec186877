"""The card of a classifier."""

from ....hub.card import CardText
from ....hub.card_usage import CLASSIFICATION
from .task import METRICS

CARD = CardText(
    kind="text classification model",
    pipeline_tag="text-classification",
    data=(
        ("text", "{{ dataset }}, {{ train_texts }} texts, {{ train_tokens }} tokens"),
        (
            "labels",
            "{% for name, count in labels %}{{ name }} ({{ count }} texts){{ ', ' if not loop.last }}{% endfor %}",
        ),
    ),
    held_out="On {{ validation_texts }} held-out texts.",
    metrics=METRICS,
    usage=CLASSIFICATION,
    limits="It knows the labels above and no others: it assigns one of them to any text.",
    seen="texts",
)
