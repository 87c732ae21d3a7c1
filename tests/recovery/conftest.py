"""Shared by the recovery tests: servers that are ended and started again on one directory.

Everything sent to a server follows from names and counters, so that two servers can be fed the same
and compared. Tests observe through HTTP while a server runs, and read its store once it is down.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import pytest

START_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0
CONTEXT_DIM, ACTION_DIM, NUM_ACTIONS = 6, 4, 5
ACTION_IDS = [f"a{n}" for n in range(NUM_ACTIONS)]


def poll(condition: Callable[[], Any], what: str, within_s: float = 30.0) -> Any:
    """Return the first true value of `condition`; fail when none comes in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s:g} s: {what}")


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and was not reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return not stat.parent.parent.exists() or stat.read_text().rsplit(")")[-1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it went while it was looked at
        return False


class Refused(AssertionError):
    """The server answered a call with an error."""


class Node:
    """A server on one data directory; start it, end it, start it again."""

    def __init__(
        self,
        data_dir: Path,
        keep_snapshots: int = 3,
        durability: str = "os",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_suffix(".log")
        self._durability = durability
        self._environment = {"BANDEXA_KEEP_SNAPSHOTS": str(keep_snapshots), **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self.http: httpx.Client

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> Node:
        assert self._process is None
        command = [
            sys.executable, "-m", "service.cli", "serve", "--port", "0",
            "--data-dir", str(self.data_dir), "--durability", self._durability, "--device", "cpu",
        ]  # fmt: skip
        with self.log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True, env={**os.environ, **self._environment},
            )  # fmt: skip
        assert self._process.stdout is not None
        self.http = httpx.Client(
            base_url=self._announced(self._process.stdout), timeout=60.0, trust_env=False
        )
        return self

    def _announced(self, stdout: IO[str]) -> str:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        line = lines.get(timeout=START_WITHIN_S)
        assert line, f"the server did not start:\n{self.tail()}"
        announcement = json.loads(line)
        assert announcement["event"] == "listening"
        assert announcement["pid"] == self.pid
        return str(announcement["url"])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the end of the process and return its exit status."""
        assert self._process is not None
        process, self._process = self._process, None
        self.http.close()
        try:
            return process.wait(STOP_WITHIN_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> int:
        self.signal(signal.SIGKILL)
        return self.wait()

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def tail(self) -> str:
        """Return the end of the server's log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]

    # -- HTTP ---------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Return the decoded answer of a call that succeeds."""
        response = self.http.request(method, path, json=body, params=query)
        if not response.is_success:
            raise Refused(f"{method} {path}: {response.status_code} {response.text}")
        return response.json() if response.content else None

    def trainer(self) -> dict[str, Any]:
        """Return the state of the trainer process."""
        trainer: dict[str, Any] = self.call("GET", "/readyz")["trainer"]
        return trainer

    def trainer_pid(self) -> int:
        """Return the pid of the trainer process as soon as it is there."""
        pid: int = poll(lambda: self.trainer()["pid"], "a trainer process")
        return pid

    def create(self, name: str, spec: dict[str, Any]) -> None:
        """Create a bandit with the usual actions."""
        self.call("PUT", f"/bandits/{name}", spec)
        actions: list[dict[str, Any]] = [{"id": action_id} for action_id in ACTION_IDS]
        if spec.get("action_dim"):
            features = np.random.default_rng(5).standard_normal((NUM_ACTIONS, ACTION_DIM)).round(3)
            for action, row in zip(actions, features.tolist(), strict=True):
                action["features"] = row
        self.call("PUT", f"/bandits/{name}/actions", {"actions": actions})

    def state(self, name: str) -> dict[str, Any]:
        """Return a bandit's state without what this process alone has seen of it."""
        state: dict[str, Any] = self.call("GET", f"/bandits/{name}")
        del state["trainer"], state["learning"]
        return state

    def train(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.call("POST", f"/bandits/{name}/train", wait="true")
        return answer

    def score(self, name: str, num: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Return means and standard deviations of all actions on `num` probe contexts."""
        answers = [
            self.call("POST", f"/bandits/{name}/score", {"context": context_of("probe", number)})
            for number in range(num)
        ]
        scores = [[(s["mean"], s["std"]) for s in answer["scores"]] for answer in answers]
        both = np.array(scores, np.float64)
        return both[..., 0], both[..., 1]


def context_of(name: str, number: int) -> list[float]:
    rng = np.random.default_rng([number, *name.encode()])
    context: list[float] = rng.standard_normal(CONTEXT_DIM).round(4).tolist()
    return context


def reward_of(context: list[float], index: int) -> float:
    """Return what an action earns: action n does well where the context's entry n is high."""
    return round(float(np.tanh(context[index % CONTEXT_DIM])), 4)


@dataclass(frozen=True)
class Step:
    """What a server answered to one select and its reward."""

    decision_id: str
    action: str
    score: float
    snapshot: int
    position: int
    status: str


def steps(node: Node, name: str, first: int, num: int, *, train: bool = True) -> list[Step]:
    """Select and reward `num` times from number `first` on; train when a round is due."""
    seen = []
    for number in range(first, first + num):
        context = context_of(name, number)
        decision_id = f"{name}.{number}"
        body = {"bandit": name, "context": context, "decision_id": decision_id}
        chosen = node.call("POST", "/select", body)
        reward = reward_of(context, chosen["action"]["index"])
        answer = node.call("POST", "/reward", {"decision_id": decision_id, "reward": reward})
        answered = {key: chosen[key] for key in ("decision_id", "score", "snapshot", "position")}
        seen.append(Step(action=chosen["action"]["id"], status=answer["status"], **answered))
        if train and answer["train_due"]:
            node.train(name)
    return seen


def feed(node: Node, name: str, first: int, num: int) -> None:
    """Select and reward `num` times in two calls, where each answer is of no interest."""
    contexts = {f"{name}.{n}": context_of(name, n) for n in range(first, first + num)}
    selects = [
        {"bandit": name, "context": context, "decision_id": decision_id}
        for decision_id, context in contexts.items()
    ]
    chosen = node.call("POST", "/select/batch", {"items": selects})["items"]
    rewards = []
    for item in chosen:
        assert item["code"] == 200, item
        decision_id = item["answer"]["decision_id"]
        reward = reward_of(contexts[decision_id], item["answer"]["action"]["index"])
        rewards.append({"decision_id": decision_id, "reward": reward})
    answers = node.call("POST", "/reward/batch", {"items": rewards})["items"]
    assert [item["answer"]["status"] for item in answers] == ["applied"] * num


class Rig:
    """The builders of this folder, as one fixture."""

    poll = staticmethod(poll)
    is_running = staticmethod(is_running)
    steps = staticmethod(steps)
    feed = staticmethod(feed)
    context_of = staticmethod(context_of)
    reward_of = staticmethod(reward_of)
    action_ids = ACTION_IDS
    Refused = Refused

    @staticmethod
    def query(node: Node, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Ask, or change, the database of a server that is down."""
        with closing(sqlite3.connect(node.data_dir / "bandexa.db")) as connection, connection:
            return connection.execute(sql, arguments).fetchall()

    @staticmethod
    def linear(**changes: Any) -> dict[str, Any]:
        spec = {
            "policy": "linear_ts", "context": {"shape": [CONTEXT_DIM]}, "action_dim": ACTION_DIM,
            "encoder": {"name": "concat"}, "training": {"mode": "lockstep"}, "seed": 1,
        }  # fmt: skip
        return spec | changes

    @staticmethod
    def disjoint(**changes: Any) -> dict[str, Any]:
        return Rig.linear(action_dim=0, encoder={"name": "per_action"}, seed=2) | changes

    @staticmethod
    def neural(**changes: Any) -> dict[str, Any]:
        mlp = {"name": "mlp", "params": {"feature_dim": 8, "hidden": [16]}}
        training = {"mode": "lockstep", "train_every": 40, "optimizer_steps": 100}
        spec = Rig.linear(policy="neural_linear_ts", encoder=mlp, training=training, seed=3)
        return spec | changes

    @staticmethod
    def training(**changes: Any) -> dict[str, Any]:
        """Return the training section of a bandit that is trained on demand."""
        return {"mode": "lockstep", "train_every": 100_000, "optimizer_steps": 20} | changes


@pytest.fixture(scope="session")
def rig() -> type[Rig]:
    return Rig


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Node]]:
    """Start a server on a directory of its own; whatever is left at the end is killed."""
    nodes: list[Node] = []

    def start(name: str, **options: Any) -> Node:
        nodes.append(Node(tmp_path_factory.mktemp(name) / "data", **options))
        return nodes[-1].start()

    yield start
    for node in nodes:
        node.close()
