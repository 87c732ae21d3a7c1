"""Hostile requests in their short form, and that what they must not do would be noticed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from msgspec.structs import replace

from bandexa_core.log.contract import ItemState
from benchmarks.proofs import hostile_objects, hostile_personalizer
from benchmarks.proofs.hostile import main
from benchmarks.proofs.hostile_frame import Fingerprint
from service.store.sql.codec import NEW_ITEM, pack_items
from service.store.sqlite.tables import create_tables


@pytest.mark.slow
def test_no_request_breaks_the_server_or_changes_anything_when_rejected(tmp_path):
    report = tmp_path / "hostile.json"
    assert main(["--cases", "70", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["requests"] >= 70
    assert results["sent: JSON"] > 25
    assert results["sent: msgpack"] > 8
    assert results["answered 200"] > 8
    assert results["answered 422"] > 15


@pytest.mark.slow
def test_nothing_in_place_of_named_features_breaks_the_server(tmp_path):
    report = tmp_path / "objects.json"
    assert hostile_objects.main(["--cases", "160", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["cases"] >= 160
    assert min(results["answered 200"], results["sent: declaration, JSON"]) >= 20
    assert results["answered 422"] > 40


@pytest.mark.slow
def test_nothing_sent_to_the_paths_of_personalizer_breaks_the_server(tmp_path):
    report = tmp_path / "personalizer.json"
    assert hostile_personalizer.main(["--cases", "210", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["cases"] == 210
    assert results["answered 400"] > 60
    assert results["answered 201"] >= 1


def test_the_fingerprint_notices_a_changed_value_and_a_new_row(tmp_path):
    path = tmp_path / "bandexa.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        create_tables(database)
        item = pack_items([replace(NEW_ITEM, state=ItemState(1, (0.5,), 0.5))])
        database.execute("INSERT INTO ledger VALUES (7, 1, 1, NULL, NULL, ?, NULL)", (item,))
        fingerprint = Fingerprint(path)
        seen = [fingerprint.take()]
        assert fingerprint.take() == seen[0]
        other = pack_items([replace(NEW_ITEM, state=ItemState(1, (0.25,), 0.25))])
        for statement, values in (
            ("UPDATE ledger SET items = ?", [other]),
            ("UPDATE ledger SET activated = 1", []),
            ("INSERT INTO rewards VALUES (7, 0, '', 0.5, 1, 'applied', 1, NULL)", []),
            ("INSERT INTO windows VALUES (9, 7)", []),
            (f"INSERT INTO log VALUES (1, 1, 1, 1, 7, 0, 1{', NULL' * 5}, 1, x'00')", []),
        ):
            database.execute(statement, values)
            assert fingerprint.take() != seen[-1]
            seen.append(fingerprint.take())
        fingerprint.close()
