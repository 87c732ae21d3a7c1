"""What a proof checks after a load: that the store has what was acknowledged, and verifies.

`under_load` runs a server with clients that never give up, and everything here runs in the process
of the proof.
"""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.proofs.fault_clients import DEFAULT, FaultClient, Ledger, create_bandits
from benchmarks.server import ROOT, Server, code_of
from service.store.sqlite.codec import unpack_chosen

_VERIFY = (sys.executable, "-m", "service.cli", "verify", "--quiet")


def verify(data_dir: Path) -> str | None:
    """Return what `bandexa verify` found wrong, None where it passed."""
    found = subprocess.run(
        [*_VERIFY, str(data_dir)], capture_output=True, text=True, check=False, cwd=ROOT,
        env=code_of(ROOT),
    )  # fmt: skip
    return None if found.returncode == 0 else (found.stdout + found.stderr)[-3000:]


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
        create_bandits(server.address, capacity)
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
