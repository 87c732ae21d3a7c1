"""The pinned releases install with Python 3.11 as distributions have it, not only its last one."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
OLDEST = "3.11.2"  # of Debian 12


def test_no_pinned_release_needs_a_newer_python() -> None:
    pinned = [Requirement(line) for line in CONSTRAINTS.read_text().splitlines()]
    refused, known = [], 0
    for requirement in pinned:
        try:
            needs = metadata(requirement.name)["Requires-Python"]
        except PackageNotFoundError:  # it is of an extra, or of another kind of machine
            continue
        known += 1
        if needs is not None and not SpecifierSet(needs).contains(OLDEST):
            refused.append(f"{requirement}: Python {needs}")
    assert known > 50
    assert refused == []
