"""A browser for the tests of this folder, and pages of tiny models."""

import pytest
from helpers.browser import chromium

from scratch_gpt.see.page import page_html, write_page
from scratch_gpt.see.payload import payload_of


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """Tests in a browser are slow: `.ci/run` has one when it runs these, and only then."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def write(tmp_path):
    """Write a page of a model of `helpers.pages.shown`; returns its path."""

    def write(found, dtype="float16", text="One day, Anna", name="runs/tiny", **changes):
        payload = payload_of(*found, name, dtype)
        payload.content.update(changes)
        path = tmp_path / "see.html"
        write_page(path, page_html([payload], text))
        return path

    return write
