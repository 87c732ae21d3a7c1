"""What a proof checks after a load: that the store has what was acknowledged, and verifies.

`under_load` runs a server with clients that never give up, and everything here runs in the process
of the proof. `audit` reads the tables itself and shares no check with `bandexa verify`: it adds up
the rewards and chains the hashes with its own arithmetic. It is for stores that retention has not
trimmed.
"""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack

from bandexa_core.ids import DecisionKey
from benchmarks.proofs.fault_clients import FaultClient, Ledger, create_bandits
from benchmarks.server import ROOT, Server, code_of
from service.store.identity import bandit_of
from service.store.sql.codec import StoredItem, unpack_chosen, unpack_items
from service.store.sqlite.tables import decision_ids

_VERIFY = (sys.executable, "-m", "service.cli", "verify", "--quiet")
_COUNTED = ("applied", "aggregated", "pending")
_LEARN = 1  # the kind of a log row
_INSIDE, _ROW_BY_ROW, _AS_BLOCK = 0, 1, 2  # how a group of log rows ends


def verify(data_dir: Path) -> str | None:
    """Return what `bandexa verify` found wrong, None where it passed."""
    found = subprocess.run(
        [*_VERIFY, str(data_dir)], capture_output=True, text=True, check=False, cwd=ROOT,
        env=code_of(ROOT),
    )  # fmt: skip
    return None if found.returncode == 0 else (found.stdout + found.stderr)[-3000:]


# -- the tables ---------------------------------------------------------------------------------


@dataclass
class _Decision:
    """A decision with everything that is stored about it.

    Attributes:
        rules: The `rewards` of its bandit's configuration.
        chosen: Action id, snapshot and position.
        rewards: Item, reward id, reward and status, in the order they were reported.
        learned: Item, position, origin, before and after of its log rows, in order.
        items: Of its ledger row; None without one.
        windows: How many reward windows it has open.
    """

    rules: dict[str, Any]
    chosen: tuple[str, int, int]
    rewards: list[tuple[int, str, float, str]] = field(default_factory=list)
    learned: list[tuple[int, int, int, float | None, float]] = field(default_factory=list)
    items: tuple[StoredItem, ...] | None = None
    num_rewards: int = 0
    closed: bool = False
    matured: bool = False
    windows: int = 0

    @property
    def is_final(self) -> bool:
        """Whether rewards and defaults that waited are learned."""
        return self.closed or self.matured

    @property
    def value(self) -> float | None:
        """The learned value of the first item."""
        return self.items[0].state.value if self.items else None

    def counted(self, item: int) -> list[float]:
        """Return the rewards of an item that make its value."""
        return [value for index, _, value, status in self.rewards
                if index == item and status in _COUNTED]  # fmt: skip


def audit(database: Path, ledgers: Sequence[Ledger]) -> Counter[str]:
    """Compare the store with what was acknowledged; every count should be 0."""
    found: Counter[str] = Counter()
    with closing(sqlite3.connect(database)) as store:
        rules = {
            bandit: json.loads(spec)["rewards"]
            for bandit, spec in store.execute(
                "SELECT bandit, spec FROM bandits WHERE deleted IS NULL"
            )
        }
        for bandit in rules:
            _log(store, bandit, found)
        decisions = _decisions(store, rules, found)
    for decision in decisions.values():
        _stored_once(decision, found)
        _learned_once(decision, found)
        _window(decision, found)
    _acknowledged(decisions, ledgers, found)
    return found


def _decisions(
    store: sqlite3.Connection, rules: dict[int, dict[str, Any]], found: Counter[str]
) -> dict[str, _Decision]:
    """Return the decisions of all bandits that are not deleted, by the ids that callers see."""
    ids = decision_ids(store)
    by_key: dict[DecisionKey, _Decision] = {}
    by_name: dict[str, _Decision] = {}
    for key, own_id, chosen, snapshot, position in store.execute(
        "SELECT key, own_id, chosen, snapshot, position FROM decisions"
    ):
        if (bandit := bandit_of(key)) not in rules:
            continue
        name = ids.name(key, own_id)
        found["ids_given_twice"] += name in by_name
        picked = unpack_chosen(name, chosen)[0].id
        by_key[key] = by_name[name] = _Decision(rules[bandit], (picked, snapshot, position))

    def of(key: DecisionKey) -> _Decision | None:
        decision = by_key.get(key)
        found["without_a_decision"] += decision is None and bandit_of(key) in rules
        return decision

    ledger = store.execute("SELECT key, rewards, closed, matures, items FROM ledger")
    for key, num, closed, matured, items in ledger:
        if (decision := of(key)) is not None:
            decision.items, decision.num_rewards = unpack_items(items), num
            decision.closed, decision.matured = closed is not None, matured is not None
    for key, *reward in store.execute(
        "SELECT key, item, reward_id, reward, status FROM rewards ORDER BY key, seq"
    ):
        if (decision := of(key)) is not None:
            decision.rewards.append(tuple(reward))
    for key, *row in store.execute(
        "SELECT key, item, position, origin, before, after FROM log WHERE kind = ?"
        " ORDER BY bandit, position",
        (_LEARN,),
    ):
        if (decision := of(key)) is not None:
            decision.learned.append(tuple(row))
    for (key,) in store.execute("SELECT key FROM windows"):
        if (decision := by_key.get(key)) is not None:
            decision.windows += 1
    return by_name


