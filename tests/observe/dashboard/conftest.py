"""A browser to look at the dashboard with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.observe.dashboard.fed import Fed


@pytest.fixture(
    scope="module"
)  # while playwright runs, no other event loop can: it ends with its file
def browser() -> Iterator[Browser]:
    """A headless Chromium of this machine."""
    path = os.environ.get("BANDEXA_CHROMIUM") or shutil.which("chromium")
    assert path, "install Chromium (Debian: chromium), or name it in BANDEXA_CHROMIUM"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
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
