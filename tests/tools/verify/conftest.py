"""Shared by the tests of `bandexa verify`: a server that has learned, and copies to damage."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from service.settings import Settings
from service.store.sql.codec import pack_items, unpack_items
from service.tools.backup import backup
from service.tools.verify import Report, verify
from tests.fixtures.waiting import poll

CONTEXT_DIM, ACTION_DIM, NUM_ACTIONS = 5, 3, 4
LINEAR: dict[str, Any] = {
    "policy": "linear_ts", "context": {"shape": [CONTEXT_DIM]}, "action_dim": ACTION_DIM,
    "training": {"mode": "lockstep"}, "seed": 1,
}  # fmt: skip
MLP: dict[str, Any] = {
    "policy": "neural_linear_ts",
    "encoder": {"name": "mlp", "params": {"feature_dim": 6, "hidden": [8]}},
    "training": {"mode": "lockstep", "optimizer_steps": 20},
}
IMAGES = {"context": {"shape": [8, 8], "dtype": "uint8"}, "action_dim": 0}
CONV = {"name": "conv", "params": {"feature_dim": 6, "channels": [3], "hidden": 8}}
RESNET = {"name": "resnet18", "params": {"weights": "none", "trainable": "none", "feature_dim": 8}}
FORGETTING = {"forgetting": {"half_life": 40}}
SPECS: dict[str, dict[str, Any]] = {
    "linear": LINEAR,
    "disjoint": LINEAR | {"action_dim": 0, "encoder": {"name": "per_action"}},
    "forgetting": LINEAR | FORGETTING,
    "neural": LINEAR | MLP,
    "drifting": LINEAR | MLP | FORGETTING | {"replay": {"capacity": 50}},
    "summing": LINEAR | {"rewards": {"aggregate": "sum"}},
    "last": LINEAR | {"rewards": {"aggregate": "last", "clip_outliers": True}},
    "waiting": LINEAR | {"rewards": {"reward_window_s": 86400.0}},
    "closing": LINEAR | {
        "rewards": {"aggregate": "sum", "reward_window_s": 1.0, "default_reward": 0.25},
    },
    "images": LINEAR | MLP | IMAGES | {"encoder": CONV},
    "photos": LINEAR | MLP | IMAGES | {"encoder": RESNET},
    "uniform": LINEAR | {"policy": "uniform"},
}  # fmt: skip


REPORTED = {"linear", "waiting", "closing", "last"}


class Feeder:
    """Creates bandits on a server and trains them; everything follows from names and numbers."""

    def __init__(self, http: httpx.Client, changes: dict[str, Any] | None = None) -> None:
        self.http = http
        self._changes = changes or {}  # of every bandit's configuration

    def call(self, method: str, path: str, body: Any = None) -> Any:
        response = self.http.request(method, path, json=body)
        assert response.is_success, response.text
        return response.json()

    def create(self, name: str) -> None:
        self.call("PUT", f"/bandits/{name}", SPECS[name] | self._changes)
        features = np.random.default_rng(5).standard_normal((NUM_ACTIONS, ACTION_DIM)).tolist()
        actions: list[dict[str, Any]] = [{"id": f"a{n}"} for n in range(NUM_ACTIONS)]
        if SPECS[name]["action_dim"]:
            for action, row in zip(actions, features, strict=True):
                action["features"] = row
        self.call("PUT", f"/bandits/{name}/actions", {"actions": actions})

    def feed(self, name: str, first: int, num: int) -> None:
        """Select and reward `num` times from number `first` on; photos a tenth as often."""
        num = max(1, num // 10) if name == "photos" else num
        contexts = self.select(name, first, num)
        rewards: list[dict[str, Any]] = [
            {"decision_id": f"{name}.{first + n}", "reward": reward}
            for n, reward in enumerate(np.tanh(contexts[:, 0]).tolist())
        ]
        if SPECS[name].get("rewards", {}).get("aggregate") == "sum":
            rewards = [reward | {"reward_id": i} for i in ("x", "y") for reward in rewards]
        self._batch("/reward/batch", rewards)

    def select(self, name: str, first: int, num: int, **more: Any) -> NDArray[np.float64]:
        """Select `num` times from number `first` on; returns the contexts."""
        contexts = np.random.default_rng([first, *name.encode()]).standard_normal((num, 5))
        shape = SPECS[name]["context"]["shape"]
        sent = contexts
        if len(shape) == 2:  # an image whose brightness is the context
            sent = np.full((num, *shape), (contexts[:, :1, None] * 40 + 128).clip(0, 255).round())
        selects = [
            {"bandit": name, "context": context, "decision_id": f"{name}.{first + n}", **more}
            for n, context in enumerate(sent.tolist())
        ]
        self._batch("/select/batch", selects)
        return contexts

    def reward(self, decision_id: str, reward: float, **more: Any) -> str:
        """Send one reward; returns its status."""
        body = {"decision_id": decision_id, "reward": reward} | more
        return str(self.call("POST", "/reward", body)["status"])

    def _batch(self, path: str, items: list[dict[str, Any]]) -> None:
        answers = self.call("POST", path, {"items": items})["items"]
        assert [answer["code"] for answer in answers] == [200] * len(items)

    def grow(self, name: str, rounds: int = 4) -> None:
        """Create a bandit, feed it, and have snapshots made of it: by the last of four rounds.

        What is fed before a round that is left out is left out with it, but for the first rows.
        """
        self.create(name)
        for number, first in enumerate((0, 40, 70, 85)):
            trains = number >= 4 - rounds
            if (name == "photos" and first in (40, 70)) or not (trains or first == 0):
                continue
            self.feed(name, first, 15 if first >= 70 else 40 if first == 0 else 30)
            if trains:
                self.call("POST", f"/bandits/{name}/train?wait=true")
        self.feed(name, 100, 5)

    def report(self) -> None:
        """Leave decisions in every state: unreported, inactive, corrected, closed, clipped."""
        for name in ("linear", "waiting", "closing"):
            self.select(name, 900, 2)
            self.select(name, 910, 2, activate=False)
        assert self.reward("linear.910", 0.5) == "aggregated"
        assert self.reward("waiting.910", 0.5) == "aggregated"
        for name in ("linear.911", "waiting.911"):
            self.call("POST", "/activate", {"decision_id": name})
        assert self.reward("last.7", 0.125) == "applied"
        assert self.reward("last.7", 0.25) == "applied"
        self.select("last", 920, 2)
        for name in ("last.920", "last.921"):  # far beyond all others
            assert self.reward(name, 1e4) == "applied"
        assert self.reward("last.921", 0.5) == "applied"

        def are_closed() -> bool:
            path = "/bandits/closing/decisions/closing.911"
            return self.call("GET", path)["window_closed"] is not None

        poll(are_closed, "the windows' end")


@pytest.fixture(scope="session")
def feeder() -> type[Feeder]:
    return Feeder


@pytest.fixture(scope="session")
def specs() -> dict[str, dict[str, Any]]:
    return SPECS


@pytest.fixture(scope="module")
def learned(
    request: pytest.FixtureRequest, start_module_server: Callable[..., Any], tmp_path_factory: Any
) -> Path:
    """Return a data directory that no server has open, with all bandits but photos.

    A ResNet takes seconds of every check; `test_running_servers` has it verified. A test file that
    verifies often has fewer bandits, and names them in `BANDITS`, fewer snapshots: `ROUNDS`, or
    bandits whose models are checked sooner: `CHANGES`.
    """
    names = getattr(request.module, "BANDITS", [name for name in SPECS if name != "photos"])
    server = start_module_server(None, env={"BANDEXA_KEEP_SNAPSHOTS_H": "0"})
    with server.client() as http:
        feeder = Feeder(http, getattr(request.module, "CHANGES", None))
        for name in names:
            feeder.grow(name, getattr(request.module, "ROUNDS", 4))
        if set(names) >= REPORTED:
            feeder.report()
    copy = Path(tmp_path_factory.mktemp("learned") / "data")
    backup(server.data_dir, copy, say=lambda text: None)
    server.stop()
    return copy


class Copy:
    """A copy of the learned directory, to be damaged."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def execute(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.root / "bandexa.db")) as db, db:
            cursor = db.execute(sql, arguments)
            rows = cursor.fetchall()
            assert rows or cursor.rowcount > 0, "the damage must hit something"
            return rows

    def bandit(self, name: str) -> int:
        return int(self.execute("SELECT bandit FROM bandits WHERE name = ?", name)[0][0])

    def key(self, decision_id: str) -> int:
        return int(self.execute("SELECT key FROM decisions WHERE own_id = ?", decision_id)[0][0])

    def group(self, name: str, at_least: int = 4) -> list[int]:
        """Return the positions of the rows of a bandit's first group of some size."""
        rows = self.execute(
            "SELECT position, ends FROM log WHERE bandit = ? ORDER BY position", self.bandit(name)
        )
        group: list[int] = []
        for position, ends in rows:
            group.append(position)
            if ends and len(group) >= at_least:
                return group
            group = group if not ends else []
        raise AssertionError(f"{name} has no group of {at_least} rows")

    def change(self, decision_id: str, item: dict[str, Any] | None = None, **state: Any) -> None:
        """Change fields of the first item of a ledger row, and of its state."""
        key = self.key(decision_id)
        (packed,) = self.execute("SELECT items FROM ledger WHERE key = ?", key)[0]
        first, *others = unpack_items(packed)
        changed = replace(replace(first, state=replace(first.state, **state)), **(item or {}))
        self.execute(
            "UPDATE ledger SET items = ? WHERE key = ?", pack_items([changed, *others]), key
        )

    def names(self) -> set[str]:
        return {name for (name,) in self.execute("SELECT name FROM bandits")}

    def sum_of(self, decision_id: str) -> float:
        """Return the exact sum of a decision's rewards."""
        key = self.key(decision_id)
        return math.fsum(
            reward for (reward,) in self.execute("SELECT reward FROM rewards WHERE key = ?", key)
        )

    def snapshots(self, name: str) -> Path:
        found = self.execute("SELECT uid FROM bandits WHERE name = ?", name)
        return self.root / "snapshots" / str(found[0][0])

    def verify(self) -> Report:
        return verify(Settings(data_dir=self.root))

    def problems(self) -> list[str]:
        """Return what is wrong, each with the bandit's name before it."""
        return [f"{c.bandit}: {text}" for c in self.verify().checks for text in c.problems]


@pytest.fixture
def copy(learned: Path, tmp_path: Path) -> Copy:
    shutil.copytree(learned, tmp_path / "data")
    return Copy(tmp_path / "data")
