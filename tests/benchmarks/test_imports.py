"""Imports of changed exports in their short form."""

from __future__ import annotations

import json

import pytest

from benchmarks.proofs.imports import main


@pytest.mark.slow
def test_no_changed_export_stops_a_bandit_or_the_server(tmp_path):
    report = tmp_path / "imports.json"
    assert main(["--cases", "28", "--seed", "1", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["restarts"] == 2
    assert results["answered 200"] >= 7, "every fourth export is as it was"
    assert results["answered 422"] > 10
