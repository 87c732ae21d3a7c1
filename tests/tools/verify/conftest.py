"""Shared by the tests of `bandexa verify`: a server that has learned, and copies to damage."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.settings import Settings
from service.tools.backup import backup
from service.tools.verify import Report, verify

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
    "images": LINEAR | MLP | IMAGES | {"encoder": CONV},
    "photos": LINEAR | MLP | IMAGES | {"encoder": RESNET},
    "uniform": LINEAR | {"policy": "uniform"},
}


class Feeder:
    """Creates bandits on a server and trains them; everything follows from names and numbers."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def call(self, method: str, path: str, body: Any = None) -> Any:
        response = self.http.request(method, path, json=body)
        assert response.is_success, response.text
        return response.json()

    def create(self, name: str) -> None:
        self.call("PUT", f"/bandits/{name}", SPECS[name])
        features = np.random.default_rng(5).standard_normal((NUM_ACTIONS, ACTION_DIM)).tolist()
        actions: list[dict[str, Any]] = [{"id": f"a{n}"} for n in range(NUM_ACTIONS)]
        if SPECS[name]["action_dim"]:
            for action, row in zip(actions, features, strict=True):
                action["features"] = row
        self.call("PUT", f"/bandits/{name}/actions", {"actions": actions})

    def feed(self, name: str, first: int, num: int) -> None:
        """Select and reward `num` times from number `first` on; photos a tenth as often."""
        num = max(1, num // 10) if name == "photos" else num
        contexts = np.random.default_rng([first, *name.encode()]).standard_normal((num, 5))
        shape = SPECS[name]["context"]["shape"]
        sent = contexts
        if len(shape) == 2:  # an image whose brightness is the context
            sent = np.full((num, *shape), (contexts[:, :1, None] * 40 + 128).clip(0, 255).round())
        selects = [
            {"bandit": name, "context": context, "decision_id": f"{name}.{first + n}"}
            for n, context in enumerate(sent.tolist())
        ]
        self._batch("/select/batch", selects)
        rewards: list[dict[str, Any]] = [
            {"decision_id": select["decision_id"], "reward": reward}
            for select, reward in zip(selects, np.tanh(contexts[:, 0]).tolist(), strict=True)
        ]
        if name == "summing":
            rewards = [reward | {"reward_id": i} for i in ("x", "y") for reward in rewards]
        self._batch("/reward/batch", rewards)

    def _batch(self, path: str, items: list[dict[str, Any]]) -> None:
        answers = self.call("POST", path, {"items": items})["items"]
        assert [answer["code"] for answer in answers] == [200] * len(items)

    def grow(self, name: str) -> None:
        """Create a bandit, feed it, and have snapshots made of it on the way."""
        self.create(name)
        for first in (0, 85) if name == "photos" else (0, 40, 70, 85):
            self.feed(name, first, 15 if first >= 70 else 40 if first == 0 else 30)
            self.call("POST", f"/bandits/{name}/train?wait=true")
        self.feed(name, 100, 5)


@pytest.fixture(scope="session")
def feeder() -> type[Feeder]:
    return Feeder


@pytest.fixture(scope="session")
def specs() -> dict[str, dict[str, Any]]:
    return SPECS


@pytest.fixture(scope="module")
def learned(start_session_server: Callable[..., Any], tmp_path_factory: Any) -> Path:
    """Return a data directory that no server has open, with all bandits but photos.

    A ResNet takes seconds of every check; `test_running_servers` has it verified.
    """
    server = start_session_server()
    with server.client() as http:
        for name in SPECS:
            if name != "photos":
                Feeder(http).grow(name)
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

    def key(self, name: str) -> int:
        return int(self.execute("SELECT bandit FROM bandits WHERE name = ?", name)[0][0])

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
