"""The proofs of durability in their short form, and that they notice what is missing."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from benchmarks.proofs.audit import audit
from benchmarks.proofs.fault_clients import Ledger
from benchmarks.proofs.faults import main
from benchmarks.proofs.soak import main as soak
from service.store.sqlite.schema import TABLES


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_over_kills(tmp_path):
    report = tmp_path / "faults.json"
    assert main(["--kills", "3", "--clients", "3", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["kills"] == 3
    assert min(results["selects"], results["rewards"]) > 100
    assert results["rewards_lost"] == results["wrong_values"] == 0


@pytest.mark.slow
def test_a_short_soak_answers_everything_and_measures_every_process(tmp_path):
    report = tmp_path / "soak.json"
    soak(["--minutes", "0.1", "--clients", "2", "--json", str(report)])  # too short to be level
    results = json.loads(report.read_text())["results"]
    assert results["not_answered"] == results["rewards_lost"] == 0
    assert results["server_rss_mb"] > 50
    assert results["trainer_rss_mb"] > 50


def test_the_audit_notices_what_the_store_lacks_and_what_it_has_twice(tmp_path):
    ledger = Ledger(
        selects={"first.0.0": ("a0", 0, 1)},
        rewards=[("first.0.0", None, 0.5, "applied"), ("first.0.1", None, 0.25, "applied")],
        final={"first.0.0": [0.5], "first.0.1": [0.25]},
    )
    with closing(sqlite3.connect(tmp_path / "bandexa.db")) as store:
        store.executescript(TABLES)
        for _ in range(2):
            store.execute("INSERT INTO rewards VALUES ('first.0.1', 0, NULL, 0.25, 'applied', 1)")
        store.execute("INSERT INTO outcomes VALUES ('first.0.1', 0, 1, 0.5, 1)")
        store.execute("INSERT INTO outcomes VALUES ('windowed.0.0', 0, 1, 0.7, 1)")
        store.commit()
    found = audit(tmp_path / "bandexa.db", [ledger])
    assert found["selects_lost_or_changed"] == 1
    assert found["rewards_lost"] == 1
    assert found["counted_twice"] == 1
    assert found["wrong_values"] == 2
    assert found["wrong_defaults"] == 1
