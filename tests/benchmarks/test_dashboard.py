"""The dashboard's benchmark, in small: every figure is measured, and no decision is missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.dashboard import TARGETS, measure


@pytest.mark.needs("chromium")
def test_every_figure_is_measured_on_a_small_store(tmp_path: Path) -> None:
    said: list[str] = []
    found = measure(tmp_path, 3000, 1, 3.0, 40.0, said.append, learned=500)
    assert TARGETS.keys() <= found.keys()
    assert all(value > 0 for value in found.values())
    assert found["decisions"] == 3000
    assert len(said) == 5
