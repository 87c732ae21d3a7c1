"""Hostile requests in their short form, and that what they must not do would be noticed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

from benchmarks.proofs.hostile import Fingerprint, main
from service.store.sqlite.schema import TABLES


def test_no_request_breaks_the_server_or_changes_anything_when_rejected(tmp_path):
    report = tmp_path / "hostile.json"
    assert main(["--cases", "150", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["requests"] >= 150
    assert results["sent: JSON"] > 55
    assert results["sent: msgpack"] > 20
    assert results["answered 200"] > 20
    assert results["answered 422"] > 35


def test_the_fingerprint_notices_a_changed_value_and_a_new_row(tmp_path):
    path = tmp_path / "bandexa.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.executescript(TABLES)
        database.execute("INSERT INTO outcomes VALUES ('d', 0, 1, 0.5, 1)")
        fingerprint = Fingerprint(path)
        seen = [fingerprint.take()]
        assert fingerprint.take() == seen[0]
        for statement in (
            "UPDATE outcomes SET value = 0.25",
            "INSERT INTO activations VALUES ('d', 1)",
            "INSERT INTO log VALUES (1, 1, 1, 1, 'd', 0, 1, NULL, 1, NULL, x'00')",
        ):
            database.execute(statement)
            assert fingerprint.take() != seen[-1]
            seen.append(fingerprint.take())
        fingerprint.close()