def _log(store: sqlite3.Connection, bandit: int, found: Counter[str]) -> None:
    """Check that the log has no gaps, and that each group's hash covers all before it."""
    last, previous, leaves = 0, b"", list[bytes]()
    for position, kind, time, payload, ends, row_hash, *learned in store.execute(
        "SELECT position, kind, time, payload, ends, hash, key, item, origin, before, after, low,"
        " high FROM log WHERE bandit = ? ORDER BY position",
        (bandit,),
    ):
        found["log_gaps"] += position != last + 1
        found["log_values_wrong"] += kind == _LEARN and bandit_of(learned[0]) != bandit
        content = learned if kind == _LEARN else [payload]
        leaves.append(_digest(msgpack.packb((position, kind, time, *content))))
        expected = leaves[-1]
        if ends != _INSIDE:
            rule = _ROW_BY_ROW if len(leaves) == 1 else _AS_BLOCK
            expected = _digest(previous + bytes([rule]) + b"".join(leaves))
            previous, leaves = row_hash, []
            found["log_groups_wrong"] += ends != rule
        found["log_hashes_wrong"] += row_hash != expected
        last = position
    found["log_groups_wrong"] += len(leaves) > 0


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


# -- one decision -------------------------------------------------------------------------------


def _stored_once(decision: _Decision, found: Counter[str]) -> None:
    """Check that no reward is stored, and none counts, more than once."""
    found["rewards_not_in_ledger"] += decision.num_rewards != len(decision.rewards)
    named = Counter(reward[:3] for reward in decision.rewards if reward[1])
    found["rewards_stored_twice"] += sum(num > 1 for num in named.values())
    counted = Counter(reward[:2] for reward in decision.rewards if reward[3] in _COUNTED)
    found["counted_twice"] += sum(num > 1 for num in counted.values())


def _learned_once(decision: _Decision, found: Counter[str]) -> None:
    """Check that each value was learned for the first time once, and is that of its rewards."""
    for index, item in enumerate(decision.items or ()):
        rows = [row[1:] for row in decision.learned if row[0] == index]
        found["first_learned_twice"] += sum(before is None for _, _, before, _ in rows) > 1
        value: float | None = None
        for _, origin, before, after in rows:
            found["log_values_wrong"] += before != value or origin != rows[0][0]
            value = after
        places = (rows[0][0], rows[-1][0]) if rows else (0, 0)
        found["log_values_wrong"] += item.state.value != value
        found["log_values_wrong"] += (item.origin, item.latest) != places
        counted = decision.counted(index)
        if counted:
            waits = decision.rules.get("maturity") not in (None, "report") and not decision.is_final
            made = None if waits else _fold(counted, decision.rules["aggregate"])
            found["values_not_of_rewards"] += value != made
        else:
            default = decision.rules["default_reward"] if decision.is_final else None
            found["wrong_defaults"] += value != default
    if decision.items is None:
        found["log_values_wrong"] += len(decision.learned) > 0


def _fold(rewards: list[float], aggregate: str) -> float:
    if aggregate in ("first", "last"):
        return rewards[0 if aggregate == "first" else -1]
    total = math.fsum(rewards)
    return total if aggregate == "sum" else total / len(rewards)


def _window(decision: _Decision, found: Counter[str]) -> None:
    """Check that a reward window is open until it is closed."""
    is_open = decision.rules["reward_window_s"] is not None and not decision.closed
    found["windows_wrong"] += decision.windows != is_open


# -- what was acknowledged ------------------------------------------------------------------------


def _acknowledged(
    decisions: dict[str, _Decision], ledgers: Sequence[Ledger], found: Counter[str]
) -> None:
    """Check that the store has everything that was acknowledged, as it was acknowledged."""
    given = Counter(name for ledger in ledgers for name in ledger.selects)
    found["ids_given_twice"] += sum(num > 1 for num in given.values())
    for ledger in ledgers:
        for name, chosen in ledger.selects.items():
            decision = decisions.get(name)
            found["selects_lost_or_changed"] += decision is None or decision.chosen != chosen
        for name, reward_id, value, _ in ledger.rewards:
            decision = decisions.get(name)
            found["rewards_lost"] += decision is None or not any(
                reward[1:3] == (reward_id or "", value) for reward in decision.rewards
            )
        for name, parts in ledger.final.items():
            decision = decisions.get(name)
            found["wrong_values"] += decision is None or decision.value != math.fsum(parts)


# -- a server under load --------------------------------------------------------------------------


def under_load(
    folder: Path,
    clients: int,
    during: Callable[[Server], None],
    *,
    capacity: int | None = None,
    workers: int = 1,
    at_rest: Callable[[Server], None] = lambda server: None,
) -> tuple[list[Ledger], Counter[str], list[str]]:
    """Have clients at a new server while `during` runs; then end it, verify and audit.

    `at_rest` runs between the clients' end and the server's.

    Returns the ledgers, the differences found in the store, and what does not hold, in words.
    """
    folder.mkdir(exist_ok=True)
    environment = {"BANDEXA_WORKERS": str(workers)}
    server = Server(folder / "data", environment=environment)
    stop, wrong = threading.Event(), list[str]()
    crew = [FaultClient(number, lambda: server.url, stop) for number in range(clients)]
    threads = [threading.Thread(target=one.run) for one in crew]
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
        at_rest(server)
        if (status := server.stop()) != 0:
            wrong.append(f"the server ended with status {status}")
        if (found := verify(server.data_dir)) is not None:
            wrong.append(f"verify at the end: {found}")
    finally:
        server.close()
    ledgers = [one.ledger for one in crew]
    differences = audit(server.data_dir / "bandexa.db", ledgers)
    wrong += [f"{name}: {count}" for name, count in differences.items() if count]
    wrong += [violation for ledger in ledgers for violation in ledger.violations]
    return ledgers, differences, wrong
