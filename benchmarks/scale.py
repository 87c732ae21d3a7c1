"""Rates and times of stores on PostgreSQL, each as a ratio of two sides that take turns.

- A store over a file: decisions and learned rewards per second. Both commit before they answer; 32
  appends are outstanding at a time, as 32 callers of a server would have them. Rewards are looked
  up, stepped by the contract, and appended.
- Servers that write to one bandit: four over one, and, where a commit takes 5 ms more (as for a
  standby elsewhere), eight with a shared barrier over eight that wait for each commit.
- What follows a log: from the answer of a row to the decoded row in another server.
- Servers over HTTP: CPU time of a select over that with a file; an idle follower; the start of a
  follower whose log has 10,000 rows behind its snapshot over one with an empty log.

Only ratios of one run mean anything. CPU times are those of the server's own process: with a file
that includes the database, which PostgreSQL has in its own processes. The measures have schemas of
their own in the database at --url, which they remove. A superuser alone can delay a commit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import Target, arguments, report
from benchmarks.scale_servers import followers, select_cpu_us
from benchmarks.scale_stores import Side, follow_lag_ms, learned_per_s, schema
from service.store.address import PostgresUrl, StoreAddress

OUTSTANDING, TURNS, ROWS = 32, 5, 640
HOT_WRITERS, HOT_SECONDS, HOT_TURNS = 4, 2.0, 3
SLOW_COMMIT = ("commit_delay=5000", "commit_siblings=0")
BARRIER_WRITERS, BARRIER_OUTSTANDING = 8, 16
FOLLOWED_PER_S, FOLLOWED_S = 400.0, 5.0
SELECTS, SELECT_TURNS = 800, 3
TAIL_ROWS, STARTS, IDLE_S = 10_000, 3, 10.0
TARGETS = {
    "decisions_ratio": Target(0.8, at_most=False, unit="decisions/s, PostgreSQL over a file"),
    "learned_ratio": Target(1.0, at_most=False, unit="learn rows/s, PostgreSQL over a file"),
    "hot_bandit_ratio": Target(0.9, at_most=False, unit="of one bandit, 4 servers over 1"),
    "barrier_ratio": Target(
        2.0, at_most=False, unit="of 8 servers at commit + 5 ms, barrier over commit"
    ),
    "follow_lag_ms": Target(6.0, unit="ms from a row's answer to the row elsewhere, 400 a second"),
    "select_cpu_ratio": Target(1.1, unit="CPU of a select over HTTP, PostgreSQL over a file"),
    "idle_follower": Target(0.02, unit="of a core"),
    "start_ratio": Target(1.5, unit="start with 10,000 rows to apply over one with none"),
    "decision_cpu_ratio": Target(None, unit="CPU time of a decision in this process"),
    "learned_cpu_ratio": Target(None, unit="CPU time of a reward in this process"),
}


def _timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def _hot(url: str) -> dict[str, float]:
    """Compare several servers with one, at one bandit."""
    rates: dict[int, list[float]] = {1: [], HOT_WRITERS: []}
    for _ in range(HOT_TURNS):
        for writers, found in rates.items():
            with schema(url, "scale_hot") as place:
                found.append(learned_per_s(place, writers, OUTSTANDING, HOT_SECONDS))
    one, all_of_them = (median(found) for found in rates.values())
    return {
        "hot_bandit_ratio": all_of_them / one, "hot_bandit_per_s_1": one,
        f"hot_bandit_per_s_{HOT_WRITERS}": all_of_them,
    }  # fmt: skip


def _barrier(url: str) -> dict[str, float]:
    """Compare a shared barrier with a commit for each group, where a commit takes longer."""
    rates: dict[str, list[float]] = {"commit": [], "barrier": []}
    for _ in range(HOT_TURNS):
        for durability, found in rates.items():
            with schema(url, "scale_barrier", *SLOW_COMMIT) as place:
                found.append(
                    learned_per_s(
                        place, BARRIER_WRITERS, BARRIER_OUTSTANDING, HOT_SECONDS,
                        "barrier" if durability == "barrier" else "commit",
                    )
                )  # fmt: skip
    commit, barrier = (median(found) for found in rates.values())
    return {
        "barrier_ratio": barrier / commit, "slow_commit_per_s_commit": commit,
        "slow_commit_per_s_barrier": barrier,
    }  # fmt: skip


def _stores(url: str) -> dict[str, float]:
    """Compare a store on a database with one on a file."""
    figures: dict[str, list[tuple[float, float, float, float]]] = {"file": [], "database": []}
    with tempfile.TemporaryDirectory() as folder, schema(url, "scale_store") as place:
        places: dict[str, StoreAddress] = {
            "file": Path(folder) / "bandexa.db", "database": PostgresUrl.of(place),
        }  # fmt: skip
        sides = {name: Side(each, OUTSTANDING) for name, each in places.items()}
        with closing(sides["file"].store), closing(sides["database"].store):
            for turn in range(TURNS + 1):
                for name, side in sides.items():
                    wall, cpu, ids = _timed(lambda side=side: side.decide(ROWS))  # type: ignore[misc]
                    more, spent, _ = _timed(lambda side=side, ids=ids: side.learn(ids))  # type: ignore[misc]
                    if turn:  # the first one warms up
                        figures[name].append((wall, cpu, more, spent))
    results = {}
    for at, name in enumerate(("decisions", "decision_cpu", "learned", "learned_cpu")):
        file, database = (median(row[at] for row in figures[side]) for side in figures)
        is_rate = name in ("decisions", "learned")
        results[f"{name}_ratio"] = file / database if is_rate else database / file
        unit = "per_s" if is_rate else "us"
        for where, seconds in (("file", file), ("database", database)):
            results[f"{name}_{unit}_{where}"] = ROWS / seconds if is_rate else 1e6 * seconds / ROWS
    return results


def _follow(url: str) -> dict[str, float]:
    with schema(url, "scale_follow") as place:
        middle, late = follow_lag_ms(place, FOLLOWED_PER_S, FOLLOWED_S)
    return {"follow_lag_ms": middle, "follow_lag_p99_ms": late}


def _select(url: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, schema(url, "scale_select") as place:
        found = select_cpu_us(Path(folder), place, SELECT_TURNS, SELECTS)
    return {
        "select_cpu_ratio": found["database"] / found["file"],
        "select_cpu_us_file": found["file"], "select_cpu_us_database": found["database"],
    }  # fmt: skip


def _followers(url: str) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory() as folder,
        schema(url, "scale_empty") as empty,
        schema(url, "scale_tail") as full,
    ):
        found = followers(Path(folder), empty, full, TAIL_ROWS, STARTS, IDLE_S)
    return {
        "idle_follower": found["idle"], "start_ratio": found["tail"] / found["import"],
        "start_s_import": found["import"], "start_s_tail": found["tail"],
    }  # fmt: skip


# Those that fork come first: later ones have threads.
PARTS = {
    "hot": _hot, "barrier": _barrier, "stores": _stores, "follow": _follow, "select": _select,
    "followers": _followers,
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = arguments("scale", __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--url", required=True, help="a PostgreSQL database")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="default: all")
    options = parser.parse_args(argv)
    results: dict[str, float] = {}
    for name, measure in PARTS.items():
        if name in options.parts:
            results |= measure(options.url)
    targets = {name: target for name, target in TARGETS.items() if name in results}
    return report("scale", results, options.json, targets=targets)
