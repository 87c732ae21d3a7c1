"""What the proofs of hostile requests have in common: the server, the checks, and the report.

A proof says what is sent; the frame sends it and checks that each answer is 2xx or 4xx and comes in
time, that a refused request changes nothing in the database, that memory is level where it was
measured, that the log has no error, and that the server's data pass `verify` at the end.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.processes import resident_bytes
from benchmarks.proofs.audit import verify
from benchmarks.report import arguments, report
from benchmarks.server import Server

SLOW_S = 5.0  # of one answer, on a machine that others use as well
_COUNTED = ("bandits", "decisions", "ledger", "rewards", "windows", "log")


class Fingerprint:
    """The parts of a database that a rejected request must not change."""

    def __init__(self, database: Path) -> None:
        self._db = sqlite3.connect(f"file:{database}?mode=ro", uri=True, isolation_level=None)
        self._version = -1
        self._found: tuple[Any, ...] = ()

    def take(self) -> tuple[Any, ...]:
        """Return the counts of all tables, the positions of the logs, and the whole ledger."""
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:  # else nothing was committed since
            self._version = version
            counts = [f"(SELECT count(*) FROM {table})" for table in _COUNTED]
            parts = self._db.execute(
                f"SELECT {', '.join(counts)}, (SELECT total(position) FROM log),"
                " (SELECT count(deleted) FROM bandits)"
            )
            self._found = (*parts.fetchone(), self._db.execute("SELECT * FROM ledger").fetchall())
        return self._found

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


@dataclass
class Findings:
    """What was sent, what was answered, and what is wrong."""

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    rss_mb: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Attack:
    """Sends requests, and checks the answers and the database behind them.

    Args:
        server: A running server.
    """

    def __init__(self, server: Server) -> None:
        self.found = Findings()
        self.slowest_s = 0.0
        self.server = server
        self.http = httpx.Client(base_url=server.address, trust_env=False, timeout=300.0)
        self._print = Fingerprint(server.data_dir / "bandexa.db")

    def close(self) -> None:
        """Close all connections."""
        self.http.close()
        self._print.close()

    def run(self, num: int) -> None:
        """Send `num` cases; a proof says which."""
        raise NotImplementedError

    def exchange(
        self, kind: str, method: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> tuple[httpx.Response, str]:
        """Send a request and check its answer; returns it, and how a finding names the request."""
        before, begun = self._print.take(), time.perf_counter()
        url = httpx.URL(f"{self.server.address}{path}")  # as it is: no path is put right
        answer = self.http.request(method, url, content=content, headers=headers)
        took = time.perf_counter() - begun
        self.slowest_s = max(self.slowest_s, took)
        self.found.sent[kind] += 1
        self.found.statuses[answer.status_code] += 1
        what = f"{kind}: {method} {path}: {content[:300]!r}: {answer.status_code}"
        if not 200 <= answer.status_code < 300 and not 400 <= answer.status_code < 500:
            self.found.wrong.append(f"{what} {answer.text[:300]}")
        elif answer.status_code >= 400 and self._print.take() != before:
            self.found.wrong.append(f"{what}, and the database changed")
        if took > SLOW_S:
            self.found.wrong.append(f"{what} after {took:.1f} s")
        return answer, what

    def measure_memory(self) -> None:
        """Note how much memory the server has."""
        self.found.rss_mb.append(resident_bytes(self.server.pid) / 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A proof of hostile requests.

    Attributes:
        name: Of the command.
        about: What it proves, for its help.
        claim: What holds if nothing is wrong.
        make: Begins the attack on a server, with the seed of all that is generated.
        cases: How many requests it sends.
        rss_rise: By which share of its level memory may rise.
        environment: Of the server.
    """

    name: str
    about: str
    claim: str
    make: Callable[[Server, int], Attack]
    cases: int
    rss_rise: float
    environment: Mapping[str, str] = field(default_factory=dict)

    def main(self, argv: Sequence[str]) -> int:
        """Run the proof; returns 0 when every claim holds."""
        parser = arguments(self.name, self.about)
        parser.add_argument(
            "--cases", type=int, default=self.cases, help="requests, all kinds together"
        )
        parser.add_argument("--seed", type=int, default=0, help="of all that is generated")
        given = parser.parse_args(argv)
        if given.cases < 1:
            parser.error("--cases must be at least 1")
        with tempfile.TemporaryDirectory(prefix="bandexa-hostile-") as name:
            results, wrong = self._run(Path(name), given.cases, given.seed)
        return report(self.name, results, given.json, wrong=wrong, claim=self.claim)

    def _run(self, folder: Path, num: int, seed: int) -> tuple[dict[str, float], list[str]]:
        server = Server(folder / "data", "os", environment=dict(self.environment))
        started = time.perf_counter()
        try:
            server.spawn()
            server.wait_ready()
            with closing(self.make(server, seed)) as attack:
                attack.run(num)
                attack.measure_memory()
            found, wrong = attack.found, attack.found.wrong
            if (status := server.stop()) != 0:
                wrong.append(f"the server ended with status {status}")
        finally:
            server.close()
        wrong += after_the_end(server)
        mean, rise = level(found)
        if rise > self.rss_rise * mean:
            wrong.append(f"resident memory rose by {rise:.1f} MB from about {mean:.1f}")
        results: dict[str, float] = {
            "cases": sum(found.sent.values()),
            **{f"sent: {kind}": count for kind, count in sorted(found.sent.items())},
            **{f"answered {status}": count for status, count in sorted(found.statuses.items())},
            "slowest_s": round(attack.slowest_s, 3),
            "rss_mb": round(mean, 1),
            "rss_rise_mb": round(rise, 2),
            "seconds": round(time.perf_counter() - started, 1),
            "wrong": len(wrong),
        }
        return results, wrong


def after_the_end(server: Server) -> list[str]:
    """Return what is wrong with the data and the log of a server that has ended."""
    differs = verify(server.data_dir)
    wrong = [] if differs is None else [f"verify at the end: {differs}"]
    lines = server.log.read_text().splitlines()
    return wrong + [
        line[:1500] for line in lines if '"level": "error"' in line or "Traceback" in line
    ]


def level(found: Findings) -> tuple[float, float]:
    """Return the level of resident memory after warm-up, and the rise of a fitted line."""
    seen = np.array(found.rss_mb[len(found.rss_mb) // 4 :])
    if len(seen) < 3:
        return float(seen.mean()), 0.0
    slope, _ = np.polyfit(np.arange(len(seen)), seen, 1)
    return float(seen.mean()), float(slope * (len(seen) - 1))
