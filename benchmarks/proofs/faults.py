"""Proves that nothing acknowledged is lost: a server under load is killed again and again.

Clients select, reward, repeat, correct and come late while the server or its trainer is killed
with SIGKILL: at random moments while it serves, trains, or is still starting, and aimed at stages
of a round (filling the replay, optimizing, rebuilding, publishing, swapping) and at migrations.
After every restart `bandexa verify` has to pass, while the clients hold their breath: what it
recomputes must not grow faster than it computes. After every 25 kills every acknowledged event has
to be in the store exactly once, with the value the reward contract gives it, and a new store is
begun. Bounded by the number of kills; the exit status is 1 where a claim does not hold.

Starts servers on a temporary directory (durability "os": what survives SIGKILL); keeps nothing but
the JSON file asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.proofs.fault_clients import BANDITS, DEFAULT, DIM, NUM_ACTIONS, FaultClient, Ledger
from service.store.sqlite.codec import unpack_chosen

OLD = Path(__file__).parents[2] / "tests" / "recovery" / "data" / "version-1"
OLD_LEARNED = 20  # values in that directory
AIMS = ["publish", "rebuild", "swap", "replay", "optimizer"]
_READY_WITHIN_S, _STOP_S, _AIM_S = 90.0, 30.0, 20.0
_KILLS_PER_STORE = 25
_VERIFY = [sys.executable, "-m", "service.cli", "verify", "--quiet"]


class Server:
    """A server on one data directory that is killed and started again."""

    def __init__(
        self,
        data_dir: Path,
        durability: str = "os",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_suffix(".log")
        self._durability = durability
        self._environment = dict(environment or {})
        self.url: str | None = None
        self.ready_s: list[float] = []
        self._process: subprocess.Popen[str] | None = None

    def spawn(self) -> None:
        """Start the process; `wait_ready` sees it through."""
        command = [
            sys.executable, "-m", "service.cli", "serve", "--port", "0", "--device", "cpu",
            "--durability", self._durability, "--data-dir", str(self.data_dir),
        ]  # fmt: skip
        self._spawned = time.perf_counter()
        with self.log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                env=os.environ | self._environment,
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Wait until it announces itself; RuntimeError with the end of its log where it ends."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # ends with the process, at the latest
        if not line:
            raise RuntimeError(f"the server did not start: {self.log.read_text()[-2000:]}")
        self.ready_s.append(time.perf_counter() - self._spawned)
        self.url = str(json.loads(line)["url"])

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self.url = None
        self._process.kill()
        self._process.communicate()

    def stop(self) -> int:
        """End it as an operator would; returns its exit status."""
        assert self._process is not None
        self._process.terminate()
        self._process.communicate(timeout=_STOP_S)
        return self._process.returncode

    def ended(self, within_s: float = 0.0) -> int | None:
        """Return its exit status, None while it still runs after so many seconds."""
        assert self._process is not None
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Kill what is left."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def trainer(self) -> dict[str, Any]:
        """Return the trainer's state."""
        state: dict[str, Any] = httpx.get(
            f"{self.url}/bandits/last", trust_env=False, timeout=20.0
        ).json()["trainer"]
        return state

    def create_bandits(self, capacity: int | None = None) -> None:
        """Create what the clients ask; `capacity`: most rows of a replay."""
        features = np.random.default_rng(0).standard_normal((NUM_ACTIONS, DIM)).round(3)
        ids = [f"a{n}" for n in range(NUM_ACTIONS)]
        with httpx.Client(base_url=str(self.url), trust_env=False, timeout=60.0) as http:
            for name, spec in BANDITS.items():
                whole = spec | {"replay": spec.get("replay", {}) | {"capacity": capacity}}
                http.put(f"/bandits/{name}", json=whole).raise_for_status()
                body = {"ids": ids, "features": features.tolist()}
                http.put(f"/bandits/{name}/actions", json=body).raise_for_status()


def verify(data_dir: Path) -> str | None:
    """Return what `bandexa verify` found wrong, None where it passed."""
    found = subprocess.run([*_VERIFY, str(data_dir)], capture_output=True, text=True, check=False)
    return None if found.returncode == 0 else (found.stdout + found.stderr)[-3000:]


def play(server: Server, kills: int, counts: Counter[str], wrong: list[str], seed: int = 5) -> None:
    """Kill so many times; after each restart the store is verified, and clients wait."""
    rng = np.random.default_rng(seed)
    kinds = [*(["server"] * 7), *(["trainer"] * 3), *(["start"] * 3), *(2 * AIMS)]
    for number in range(kills):
        what = kinds[int(rng.integers(len(kinds)))] if number >= len(AIMS) else AIMS[number]
        if what not in AIMS:
            time.sleep(float(rng.uniform(0.2, 2.5)))
            counts[f"kills_while_trainer_{server.trainer()['state']}"] += 1
        elif not aim(server, what, rng, counts):
            what = "server"
        counts[f"kills_{'at' if what in AIMS else 'of'}_{what}"] += 1
        if what == "trainer":
            if (pid := server.trainer()["pid"]) is not None:
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
    """Wait until a round is at a stage, and kill the trainer there; False: it did not come.

    At "swap" the trainer is done and lives: the server is at loading what was published.
    """
    seen, pid = _published(server.data_dir), server.trainer()["pid"]
    deadline = time.monotonic() + _AIM_S
    while time.monotonic() < deadline:
        if what == "publish":
            there = any(_half_published(server.data_dir))
        elif what == "swap":
            there = bool(_published(server.data_dir) - seen)
        else:
            state = server.trainer()
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


