"""Reports about the decisions of a migrated directory: joined, repeated, late, and summed exactly.

A server of this tree runs on each directory of schema 4. What it should answer follows from what
the file of the release had (see `old_store`), by rules that are written out here.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bandexa_core.ids import DecisionId
from service.store.identity import first_key
from service.store.records import StoredDecision
from service.store.sql.codec import unpack_chosen
from service.store.sqlite.history import History
from service.store.sqlite.reader import StoreReader
from tests.fixtures.commands import bandexa
from tests.recovery.old_store import (
    COUNTED,
    DATA,
    OLD_PARAMS,
    OldDecision,
    OldReward,
    OldStore,
    read,
)

RICHEST = "0.2.0-reports"
MORE = 0.4375  # a reward that no decision has


class Bandit(NamedTuple):
    """A bandit of a directory: its name, its rules for rewards, and its decisions."""

    name: str
    rules: dict[str, Any]
    decisions: list[OldDecision]

    def fold(self, counted: list[float]) -> float:
        """Return the value that rewards make."""
        aggregate = self.rules["aggregate"]
        if aggregate in ("first", "last"):
            return counted[0 if aggregate == "first" else -1]
        total = math.fsum(counted)
        return total if aggregate == "sum" else total / len(counted)


def bandits_of(store: OldStore) -> dict[str, Bandit]:
    """Return the bandits by name; only the windows of "closing" end while the tests run."""
    found = {}
    for key, _, name, spec, *_ in store.tables["bandits"]:
        decisions = [old for old in store.decisions.values() if old.bandit == key]
        found[name] = Bandit(name, json.loads(spec)["rewards"], decisions)
    return found


class Served:
    """A server on a migrated directory, and what the directory had before."""

    def __init__(self, node: Any, before: OldStore) -> None:
        self.node = node
        self.bandits = bandits_of(before)

    def lasting(self) -> Iterator[tuple[Bandit, OldDecision]]:
        """Return the decisions whose windows are closed, or stay open."""
        for bandit in self.bandits.values():
            for old in bandit.decisions:
                if old.closed is not None or bandit.name != "closing":
                    yield bandit, old

    def explained(self, bandit: Bandit, decision_id: str) -> dict[str, Any]:
        path = f"/bandits/{bandit.name}/decisions/{decision_id}"
        found: dict[str, Any] = self.node.call("GET", path)
        return found

    def stored(self, bandit: Bandit, old: OldDecision) -> StoredDecision:
        """Return a decision as the store has it: to explain one takes much longer."""
        with StoreReader(self.database) as reader, History(self.database) as history:
            (record,) = (found for found in reader.bandits() if found.name == bandit.name)
            found = history.decision(record, DecisionId(old.id))
        assert found is not None
        return found

    def values(self, bandit: Bandit, old: OldDecision) -> list[float | None]:
        """Return the learned values by action."""
        latest = {row.item: row.after for row in self.stored(bandit, old).learned}
        return [latest.get(item) for item in range(len(actions(old)))]

    def report(self, old: OldDecision, item: int, reward: float, reward_id: str | None) -> str:
        """Report a reward of one of a decision's actions; returns the status."""
        body = {"decision_id": old.id, "reward": reward, "action": actions(old)[item]}
        if reward_id is not None:
            body["reward_id"] = reward_id
        return str(self.node.call("POST", "/reward", body)["status"])

    def activate(self, old: OldDecision) -> str:
        return str(self.node.call("POST", "/activate", {"decision_id": old.id})["status"])

    @property
    def database(self) -> Path:
        return Path(self.node.data_dir) / "bandexa.db"

    def num_rewards(self) -> int:
        with closing(sqlite3.connect(self.database)) as db:
            return int(db.execute("SELECT count(*) FROM rewards").fetchone()[0])


def actions(old: OldDecision) -> list[str]:
    return [picked.id for picked in unpack_chosen(old.id, old.columns["chosen"])]


def values_before(old: OldDecision) -> list[float | None]:
    values = {item: outcome.value for item, outcome in old.outcomes.items()}
    return [values.get(item) for item in range(len(actions(old)))]


def verified(node: Any) -> None:
    done = bandexa("verify", node.data_dir, "--quiet", "--live", str(node.http.base_url))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", params=OLD_PARAMS)
def served(request, launch) -> Served:
    before = read(DATA / request.param / "bandexa.db")
    return Served(launch("migrated", content=DATA / request.param), before)


@pytest.fixture
def altered(launch, tmp_path):
    """Launch a server on a directory of a release whose database was changed by SQL before."""

    def start(release: str, sql: str, *arguments: Any) -> Served:
        root = tmp_path / "altered"
        shutil.copytree(DATA / release, root)
        with closing(sqlite3.connect(root / "bandexa.db")) as db, db:
            assert db.execute(sql, arguments).rowcount > 0
        return Served(launch("altered", content=root), read(root / "bandexa.db"))

    return start


