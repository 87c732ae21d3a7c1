"""A browser for the dashboard, and traffic to show in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.fixtures.system_packages import find
from tests.observe.dashboard.fed import Fed


# While playwright runs, no other event loop can: it ends with its file.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the headless Chromium of this machine."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=find("chromium"), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def feed() -> Iterator[Callable[..., Fed]]:
    """Open connections that end with the test: `feed(url, key=None)`."""
    opened = []

    def connect(url: str, key: str | None = None) -> Fed:
        opened.append(Fed(url, key))
        return opened[-1]

    yield connect
    for fed in opened:
        fed.close()
