"""Proves that what was acknowledged survives a power loss, by losing power in a recorded run.

`shim/recorded_disk.c` records a server (durability `commit`) while clients select, reward and
correct, rounds are trained and published, and a bandit is created, imported into and deleted. The
records are then cut at many points. For each point a directory is written that a power loss may
have left (see `disk_trace`): everything synced and a random part of the rest, with torn writes. In
each, `bandexa verify` must pass, and everything acknowledged before the cut must be there once;
some of the directories are served again.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np

from benchmarks.proofs.audit import audit
from benchmarks.proofs.disk_trace import (
    Disk,
    Keep,
    Record,
    build_shim,
    read_trace,
    recording,
    same_tree,
)
from benchmarks.proofs.fault_clients import BANDITS, DIM, FaultClient, Ledger, create_bandits
from benchmarks.report import arguments, report
from benchmarks.server import Server, ServerFailed
from service.settings import Settings
from service.store.errors import StoreError
from service.store.sqlite.store import SqliteStore
from service.tools.verify import verify

_SPARE = "spare"
_KINDS = ("wal", "database", "snapshots", "replay", "names")
_PATIENCE_S = 180.0
FOREVER = 1 << 62


@dataclass
class Recording:
    """One recorded run and what was acknowledged in it.

    Attributes:
        spare: When the spare bandit certainly existed: acknowledged, and not yet deleted.
        spare_gone_ns: When its deletion was acknowledged.
    """

    root: Path
    records: list[Record]
    ledgers: list[Ledger] = field(default_factory=list)
    spare: tuple[int, int] = (FOREVER, FOREVER)
    spare_gone_ns: int = FOREVER
    wrong: list[str] = field(default_factory=list)


# -- recording ------------------------------------------------------------------------------


def record_load(
    folder: Path, library: Path, clients: int, rewards: int, durability: str = "commit"
) -> Recording:
    """Record a server under load from start to stop, for `rewards` rewards."""
    root, trace = folder / "root", folder / "trace"
    root.mkdir(parents=True)
    server = Server(root / "data", durability, environment=recording(library, root, trace))
    server.log = folder / "server.log"
    stop = threading.Event()
    workers = [FaultClient(number, lambda: server.url, stop) for number in range(clients)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    made = Recording(root, [])
    try:
        server.spawn()
        server.wait_ready()
        create_bandits(server.address)
        for thread in threads:
            thread.start()
        try:
            _wait_for(rewards // 2, workers)
            _spare(server, made)
            _wait_for(rewards, workers)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if (status := server.stop()) != 0:
            made.wrong.append(f"the server ended with status {status}")
    finally:
        server.close()
    made.ledgers = [worker.ledger for worker in workers]
    made.wrong += [violation for ledger in made.ledgers for violation in ledger.violations]
    made.records = read_trace(trace)
    made.wrong += _incomplete(folder, made)
    return made


def _wait_for(rewards: int, workers: Sequence[FaultClient]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while sum(len(worker.ledger.rewards) for worker in workers) < rewards:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{rewards} rewards took longer than {_PATIENCE_S:.0f} s")
        time.sleep(0.05)


def _spare(server: Server, made: Recording) -> None:
    """Create a bandit that learns, import into it, and delete it."""
    with httpx.Client(base_url=server.address, trust_env=False, timeout=60.0) as http:
        # In lockstep: else a round may still hold its files back when the recording ends.
        spare = BANDITS["first"] | {"training": {"mode": "lockstep"}}
        http.put(f"/bandits/{_SPARE}", json=spare).raise_for_status()
        there_ns = time.monotonic_ns()
        body = {"ids": ["a"], "features": [[0.5] * DIM]}
        http.put(f"/bandits/{_SPARE}/actions", json=body).raise_for_status()
        for number in range(10):
            select = {"bandit": _SPARE, "context": [0.1] * DIM, "decision_id": f"s{number}"}
            http.post("/select", json=select).raise_for_status()
            reward = {"decision_id": f"s{number}", "reward": 0.5}
            http.post("/reward", json=reward).raise_for_status()
        export = http.get(f"/bandits/{_SPARE}/snapshot").raise_for_status().content
        http.put(f"/bandits/{_SPARE}/snapshot", content=export).raise_for_status()
        made.spare = (there_ns, time.monotonic_ns())
        http.delete(f"/bandits/{_SPARE}").raise_for_status()
        made.spare_gone_ns = time.monotonic_ns()


def _incomplete(folder: Path, made: Recording) -> list[str]:
    """Check the records themselves: replayed, they must give the files of the real disk."""
    disk = Disk(made.root)
    for record in made.records:
        disk.apply(record)
    whole = folder / "whole"
    disk.lose_power(whole, "everything", np.random.default_rng(0))
    return [f"not recorded: {path}" for path in same_tree(whole, made.root, but="-shm")]


# -- cutting ----------------------------------------------------------------------------------


def kind_of(record: Record) -> str:
    """Return what kind of file a record wrote to."""
    if record.op in "CRUMD":
        return "names"
    for part, kind in (("/snapshots/", "snapshots"), ("/replay/", "replay"), ("-wal", "wal")):
        if part in record.path:
            return kind
    return "database" if record.path.endswith("bandexa.db") else "other"


def cuts(records: Sequence[Record], num: int, rng: np.random.Generator) -> list[int]:
    """Return after how many records to cut: at the end, and a share for each kind of record."""
    places: dict[str, list[int]] = {kind: [] for kind in _KINDS}
    for place, record in enumerate(records, start=1):
        if (kind := kind_of(record)) in places:
            places[kind].append(place)
    chosen = {len(records)}
    for number, kind in enumerate(sorted(places, key=lambda kind: len(places[kind]))):
        share = -(-(num - len(chosen)) // (len(places) - number))
        left = [place for place in places[kind] if place not in chosen]
        chosen.update(rng.choice(left, min(share, len(left)), replace=False).tolist())
    return sorted(chosen)


def examine(image: Path, made: Recording, moment_ns: int) -> list[str]:
    """Return what is wrong with a state that a power loss left."""
    data = image / "data"
    ledgers = [ledger.until(moment_ns) for ledger in made.ledgers]
    acknowledged = sum(len(ledger.selects) for ledger in ledgers)
    try:
        found = verify(Settings(data_dir=data))
        wrong = [f"verify: {problem}" for check in found.checks for problem in check.problems]
    except StoreError as error:
        wrong = [f"verify: {error}"] if acknowledged else []
        return wrong + _opens(data)
    wrong += _opens(data)
    if acknowledged:
        found_wrong = audit(data / "bandexa.db", ledgers)
        wrong += [f"{name}: {count}" for name, count in found_wrong.items() if count]
    return wrong + _spare_is_right(data, made, moment_ns)


def _opens(data: Path) -> list[str]:
    """Open the store as a server does, with its repairs."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        SqliteStore(data / "bandexa.db", "os", lambda answer: answer()).close()
    except StoreError as error:
        return [f"the store does not open: {error}"]
    return []


