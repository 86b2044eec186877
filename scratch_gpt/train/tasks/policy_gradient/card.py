"""The card of a model that was tuned with a reward."""

from ....evaluation import general_text
from ....hub.card import CardText
from ....hub.card_usage import GENERATION
from .task import DETAILS, METRICS

CARD = CardText(
    kind="language model",
    pipeline_tag="text-generation",
    data=(
        ("reward", "{{ rewarded }}"),
        ("prompts", "{{ train_prompts }} of {{ dataset }}"),
    ),
    held_out="One completion of each of {{ validation_prompts }} held-out prompts.",
    metrics=METRICS,
    details=(*DETAILS, general_text.METRIC),
    usage=GENERATION,
    limits="It was tuned to maximise the reward above; do not rely on anything that the reward does not measure.",
)
