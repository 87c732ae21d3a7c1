"""The table of damage in its short form: some cases, evenly chosen from all."""

from __future__ import annotations

import json

import pytest

from benchmarks.proofs.damage import main


@pytest.mark.slow
def test_damaged_files_are_refused_or_repaired(tmp_path):
    report = tmp_path / "damage.json"
    assert main(["--cases", "4", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["cases"] == 4
    assert results["wrong"] == 0
