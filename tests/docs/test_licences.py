"""The list of licences is that of the installed versions, and none asks for more than a notice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from docs.licences import PAGE, groups, installed, is_allowed, needed, page

PINNED = dict(
    line.split("==") for line in (Path(__file__).parents[2] / "constraints.txt").read_text().split()
)


@pytest.mark.slow
def test_the_page_is_what_is_installed_under_the_constraints() -> None:
    """If this fails, run `python -m docs.licences` and read the difference."""
    listed = re.findall(r"^\| ([\w.-]+) \| (\S+) \| ", PAGE.read_text(), re.MULTILINE)
    assert len(listed) > 50
    pinned = {canonicalize_name(name): version for name, version in PINNED.items()}
    wrong = {
        (name, version)
        for name, version in listed
        if pinned.get(canonicalize_name(name), version) != version
    }
    assert wrong == set()
    assert PAGE.read_text() == page()


@pytest.mark.slow
def test_every_licence_allows_a_product_around_it() -> None:
    known = installed()
    names = set().union(*groups().values())
    assert {"torch", "fastapi", "httpx", "numpy"} <= names
    assert {known[name] for name in names if not is_allowed(known[name].licence)} == set()


def test_a_licence_that_asks_for_more_is_found() -> None:
    for wrong in ("GPL-3.0", "MIT AND GPL-2.0", "AGPL-3.0-only", "Apache-2.0; LGPL-3.0", "UNKNOWN"):
        assert not is_allowed(wrong), wrong
    for right in ("MIT", "GPL-2.0 OR MIT", "Apache-2.0 AND BSD-2-Clause", "(MIT OR Apache-2.0)"):
        assert is_allowed(right), right


def test_requirements_of_requirements_are_listed() -> None:
    assert {"httpx", "httpcore", "h11", "certifi", "idna", "anyio"} <= needed(["httpx"])
    assert "h2" not in needed(["httpx"])  # of an extra that nobody asks for
