"""The proof of many bandits, with a few hundred: slices yield, and an idle server is quiet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.proofs.many_bandits import main


@pytest.mark.slow
def test_hundreds_of_bandits_neither_stall_the_loop_nor_commit_without_work(tmp_path: Path) -> None:
    out = tmp_path / "many.json"
    main(["--bandits", "250", "--idle-s", "1", "--small", "--json", str(out)])
    found = json.loads(out.read_text())["results"]
    assert found["longest_stall_ms"] <= 50.0, found
    assert found["idle_commits_per_minute"] <= 200.0, "a pass over 250 bandits committed 500 times"
    assert found["files"] >= 750
