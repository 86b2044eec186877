"""The card of a masked language model."""

from ....hub.card import CardText
from ....hub.card_usage import FILL_MASK
from .task import METRICS

CARD = CardText(
    kind="masked language model",
    pipeline_tag="fill-mask",
    data=(("text", "{{ dataset }}, {{ train_texts }} rows, {{ train_tokens }} tokens"),),
    held_out=(
        "On held-out text of {{ validation_tokens }} tokens, of which the fraction `mask_probability` below was masked."
    ),
    metrics=METRICS,
    usage=FILL_MASK,
    limits="It predicts masked tokens and does not generate text.",
    seen="masked tokens",
)
