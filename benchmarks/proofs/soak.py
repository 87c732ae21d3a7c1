"""Proves that a long-running server stays level: memory, descriptors, answers, posterior.

Clients select, reward, repeat and correct for a given time while rounds are trained and swapped
in. Replays hold a bounded number of rows, as those of every long-running server finally do.
Resident memory and open descriptors of the server and its trainer are read every second. After the
warm-up (a quarter of the time, at least a minute if that is no more than half of it: replays fill,
allocators settle) a line is fitted through each. It holds if no request was answered wrongly, the
store has what was acknowledged, `bandexa verify` passes, and no fitted line rises by more than a
twentieth of its level (descriptors: by more than two) over the measured time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.processes import open_descriptors, resident_bytes
from benchmarks.proofs.audit import under_load
from benchmarks.proofs.fault_clients import trainer_of
from benchmarks.report import arguments, report
from benchmarks.server import Server

_WARM_UP, _WARM_UP_S = 0.25, 60.0
_CAPACITY = 2000  # rows of a replay: full within the warm-up
_RSS_RISE, _FD_RISE = 0.05, 2.0


def _watch(server: Server, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """Return (second, value) of each measure, over the whole time."""
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    started = time.monotonic()
    while (now := time.monotonic() - started) < seconds:
        processes = {"server": server.pid, "trainer": trainer_of(server.address)["pid"]}
        for name, pid in processes.items():
            if pid is None:  # the trainer starts with the first round
                continue
            seen[f"{name}_rss_mb"].append((now, resident_bytes(pid) / 1e6))
            seen[f"{name}_fds"].append((now, open_descriptors(pid)))
        if sys.stdout.isatty():
            print(f"\r{now:.0f} of {seconds:.0f} s", end="", flush=True)
        time.sleep(1.0)
    if sys.stdout.isatty():
        print()
    return seen


def _rise(points: list[tuple[float, float]], seconds: float) -> tuple[float, float, float]:
    """Return level, slope per hour, and rise over the time after warm-up, of the fitted line."""
    warm_up_s = max(_WARM_UP * seconds, min(_WARM_UP_S, seconds / 2))
    table = np.array([point for point in points if point[0] >= warm_up_s])
    slope, _ = np.polyfit(table[:, 0], table[:, 1], 1)
    return float(table[:, 1].mean()), float(slope * 3600), float(slope * np.ptp(table[:, 0]))


def _run(folder: Path, seconds: float, clients: int) -> tuple[dict[str, float], list[str]]:
    seen: dict[str, list[tuple[float, float]]] = {}
    rounds: list[int] = []

    def watch(server: Server) -> None:
        seen.update(_watch(server, seconds))
        rounds.append(trainer_of(server.address)["rounds"])

    ledgers, differences, wrong = under_load(folder, clients, watch, capacity=_CAPACITY)
    results: dict[str, float] = {
        "seconds": seconds,
        "clients": clients,
        "selects": sum(len(ledger.selects) for ledger in ledgers),
        "rewards": sum(len(ledger.rewards) for ledger in ledgers),
        "rounds": rounds[0],
        "not_answered": sum(ledger.waits for ledger in ledgers),
    }
    if results["not_answered"]:
        wrong.append(f"{results['not_answered']:.0f} requests were not answered at once")
    for name, points in seen.items():
        level, slope, rise = _rise(points, seconds)
        results[name] = round(level, 2)
        results[f"{name}_slope_per_hour"] = round(slope, 2)
        if rise > (_FD_RISE if name.endswith("fds") else _RSS_RISE * level):
            wrong.append(f"{name} rose by {rise:.1f} from about {level:.1f}")
    return results | differences, wrong


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("soak", __doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long the load lasts")
    parser.add_argument("--clients", type=int, default=4, help="concurrent client threads")
    given = parser.parse_args(argv)
    if given.minutes <= 0 or given.clients < 1:
        parser.error("--minutes and --clients must be positive")
    with tempfile.TemporaryDirectory(prefix="bandexa-soak-") as name:
        results, wrong = _run(Path(name), given.minutes * 60.0, given.clients)
    claim = "memory and descriptors are level, nothing was lost, the posterior is verified"
    return report("soak", results, given.json, wrong=wrong, claim=claim)