def _spare_is_right(data: Path, made: Recording, moment_ns: int) -> list[str]:
    store = SqliteStore(data / "bandexa.db", "os", lambda answer: answer())
    try:
        with store.reader() as reader:
            names = {record.name for record in reader.bandits()}
    finally:
        store.close()
    since_ns, until_ns = made.spare
    if since_ns <= moment_ns < until_ns and _SPARE not in names:
        return ["the spare bandit is lost"]
    if moment_ns >= made.spare_gone_ns and _SPARE in names:
        return ["the spare bandit is back"]
    return []


def served(image: Path, made: Recording, moment_ns: int) -> list[str]:
    """Serve a state and send requests to all bandits; then examine it again."""
    server = Server(image / "data", "os")
    wrong: list[str] = []
    try:
        server.spawn()
        try:
            server.wait_ready()
        except ServerFailed as error:
            return [str(error)]
        with httpx.Client(base_url=server.address, trust_env=False, timeout=60.0) as http:
            for bandit in http.get("/bandits").json()["bandits"]:
                if not bandit["num_actions"]:
                    continue
                shape = bandit["spec"]["context"]["shape"]
                body: dict[str, Any] = {"bandit": bandit["name"], "context": [0.5] * shape[0]}
                wrong += _answered(http, bandit["spec"], body)
        if (status := server.stop()) != 0:
            wrong.append(f"the server ended with status {status}")
    finally:
        server.close()
    return wrong + examine(image, made, moment_ns)