def test_values_are_what_they_were(served):
    for bandit, old in served.lasting():
        found = served.explained(bandit, old.id)
        assert [line["value"] for line in found["chosen"]] == values_before(old), old.id
        assert (found["activated_at"], found["window_closed"]) == (old.activated_at, old.closed)


def test_a_repeated_reward_is_a_duplicate_and_stored_once(served):
    before, repeated = served.num_rewards(), 0
    for bandit, old in served.lasting():
        for number, reward in enumerate(old.rewards):
            if reward.reward_id is None and not is_repeated_by_value(old, number):
                continue
            status = served.report(old, reward.item, reward.reward, reward.reward_id)
            assert status == "duplicate", (old.id, reward)
            repeated += 1
        assert served.values(bandit, old) == values_before(old)
    assert repeated > 100
    assert served.num_rewards() == before


def is_repeated_by_value(old: OldDecision, number: int) -> bool:
    """Whether a reward without an id is one that an equal one repeats."""
    reward = old.rewards[number]
    if old.closed is not None:
        return reward.status == "late"
    later = [each for each in old.rewards[number + 1 :] if each.item == reward.item]
    return reward.status in COUNTED and not any(each.status in COUNTED for each in later)


def test_another_reward_under_a_known_id_is_ignored(served):
    named = {
        (bandit.name, reward.status): (bandit, old, reward)
        for bandit, old in served.lasting()
        for reward in old.rewards
        if reward.reward_id is not None
    }
    assert named
    for number, (bandit, old, reward) in enumerate(named.values()):
        values = served.values(bandit, old)
        other = -0.75 - number
        assert served.report(old, reward.item, other, reward.reward_id) == "ignored"
        assert served.values(bandit, old) == values


def test_one_more_reward_joins_those_before_and_the_fold_is_exact(served):
    statuses = set()
    for bandit, old in served.lasting():
        expected = values_before(old)
        for item in range(len(expected)):
            status, value = one_more(bandit, old, item)
            assert served.report(old, item, MORE, "more") == status, (old.id, item)
            assert served.report(old, item, MORE, "more") == "duplicate"
            statuses.add(status)
            expected[item] = value
        assert served.values(bandit, old) == expected, old.id
    assert {"applied", "aggregated"} <= statuses


def one_more(bandit: Bandit, old: OldDecision, item: int) -> tuple[str, float | None]:
    """Return the status of one more reward of an item, and the value that it leads to."""
    counted, value = old.counted(item), values_before(old)[item]
    if old.closed is not None:
        return "late", value
    if counted and bandit.rules["aggregate"] == "first":
        return "ignored", value
    joins = bool(counted) and bandit.rules["aggregate"] in ("sum", "mean")
    if not old.is_active:
        return "aggregated", None
    return "aggregated" if joins else "applied", bandit.fold([*counted, MORE])


def test_an_activation_learns_what_came_before_the_migration(served):
    activated = 0
    for bandit, old in served.lasting():
        values = served.values(bandit, old)
        status = "duplicate" if old.is_active else "late" if old.closed is not None else "applied"
        assert served.activate(old) == status, old.id
        if status != "applied":
            assert served.values(bandit, old) == values
            continue
        activated += 1
        assert values == [None]
        # The test before it may have added its reward.
        rewards = served.stored(bandit, old).rewards
        whole = [reward.reward for reward in rewards if reward.status in COUNTED]
        assert old.counted(0) == whole[: len(old.counted(0))]
        assert served.values(bandit, old) == [bandit.fold(whole) if whole else None]
        assert served.stored(bandit, old).activated_at is not None
        assert served.activate(old) == "duplicate"
    assert activated >= (3 if "means" in served.bandits else 0)


def test_open_windows_close_after_their_time_and_learn_the_default(served, rig):
    bandit = served.bandits.get("closing")
    if bandit is None:
        assert "forgetting" in served.bandits, "its windows are those of the next test"
        return
    still_open = [old for old in bandit.decisions if old.closed is None]
    assert len(still_open) == 4
    for old in still_open:
        rig.poll(
            lambda name=old.id: served.explained(bandit, name)["window_closed"], "a closed window"
        )
        expected = [
            bandit.rules["default_reward"] if value is None and old.is_active else value
            for value in values_before(old)
        ]
        assert served.values(bandit, old) == expected
        assert served.report(old, 0, MORE, "late") == "late"
        assert served.report(old, 0, MORE, "late") == "duplicate"
        assert served.activate(old) == ("duplicate" if old.is_active else "late")
        assert served.values(bandit, old) == expected


