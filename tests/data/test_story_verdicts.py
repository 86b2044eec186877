"""Evaluation of generated stories with the parser."""

from scratch_gpt.data.corpora import stories
from scratch_gpt.evaluation.story_report import Verdict, judge_stories


def test_sentences_are_counted_parsed_and_compared_with_training_text():
    first, second = stories.sentences(stories.story(0, 0))[:2]
    assert judge_stories([f"{first} {second}"], "") == Verdict(2, 1.0, 1.0)
    assert judge_stories([f"{first} {second}"], f"Once. {first}") == Verdict(2, 1.0, 0.5)
    assert judge_stories([first, "Lamp the the walks."], first) == Verdict(2, 0.5, 0.5)


def test_fractions_of_no_sentences_are_zero():
    for texts in ([], [""], ["  "]):
        assert judge_stories(texts, "One day.") == Verdict(0, 0.0, 0.0)
