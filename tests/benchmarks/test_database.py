"""The proof of servers that share a database, in its short form."""

from __future__ import annotations

import json

import pytest

from benchmarks.proofs.database import main

pytestmark = [pytest.mark.needs("postgres"), pytest.mark.slow]


def test_nothing_acknowledged_is_lost_over_kills_of_servers_and_database(tmp_path):
    report = tmp_path / "database.json"
    parts = ["--kills", "3", "--keepers", "0", "--pauses", "0", "--failovers", "0"]
    assert main([*parts, "--lagging", "0", "--clients", "3", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["kills_of_database"] == results["kills_of_keeper"] == 1
    assert min(results["selects"], results["rewards"]) > 20