def _answered(http: httpx.Client, spec: dict[str, Any], body: dict[str, Any]) -> list[str]:
    answer = http.post("/select", json=body)
    if not answer.is_success:
        return [f"select: {answer.text}"]
    reward = {"decision_id": answer.json()["decision_id"], "reward": 0.5, "reward_id": "r"}
    answer = http.post("/reward", json=reward)
    return [] if answer.is_success else [f"reward to {spec['policy']}: {answer.text}"]


@dataclass
class Tally:
    """Counts of the cuts, and what is wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def lose_power(
    folder: Path, made: Recording, places: Sequence[int], rng: np.random.Generator, tally: Tally,
    *, keeps: Sequence[Keep], serve: int,
) -> None:  # fmt: skip
    """Cut a recording at all places and examine what a power loss leaves.

    The values of `keeps` take turns; `serve` of the states are served again.
    """
    disk, done = Disk(made.root), 0
    acknowledged = sorted(at for ledger in made.ledgers for at in ledger.moments.values())
    for number, place in enumerate(places):
        for record in made.records[done:place]:
            disk.apply(record)
        done, last = place, made.records[place - 1]
        # The disk does not change before the next record, whatever is acknowledged meanwhile.
        next_ns = made.records[place].time_ns if place < len(made.records) else FOREVER
        keep = keeps[number % len(keeps)]
        image = folder / f"cut-{place}-{keep}"
        disk.lose_power(image, keep, rng)
        found = examine(image, made, next_ns)
        tally.counts[f"cut_at_{kind_of(last)}"] += 1
        tally.counts[f"kept_{keep}"] += 1
        tally.counts["acknowledged_before_a_cut"] += bisect_right(acknowledged, next_ns)
        if not found and (number + 1) * serve // len(places) > number * serve // len(places):
            found = served(image, made, next_ns)
            tally.counts["served_again"] += 1
        tally.wrong += [f"cut {place} ({last.op} {last.path}, {keep}): {x}" for x in found]
        shutil.rmtree(image)
        if sys.stdout.isatty():
            print(f"\r{number + 1} of {len(places)} cuts", end="", flush=True)
    if sys.stdout.isatty():
        print()


def _run(
    folder: Path, num_cuts: int, clients: int, rewards: int, serve: int, seed: int
) -> tuple[dict[str, float], list[str]]:
    rng, tally = np.random.default_rng(seed), Tally()
    library = build_shim(folder)
    keeps: tuple[Keep, ...] = get_args(Keep)
    made = record_load(folder / "load", library, clients, rewards)
    places = cuts(made.records, num_cuts, rng)
    lose_power(folder, made, places, rng, tally, keeps=keeps, serve=serve)
    results: dict[str, float] = {
        "records": len(made.records),
        "syncs": sum(record.op == "E" for record in made.records),
        "selects": sum(len(ledger.selects) for ledger in made.ledgers),
        "rewards": sum(len(ledger.rewards) for ledger in made.ledgers),
        "cuts": len(places),
        **dict(sorted(tally.counts.items())),
        "wrong": len(tally.wrong),
    }
    return results, made.wrong + tally.wrong


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("power_loss", __doc__)
    parser.add_argument("--cuts", type=int, default=200, help="points at which power is lost")
    parser.add_argument("--clients", type=int, default=8, help="concurrent client threads")
    parser.add_argument("--rewards", type=int, default=3000, help="how many are recorded")
    parser.add_argument("--serve", type=int, default=8, help="states that are served again")
    parser.add_argument("--seed", type=int, default=0, help="of the cuts and of what survives")
    given = parser.parse_args(argv)
    if min(given.cuts, given.clients, given.rewards) < 1:
        parser.error("--cuts, --clients and --rewards must be positive")
    with tempfile.TemporaryDirectory(prefix="bandexa-power-") as name:
        results, wrong = _run(
            Path(name), given.cuts, given.clients, given.rewards, given.serve, given.seed
        )
    claim = "everything acknowledged survives every cut, once, and every cut verifies"
    return report("power_loss", results, given.json, wrong=wrong, claim=claim)
