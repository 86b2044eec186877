"""Open pages in a real Chromium, and record what they do: requests, console messages, dialogs, new windows."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

REQUIRED = "SCRATCH_GPT_BROWSER"  # set to "required" where a missing browser is a failure and not a skip
NAMES = ("chromium", "chromium-browser", "google-chrome")
# No sandbox, since tests may run as root; the others stop requests of the browser itself.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
TIMEOUT = 30_000  # milliseconds


def missing() -> str | None:
    """Why no browser can be driven here; None if one can."""
    for package in ("playwright", "axe_playwright_python"):
        if find_spec(package) is None:
            return f"{package} is not installed: pip install -e '.[dev]'"
    if not any(map(shutil.which, NAMES)):
        return f"there is no browser, none of {', '.join(NAMES)}: apt-get install chromium"
    return None


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser of Playwright. Skips the test if there is none; fails instead if one is required."""
    if (reason := missing()) is not None:
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class RecordedPage:
    """A page that was opened from a file, and what it did.

    Attributes:
        page: Playwright's page.
        address: of its file.
        requests: addresses that it asked for, besides its file and those of `data:`.
        problems: console messages of errors and warnings, exceptions, dialogs and new windows.
    """

    def __init__(self, page: Any, address: str):
        self.page, self.address = page, address
        self.requests: list[str] = []
        self.problems: list[str] = []
        page.set_default_timeout(TIMEOUT)
        page.on("request", self._record_request)
        page.on("console", self._record_message)
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("dialog", self._record_dialog)
        page.on("popup", lambda popup: self.problems.append(f"window: {popup.url}"))

    def _record_request(self, request: Any) -> None:
        if not request.url.startswith("data:") and request.url != self.address:
            self.requests.append(request.url)

    def _record_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _record_dialog(self, dialog: Any) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def call(self, expression: str, argument: Any = None) -> Any:
        """The value of a JavaScript expression, of which `model` is the page's model and `argument` the argument."""
        script = f"async (argument) => {{ const model = await window.ready; return {expression}; }}"
        return self.page.evaluate(script, argument)


@contextmanager
def opened(browser: Any, path: Path, hash: str = "", **options: Any) -> Iterator[RecordedPage]:
    """Open a page by double click, so to speak: from `file://`.

    Args:
        browser: what `chromium` yields.
        path: the HTML file.
        hash: of the address, with its `#`.
        options: of Playwright's context, such as `viewport`.
    """
    context = browser.new_context(**options)
    try:
        recorded = RecordedPage(context.new_page(), path.resolve().as_uri())
        recorded.page.goto(recorded.address + hash)
        yield recorded
    finally:
        context.close()
