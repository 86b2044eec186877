"""The page of the Python API with the code of the course, lesson by lesson."""

from __future__ import annotations

from pathlib import Path

from scratch_gpt.foundations import LESSONS

URI = "reference/api/foundations.md"
FOLDER = Path(__file__).parents[2] / "scratch_gpt" / "foundations"
INTRODUCTION = """# Foundations

The code of the [course](../../course/index.md). A lesson uses only what earlier lessons have built.

::: scratch_gpt.foundations.load_lesson
"""


def foundations_page() -> dict[str, str]:
    """The page, with the lessons in their order and then the modules that they share, by its URI."""
    shared = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in LESSONS and path.stem != "__init__")
    return {URI: "\n".join([INTRODUCTION, *(f"::: scratch_gpt.foundations.{name}\n" for name in (*LESSONS, *shared))])}
