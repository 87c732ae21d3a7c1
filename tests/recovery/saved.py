"""The saved directories of earlier releases: which are tested where."""

from __future__ import annotations

from typing import Any

import pytest

SUBSETS = (
    "0.1.0",
    "0.2.0",
    "0.3.0",
)  # others have all of their kinds of bandits and reports, and more


def quick_or_slow(release: str) -> Any:
    """Return the parameter of a saved directory; those that others include are slow tests."""
    return pytest.param(release, marks=pytest.mark.slow if release in SUBSETS else ())
