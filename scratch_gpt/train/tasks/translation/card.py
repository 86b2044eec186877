"""The card of a translation model."""

from ....hub.card import CardText
from ....hub.card_usage import TRANSLATION
from .task import METRICS

CARD = CardText(
    kind="translation model",
    pipeline_tag="translation",
    data=(
        (
            "text",
            "{{ dataset }}, {{ source_lang }} to {{ target_lang }}, {{ train_pairs }} pairs, "
            "{{ train_source_tokens }} source and {{ train_target_tokens }} target tokens",
        ),
    ),
    held_out="On {{ validation_pairs }} held-out pairs, translated with the number of beams `eval_beams` below.",
    metrics=METRICS,
    usage=TRANSLATION,
    limits="Words and sentence structures that are not in the data above are translated badly, and without warning.",
)
