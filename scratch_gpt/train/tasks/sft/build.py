"""Data of supervised fine-tuning."""

from __future__ import annotations

from ....data.readers.conversations import Conversation, conversation_key, open_conversations
from ....data.readers.corpus import Corpus
from ....data.readers.tables import ReadOptions
from ....errors import ScratchError
from ..common import ReadExamples, open_parts, read_examples
from .arguments import ConversationArguments

USEFUL_CONVERSATIONS = 100  # below which a model overfits them
HELD_OUT = 300  # built-in questions in the validation split, and in the test split


def read_conversations(data: ConversationArguments, seed: int) -> ReadExamples[Conversation]:
    """Read the conversations of each split.

    Raises:
        ScratchError: the data is missing, or a split is empty.
    """
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    if sum(fractions.values()) >= 1:
        raise ScratchError(f"the held-out fractions are {fractions}, want a sum below 1: none are left for training")

    def open_one(dataset: str, options: ReadOptions, validation: bool) -> Corpus[Conversation]:
        if dataset == "questions":
            count = HELD_OUT if validation else data.num_questions
            return open_conversations(dataset, options, num_questions=count, seed=0 if validation else seed)
        return open_conversations(dataset, options, messages_column=data.messages_column)

    corpora = open_parts(data, data.max_conversations, open_one)
    if corpora[0].origin.built_in:
        fractions["test"] = 0.0  # it has its own test split
    found = read_examples(
        corpora,
        fractions,
        data.split_seed,
        key=conversation_key,
        row=lambda messages: {"messages": messages},
        texts=lambda messages: (message["content"] for message in messages),
    )
    if not corpora[0].origin.built_in and (count := found.summary.rows_read) < USEFUL_CONVERSATIONS:
        found.summary.too_little = (
            f"{count:,} conversation{'s' * (count != 1)}: too few to learn from; the model will recite them"
        )
    if corpora[0].origin.built_in:
        test = open_conversations("questions", ReadOptions(split="test"), num_questions=HELD_OUT)
        found.parts["test"], found.corpora["test"] = list(test.read()), test
        found.summary.test_rows = len(found.parts["test"])
        found.summary.rows_read += found.summary.test_rows
    return found