@pytest.mark.parametrize("release", OLD_PARAMS)
def test_time_away_is_not_counted_and_a_window_that_was_over_closes(altered, rig, release):
    before = read(DATA / release / "bandexa.db")
    looked = dict(before.tables["meta"])["windows_looked"]
    newest = max(d.columns["time"] for d in before.decisions.values() if is_open(d))
    ended = max(looked, newest)  # the server that wrote it ran at least until then
    served = altered(
        release, "UPDATE windows SET closes = ? WHERE decision_id = 'forgetting.5'", ended - 0.5
    )
    bandit = served.bandits["forgetting"]
    rig.poll(lambda: served.explained(bandit, "forgetting.5")["window_closed"], "the window's end")
    (over,) = (old for old in bandit.decisions if old.id == "forgetting.5")
    assert served.report(over, 0, MORE, "late") == "late"
    assert served.values(bandit, over) == values_before(over)
    for old in bandit.decisions:
        if old is not over:
            closes = served.stored(bandit, old).closes
            assert old.closes is not None
            assert closes is not None
            left = closes - time.time()
            assert old.closes - ended - 60 < left <= old.closes - ended


def is_open(old: OldDecision) -> bool:
    return old.closes is not None and old.closed is None


def test_new_decisions_come_after_the_old_ones(served):
    for bandit in served.bandits.values():
        listed, before = [], None
        made = served.node.call(
            "POST", "/select", {"bandit": bandit.name, "context": [0.5, 0.25, -1.0]}
        )["decision_id"]
        assert re.fullmatch(r"0\.[0-9a-f]{28}", made)
        while True:
            path = f"/dashboard/bandits/{bandit.name}/decisions"
            query: dict[str, Any] = {} if before is None else {"before": before}
            page = served.node.call("GET", path, limit=40, **query)
            listed += [line["decision_id"] for line in page["decisions"]]
            before = page["next"]
            if before is None:
                break
        oldest_first = sorted(bandit.decisions, key=lambda old: old.rowid)
        assert listed == [made, *(old.id for old in reversed(oldest_first))]
        report = {"decision_id": made, "reward": 0.5, "reward_id": "a"}
        assert served.node.call("POST", "/reward", report)["status"] == "applied"
        assert served.node.call("POST", "/reward", report)["status"] == "duplicate"


@pytest.mark.slow
def test_all_of_it_holds_after_a_kill(served):
    """The last one of these tests."""
    node = served.node

    def seen(bandit: Bandit, old: OldDecision) -> tuple[Any, ...]:
        found = served.stored(bandit, old)
        return found.rewards, found.learned, found.activated_at, found.closed

    before = {old.id: seen(bandit, old) for bandit, old in served.lasting()}
    states = {name: node.state(name) for name in served.bandits}
    verified(node)
    node.kill()
    node.start()
    assert {name: node.state(name) for name in served.bandits} == states
    for bandit, old in served.lasting():
        assert seen(bandit, old) == before[old.id]
    verified(node)


def test_a_deletion_that_was_cut_short_is_finished_after_the_migration(altered, rig):
    served = altered(RICHEST, "UPDATE bandits SET deleted = 1.0 WHERE name = 'means'")
    keys = dict(
        rig.query(served.node, "SELECT name, bandit FROM bandits WHERE deleted IS NOT NULL")
    )
    bounds = first_key(keys["means"]), first_key(keys["means"] + 1)

    def left() -> int:
        return sum(
            rig.query(
                served.node, f"SELECT count(*) FROM {table} WHERE key >= ? AND key < ?", *bounds
            )[0][0]
            for table in ("decisions", "rewards", "ledger", "log")
        )

    rig.poll(lambda: left() == 0, "its rows to be gone")
    old = served.bandits["means"].decisions[0]
    report = {"decision_id": old.id, "reward": MORE, "reward_id": "more"}
    assert served.node.http.post("/reward", json=report).status_code == 404
    served.node.create("means", rig.disjoint())
    rig.feed(served.node, "means", 0, 3)
    verified(served.node)


def test_what_a_release_answered_is_what_it_stored():
    """The statuses that `save_directory` was answered are those in its file."""
    found = bandits_of(read(DATA / RICHEST / "bandexa.db"))
    statuses: dict[str, list[OldReward]] = {
        old.id: list(old.rewards) for bandit in found.values() for old in bandit.decisions
    }
    assert [reward.status for reward in statuses["closing.0"]] == [
        "applied", "aggregated", "aggregated", "late", "ignored",
    ]  # fmt: skip
    assert [reward.status for reward in statuses["means.0"]] == [
        "applied", "aggregated", "aggregated", "ignored",
    ]  # fmt: skip
    assert [reward.status for reward in statuses["firsts.0"]] == ["applied", "ignored"]
