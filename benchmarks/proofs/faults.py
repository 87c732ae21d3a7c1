"""Proves that nothing acknowledged is lost when a server under load is killed again and again.

Clients select, reward, repeat, correct and report late while the server or its trainer is killed
with SIGKILL: at random moments while it serves, trains or starts, and at stages of a round (filling
the replay, optimizing, rebuilding, publishing, swapping). After every restart `bandexa verify` must
pass; the clients wait meanwhile, so that the log does not grow faster than it is verified. After
every 25 kills every acknowledged event must be in the store exactly once, with the value of the
reward contract, and a new store is begun. Servers have durability `os`, which survives SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.proofs.audit import under_load, verify
from benchmarks.proofs.fault_clients import Ledger, trainer_of
from benchmarks.report import arguments, report
from benchmarks.server import Server

AIMS = ["publish", "rebuild", "swap", "replay", "optimizer"]
_AIM_S = 20.0
_KILLS_PER_STORE = 25


def play(server: Server, kills: int, counts: Counter[str], wrong: list[str], seed: int = 5) -> None:
    """Kill `kills` times; after each restart the store is verified while clients wait."""
    rng = np.random.default_rng(seed)
    kinds = [*(["server"] * 7), *(["trainer"] * 3), *(["start"] * 3), *(2 * AIMS)]
    for number in range(kills):
        what = kinds[int(rng.integers(len(kinds)))] if number >= len(AIMS) else AIMS[number]
        if what not in AIMS:
            time.sleep(float(rng.uniform(0.2, 2.5)))
            counts[f"kills_while_trainer_{trainer_of(server.address)['state']}"] += 1
        elif not aim(server, what, rng, counts):
            what = "server"
        counts[f"kills_{'at' if what in AIMS else 'of'}_{what}"] += 1
        if what == "trainer":
            if (pid := trainer_of(server.address)["pid"]) is not None:
                os.kill(pid, signal.SIGKILL)
        else:
            server.kill()
            counts["half_published"] += len(list(_half_published(server.data_dir)))
            server.spawn()
            if what == "start":
                time.sleep(float(rng.uniform(0.1, 2.5)))
                server.kill()
                server.spawn()
            server.wait_ready()
        address, server.url = server.url, None
        found = verify(server.data_dir)
        server.url = address
        if found is not None:
            wrong.append(f"verify after kill {number} ({what}): {found}")
            return
        if sys.stdout.isatty():
            print(f"\r{number + 1} of {kills} kills", end="", flush=True)
    if sys.stdout.isatty():
        print()


def aim(server: Server, what: str, rng: np.random.Generator, counts: Counter[str]) -> bool:
    """Wait until a round reaches a stage and kill the trainer there; False: it never did.

    At "swap" the trainer has finished and is not killed: the server loads what was published.
    """
    seen, pid = _published(server.data_dir), trainer_of(server.address)["pid"]
    deadline = time.monotonic() + _AIM_S
    while time.monotonic() < deadline:
        if what == "publish":
            there = any(_half_published(server.data_dir))
        elif what == "swap":
            there = bool(_published(server.data_dir) - seen)
        else:
            state = trainer_of(server.address)
            there, pid = state["phase"] == what, state["pid"]
        if there:
            time.sleep(float(rng.uniform(0.0, 0.01)))
            if what != "swap" and pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return True
        time.sleep(0.0005)
    counts[f"missed_{what}"] += 1
    return False


def _half_published(data_dir: Path) -> Iterator[str]:
    """Yield the snapshots that are being written, or were left half written."""
    return (name for name in _snapshot_names(data_dir) if ".tmp-" in name)


def _published(data_dir: Path) -> set[str]:
    return {name for name in _snapshot_names(data_dir) if "." not in name}


def _snapshot_names(data_dir: Path) -> Iterator[str]:
    for bandit in (data_dir / "snapshots").iterdir():
        yield from (f"{bandit.name}/{name}" for name in os.listdir(bandit))


def _run(folder: Path, kills: int, clients: int) -> tuple[dict[str, float], list[str]]:
    counts, ready_s, broken = Counter[str](), list[float](), list[str]()

    ledgers, differences, wrong = list[Ledger](), Counter[str](), list[str]()
    for part, first in enumerate(range(0, kills, _KILLS_PER_STORE)):
        num = min(_KILLS_PER_STORE, kills - first)

        def kill(server: Server, part: int = part, num: int = num) -> None:
            play(server, num, counts, broken, seed=5 + part)
            ready_s.extend(server.ready_s)

        found = under_load(folder / f"store-{part}", clients, kill)
        ledgers += found[0]
        differences.update(found[1])
        wrong += found[2]
        shutil.rmtree(folder / f"store-{part}")
    results: dict[str, float] = {
        "kills": kills,
        "clients": clients,
        "selects": sum(len(ledger.selects) for ledger in ledgers),
        "rewards": sum(len(ledger.rewards) for ledger in ledgers),
        "repeated_selects": sum(ledger.repeats for ledger in ledgers),
        "asked_in_vain": sum(ledger.waits for ledger in ledgers),
        "ready_median_s": round(float(np.median(ready_s)), 2),
        "ready_worst_s": round(max(ready_s), 2),
        **dict(sorted(counts.items())),
        **differences,
    }
    return results, broken + wrong


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("faults", __doc__)
    parser.add_argument("--kills", type=int, default=100, help="how often something is killed")
    parser.add_argument("--clients", type=int, default=16, help="concurrent client threads")
    given = parser.parse_args(argv)
    for name in ("kills", "clients"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1")
    with tempfile.TemporaryDirectory(prefix="bandexa-faults-") as name:
        results, wrong = _run(Path(name), given.kills, given.clients)
    claim = "everything acknowledged is in the store once, verified after every restart"
    return report("faults", results, given.json, wrong=wrong, claim=claim)
