"""How much disk a decision takes, by what is sent with it: the figures behind the sizing table.

Each kind of bandit is fed on one server: batches of 100 decisions, each rewarded once. The database
is read after a checkpoint, with SQLite's own count of pages; rows of the dashboard's file of counts
are not of decisions. Snapshots are a size of their own, times the number that is stored. From bytes
per decision follow bytes a day at a rate, and the days that a disk lasts.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bandexa_client import BanditClient, Rejected, RewardReport, SelectRequest
from benchmarks.report import arguments, report
from benchmarks.server import Server

DECISIONS, QUICK, BATCH = 4_000, 800, 100
RATES = (1, 10, 100, 1000)  # decisions a second
DISK = 100 * 2**30
DAY_S = 86400.0
IDS = [f"action-{number:02d}" for number in range(10)]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of bandit.

    Attributes:
        name: In the table.
        spec: Its configuration.
        select: Makes a select, given a random generator and the bandit.
        actions: Its catalogue.
    """

    name: str
    spec: dict[str, Any]
    select: Callable[[np.random.Generator, str], SelectRequest]
    actions: Sequence[Any] = tuple(IDS)


def _floats(size: int) -> Callable[[np.random.Generator, str], SelectRequest]:
    def select(rng: np.random.Generator, bandit: str) -> SelectRequest:
        return SelectRequest(bandit, rng.standard_normal(size).astype(np.float32))

    return select


def _named(rng: np.random.Generator, bandit: str) -> SelectRequest:
    """Return a visit with ten named fields, about 230 bytes of JSON."""
    pick = rng.integers
    return SelectRequest(
        bandit,
        {
            "device": ("phone", "tablet", "desktop")[pick(3)],
            "country": ("DE", "FR", "PL", "US")[pick(4)],
            "language": ("de", "fr", "en")[pick(3)],
            "channel": ("search", "newsletter", "direct")[pick(3)],
            "hour": int(pick(24)),
            "visits": int(pick(50)),
            "basket": round(float(rng.exponential(60.0)), 2),
            "age_days": int(pick(900)),
            "is_member": bool(pick(2)),
            "interests": [("shoes", "books", "garden", "toys")[pick(4)] for _ in range(2)],
        },
    )


def _image(rng: np.random.Generator, bandit: str) -> SelectRequest:
    return SelectRequest(bandit, rng.integers(0, 256, (28, 28)).astype(np.uint8))


def _inline(rng: np.random.Generator, bandit: str) -> SelectRequest:
    """Return a select with 20 candidates that bring eight numbers each."""
    rows = rng.standard_normal((20, 8)).round(3)
    offered = [{"id": f"item-{n}", "features": row.tolist()} for n, row in enumerate(rows)]
    return SelectRequest(bandit, rng.standard_normal(8).astype(np.float32), candidates=offered)


_LINEAR: dict[str, Any] = {
    "policy": "linear_ts", "encoder": {"name": "per_action"}, "training": {"mode": "lockstep"},
    "reward_range": [0, 1],
}  # fmt: skip
KINDS = (
    Kind("numbers_8", _LINEAR | {"context": {"shape": [8]}}, _floats(8)),
    Kind("numbers_64", _LINEAR | {"context": {"shape": [64]}}, _floats(64)),
    Kind("numbers_512", _LINEAR | {"context": {"shape": [512]}}, _floats(512)),
    Kind(
        "named_10",
        {"context": {"features": "auto"}, "training": {"mode": "lockstep"}, "reward_range": [0, 1]},
        _named,
    ),
    Kind(
        "numbers_8_all_propensities",
        _LINEAR | {"context": {"shape": [8]}, "selection": {"log_propensities": "all"}},
        _floats(8),
    ),
    Kind(
        "inline_20x8",
        _LINEAR | {"context": {"shape": [8]}, "action_dim": 8, "encoder": {"name": "concat"}},
        _inline, (),
    ),
    Kind(
        "image_28x28",
        {
            "policy": "neural_linear_ts", "context": {"shape": [28, 28], "dtype": "uint8"},
            "encoder": {"name": "conv"}, "training": {"mode": "lockstep"}, "reward_range": [0, 1],
        },
        _image,
    ),
)  # fmt: skip


def measure(kind: Kind, num: int) -> tuple[float, float]:
    """Return the bytes that a rewarded decision of a kind takes, and those of a snapshot."""
    with tempfile.TemporaryDirectory(prefix="bandexa-sizing-") as folder:
        data_dir = Path(folder) / "data"
        server, rng = Server(data_dir), np.random.default_rng(0)
        with server as running, BanditClient(running.address, trust_env=False) as client:
            client.put_bandit("sized", kind.spec)
            if kind.actions:
                client.put_actions("sized", list(kind.actions))
            _feed(client, kind, BATCH, rng)
        before = _bytes(data_dir / "bandexa.db")
        with server as running, BanditClient(running.address, trust_env=False) as client:
            _feed(client, kind, num, rng)
        after = _bytes(data_dir / "bandexa.db")
        versions = sorted((data_dir / "snapshots").glob("*/v*"))
        snapshot = sum(file.stat().st_size for file in versions[-1].iterdir())
    return (after - before) / num, float(snapshot)


def _feed(client: BanditClient, kind: Kind, num: int, rng: np.random.Generator) -> None:
    for _ in range(0, num, BATCH):
        chosen = client.select_batch([kind.select(rng, "sized") for _ in range(BATCH)])
        reports = []
        for decision in chosen:
            if isinstance(decision, Rejected):
                raise decision
            reports.append(RewardReport(decision.decision_id, float(rng.integers(2))))
        for answer in client.reward_batch(reports):
            if isinstance(answer, Rejected):
                raise answer


def _bytes(database: Path) -> int:
    """Return the bytes of the pages that hold data."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size, count, free = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_size", "page_count", "freelist_count")
        )
    return size * (count - free)


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("sizing", __doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} decisions of each kind")
    given = parser.parse_args(argv)
    num = QUICK if given.quick else DECISIONS
    results: dict[str, float] = {}
    for kind in KINDS:
        per_decision, snapshot = measure(kind, num)
        results[f"{kind.name}_bytes"] = per_decision
        results[f"{kind.name}_snapshot_bytes"] = snapshot
        for rate in RATES:
            results[f"{kind.name}_days_100_gib_at_{rate}"] = DISK / (per_decision * rate * DAY_S)
    return report("sizing", results, given.json)
