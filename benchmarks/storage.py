"""Bytes that decisions and rewards take: in the database by table, and written to its log.

Each side is a server with a linear bandit of 50 actions and contexts in R^16. Every second decision
is rewarded. The write-ahead log is read after a counted number of requests on a server that has
just started, so that no checkpoint falls in between: one request at a time, and batches of 32. The
database is read after a checkpoint, with SQLite's own count of pages (`dbstat`); an index counts
for its table. With --against another checkout is measured, too, and the ratios are given.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from bandexa_client import BanditClient, Rejected, RewardReport, SelectRequest
from benchmarks.report import Target, arguments, report
from benchmarks.server import ROOT, Server
from benchmarks.workload import contexts, create, linear_spec

SINGLES, BATCHES, BATCH = 100, 20, 32
STORED = 4_000
NAME = "shop"
TARGETS = {
    name: Target(0.7, unit="of the other checkout's bytes")
    for name in ("database_ratio", "wal_single_ratio", "wal_batch_ratio")
}


def measure(checkout: Path, data_dir: Path) -> dict[str, float]:
    """Return the bytes per decision of a checkout; a reward counts for the two decisions."""
    server = Server(data_dir, checkout=checkout)
    with server as running, BanditClient(running.address, trust_env=False) as client:
        create(client, NAME, linear_spec())
    results = {
        "wal_single": _wal_bytes(server, SINGLES, 1),
        "wal_batch": _wal_bytes(server, BATCHES * BATCH, BATCH),
    }
    before = _pages(data_dir / "bandexa.db")
    _wal_bytes(server, STORED, BATCH)
    after = _pages(data_dir / "bandexa.db")
    sizes = {table: (after[table] - before[table]) / STORED for table in after}
    results["database"] = sum(sizes.values())
    return results | {
        f"database_{table}": size for table, size in sorted(sizes.items()) if size > 0.5
    }


def _wal_bytes(server: Server, num: int, batch: int) -> float:
    """Decide `num` times and reward half of it; return the growth of the log per decision."""
    wal = server.data_dir / "bandexa.db-wal"
    with server as running, BanditClient(running.address, trust_env=False) as client:
        before = wal.stat().st_size
        _feed(client, num, batch)
        grown = wal.stat().st_size - before
    return grown / num


def _feed(client: BanditClient, num: int, batch: int) -> None:
    rng = np.random.default_rng(0)
    for first in range(0, num, batch):
        size = min(batch, num - first)
        chosen = client.select_batch([SelectRequest(NAME, x) for x in contexts(size, rng)])
        for number, decision in enumerate(chosen, first):
            if isinstance(decision, Rejected):
                raise decision
            if batch == 1 and number % 2:
                client.reward(decision.decision_id, 0.5)
        if batch > 1:
            ids = [
                decision.decision_id for decision in chosen if not isinstance(decision, Rejected)
            ]
            client.reward_batch([RewardReport(each, 0.5) for each in ids[::2]])


def _pages(database: Path) -> Counter[str]:
    """Return the bytes of the pages of every table, its indexes included."""
    found: Counter[str] = Counter()
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
        for table, size in db.execute(
            "SELECT coalesce(m.tbl_name, d.name), sum(d.pgsize) FROM dbstat AS d"
            " LEFT JOIN sqlite_schema AS m ON m.name = d.name GROUP BY 1"
        ):
            found[table] = size
    return found


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("storage", __doc__)
    parser.add_argument("--against", type=Path, help="root of another checkout")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bandexa-storage-") as folder:
        results = measure(ROOT, Path(folder) / "here")
        if given.against is None:
            return report("storage", results, given.json)
        there = measure(given.against.resolve(), Path(folder) / "there")
    results |= {f"{name}_there": value for name, value in there.items()}
    results |= {
        f"{name}_ratio": results[name] / there[name]
        for name in ("database", "wal_single", "wal_batch")
    }
    return report("storage", results, given.json, targets=TARGETS)
