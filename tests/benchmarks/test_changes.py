"""The proof of changing configurations in its short form."""

from __future__ import annotations

import json

import pytest

from benchmarks.proofs.changes import main


@pytest.mark.slow
def test_a_bandit_changes_under_load_and_across_kills(tmp_path):
    report = tmp_path / "changes.json"
    assert main(["--changes", "6", "--seed", "1", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["kills"] == 4
    assert results["changes"] >= 6
