"""The proof of clocks, with a real server whose wall clock jumps."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.proofs.clocks import examine, library


@pytest.mark.slow
@pytest.mark.needs("faketime")
def test_a_clock_that_jumps_changes_nothing_until_it_is_accepted(tmp_path: Path) -> None:
    preload = library()
    assert preload is not None
    results, wrong = examine(tmp_path, preload)
    assert not wrong
    assert results["removed_after_accept"] > 3000
