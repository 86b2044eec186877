"""The card of a model that was fine-tuned on conversations."""

from ....evaluation import general_text
from ....hub.card import CardText
from ....hub.card_usage import GENERATION
from .task import METRICS

CARD = CardText(
    kind="language model",
    pipeline_tag="text-generation",
    data=(
        (
            "fine-tuned on",
            "{{ dataset }}, {{ train_conversations }} conversations, {{ train_answer_tokens }} tokens of answers",
        ),
    ),
    held_out="On {{ validation_conversations }} held-out conversations, every token of the answers scored once.",
    metrics=METRICS,
    details=(general_text.METRIC,),
    usage=GENERATION,
    limits="It answers whatever it is asked, right or wrong, and this fine-tuning did not teach it to refuse anything.",
)
