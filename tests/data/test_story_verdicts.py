"""Evaluation of generated stories with the parser."""

from scratch_gpt.data.corpora import stories
from scratch_gpt.evaluation.story_report import StoryScores, score_stories


def test_sentences_are_counted_parsed_and_compared_with_training_text():
    first, second = stories.sentences(stories.story(0, 0))[:2]
    assert score_stories([f"{first} {second}"], "") == StoryScores(2, 1.0, 1.0)
    assert score_stories([f"{first} {second}"], f"Once. {first}") == StoryScores(2, 1.0, 0.5)
    assert score_stories([first, "Lamp the the walks."], first) == StoryScores(2, 0.5, 0.5)


def test_fractions_of_no_sentences_are_zero():
    for texts in ([], [""], ["  "]):
        assert score_stories(texts, "One day.") == StoryScores(0, 0.0, 0.0)