def kill_migrations(folder: Path, num: int, counts: Counter[str], wrong: list[str]) -> None:
    """Kill servers while they migrate a directory of the first release; the next one serves it."""
    rng = np.random.default_rng(6)
    for number in range(num):
        server = Server(folder / f"migration-{number}" / "data")
        shutil.copytree(OLD, server.data_dir)
        try:
            server.spawn()
            deadline = time.monotonic() + _READY_WITHIN_S
            while "schema version" not in server.log.read_text():
                if time.monotonic() > deadline:
                    raise RuntimeError("no migration began")
                time.sleep(0.0005)
            time.sleep(float(rng.uniform(0.0, 0.02)))
            server.kill()
            with closing(sqlite3.connect(server.data_dir / "bandexa.db")) as store:
                (version,) = store.execute("PRAGMA user_version").fetchone()
            counts["kills_at_migration"] += 1
            counts["migrations_undone"] += version == 1
            server.spawn()
            server.wait_ready()
            learned = httpx.get(f"{server.url}/bandits/offers", trust_env=False).json()
            if learned["num_learned"] != OLD_LEARNED:
                wrong.append(f"after a killed migration {learned['num_learned']} are learned")
            server.stop()
            if (found := verify(server.data_dir)) is not None:
                wrong.append(f"verify after a killed migration: {found}")
        finally:
            server.close()


def audit(database: Path, ledgers: Sequence[Ledger]) -> Counter[str]:
    """Compare the store with what was acknowledged; every count should be 0."""
    with closing(sqlite3.connect(database)) as store:
        decisions = {
            name: (unpack_chosen(name, chosen)[0].id, snapshot, position)
            for name, chosen, snapshot, position in store.execute(
                "SELECT decision_id, chosen, snapshot, position FROM decisions"
            )
        }
        values = dict(store.execute("SELECT decision_id, value FROM outcomes"))
        rewards = Counter(
            store.execute("SELECT decision_id, reward_id, reward FROM rewards").fetchall()
        )
        counted = Counter(
            store.execute(
                "SELECT decision_id, reward_id FROM rewards"
                " WHERE status IN ('applied', 'aggregated')"
            ).fetchall()
        )
        firsts = Counter(
            name
            for (name,) in store.execute(
                "SELECT decision_id FROM log WHERE kind = 1 AND before IS NULL"
            )
        )
    found: Counter[str] = Counter()
    found["counted_twice"] = sum(count > 1 for count in counted.values())
    found["first_learned_twice"] = sum(count > 1 for count in firsts.values())
    for ledger in ledgers:
        for name, chosen in ledger.selects.items():
            found["selects_lost_or_changed"] += decisions.get(name) != chosen
        for decision_id, reward_id, value, _ in ledger.rewards:
            found["rewards_lost"] += (decision_id, reward_id, value) not in rewards
        for name, parts in ledger.final.items():
            found["wrong_values"] += values.get(name) != math.fsum(parts)
    rewarded = {name for name, _ in counted}
    for name, value in values.items():
        if name.startswith("windowed") and name not in rewarded:
            found["wrong_defaults"] += value != DEFAULT
    return found


def under_load(
    folder: Path,
    clients: int,
    during: Callable[[Server], None],
    *,
    capacity: int | None = None,
) -> tuple[list[Ledger], Counter[str], list[str]]:
    """Have clients at a new server while `during` runs; then end it, verify and audit.

    Returns the ledgers, the differences found in the store, and what does not hold, in words.
    """
    folder.mkdir(exist_ok=True)
    server, stop, wrong = Server(folder / "data"), threading.Event(), list[str]()
    workers = [FaultClient(number, lambda: server.url, stop) for number in range(clients)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    try:
        server.spawn()
        server.wait_ready()
        server.create_bandits(capacity=capacity)
        for thread in threads:
            thread.start()
        try:
            during(server)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if (status := server.stop()) != 0:
            wrong.append(f"the server ended with status {status}")
        if (found := verify(server.data_dir)) is not None:
            wrong.append(f"verify at the end: {found}")
    finally:
        server.close()
    ledgers = [worker.ledger for worker in workers]
    differences = audit(server.data_dir / "bandexa.db", ledgers)
    wrong += [f"{name}: {count}" for name, count in differences.items() if count]
    wrong += [violation for ledger in ledgers for violation in ledger.violations]
    return ledgers, differences, wrong


def report(
    name: str, results: dict[str, float], wrong: list[str], holds: str, json_path: Path | None
) -> int:
    """Print and write figures and verdict; returns the exit status."""
    for measure, value in results.items():
        print(f"{measure:>32} {value:>12g}")
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        figures = {"name": name, "machine": machine, "results": results}
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    for finding in wrong[:20]:
        print(f"FAILED: {finding}")
    if not wrong:
        print(f"HOLDS: {holds}")
    return 1 if wrong else 0


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
    kill_migrations(folder, -(-kills // 10), counts, broken)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the proof and return the exit status: 0 when every claim holds.

    Args:
        argv: command line arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(
        prog="benchmarks.proofs.faults", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=100, help="how often something is killed")
    parser.add_argument("--clients", type=int, default=16, help="concurrent client threads")
    parser.add_argument("--json", type=Path, help="file the figures are written to")
    given = parser.parse_args(argv)
    for name in ("kills", "clients"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1")
    with tempfile.TemporaryDirectory(prefix="bandexa-faults-") as name:
        results, wrong = _run(Path(name), given.kills, given.clients)
    holds = "everything acknowledged is in the store once, verified after every restart"
    return report("faults", results, wrong, holds, given.json)


if __name__ == "__main__":
    sys.exit(main())
