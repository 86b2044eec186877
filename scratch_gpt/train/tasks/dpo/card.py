"""The card of a model that was tuned on preferences."""

from ....evaluation import general_text
from ....hub.card import CardText
from ....hub.card_usage import GENERATION
from .task import METRICS

CARD = CardText(
    kind="language model",
    pipeline_tag="text-generation",
    data=(("tuned on", "{{ dataset }}, {{ train_pairs }} pairs of a preferred and a rejected completion"),),
    held_out="On {{ validation_pairs }} held-out pairs.",
    metrics=METRICS,
    details=(general_text.METRIC,),
    usage=GENERATION,
    limits="It was tuned towards the preferences above; do not rely on anything that they do not cover.",
    seen="pairs",
)
