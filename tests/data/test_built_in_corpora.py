"""The built-in corpora generate the same text for the same seed in every version: cached data, held-out splits and
metrics of published models depend on it. `python tests/data/test_built_in_corpora.py` prints the current hashes."""

import hashlib
from itertools import islice

import pytest

from scratch_gpt.data.corpora import german_english, stories, story_questions
from scratch_gpt.data.readers.conversations import open_conversations
from scratch_gpt.data.readers.labelled import open_labelled
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.data.readers.prompts import open_prompts
from scratch_gpt.data.readers.tables import ReadOptions

OPTIONS = ReadOptions()
CORPORA = {
    "stories": lambda: stories.stories(seed=0, count=3000),
    "stories of another seed": lambda: stories.stories(seed=7, count=300),
    "beginnings": lambda: open_prompts("stories", OPTIONS, num_prompts=300).read(),
    "languages": lambda: open_labelled("languages", OPTIONS, num_texts=300).read(),
    "conversations": lambda: open_conversations("questions", OPTIONS, num_questions=300).read(),
    "pairs": lambda: open_pairs("grammar", "de", "en", OPTIONS, num_pairs=300).read(),
    "pairs of English": lambda: open_pairs("grammar", "en", "de", OPTIONS, num_pairs=300).read(),
    **{
        f"german {split}": lambda split=split: islice(german_english.pairs(seed=0, count=2000, split=split), 2000)
        for split in ("train", "validation", "test")
    },
    **{
        f"questions {split}": lambda split=split: story_questions.questions(seed=0, count=1000, split=split)
        for split in ("train", "validation", "test")
    },
    "word for word": lambda: (
        german_english.word_for_word(pair.german) for pair in german_english.pairs(seed=0, count=500)
    ),
}
EXPECTED = {
    "stories": "4eb2d441a844aa7d",
    "stories of another seed": "e84664f08d7d0741",
    "beginnings": "1dfa0c987b321161",
    "languages": "b804a7641f2ac5ba",
    "conversations": "bdfad9b9ce4fd4ab",
    "pairs": "67c94448b5371a5e",
    "pairs of English": "fac27fcb64e41ca8",
    "german train": "60a8a7b73d676f05",
    "german validation": "886da2482ef7e7ec",
    "german test": "757d441050616b02",
    "questions train": "69e6c3b07d333a14",
    "questions validation": "c5aa961b37368f13",
    "questions test": "9f3bdc9b80e89232",
    "word for word": "2300c759325aece5",
}


def digest(name: str) -> str:
    return hashlib.sha256("\n".join(map(repr, CORPORA[name]())).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", CORPORA)
def test_generated_text_is_unchanged(name):
    assert digest(name) == EXPECTED[name]


if __name__ == "__main__":
    for each in CORPORA:
        print(f'    "{each}": "{digest(each)}",')
