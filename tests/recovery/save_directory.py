"""Makes the small data directory that a release leaves behind for the upgrade tests of later ones.

    python -m tests.recovery.save_directory tests/recovery/data/VERSION

Run it on the code of the release. It starts `bandexa serve` on an empty directory, sends what is
written below, takes a backup, which becomes the directory, and sends some more selects. The answers
go to VERSION.json, with which `test_saved_directories` compares those of later servers: to selects
that are stored in the directory, and to the next ones.

The directory has a linear bandit with every kind of log row (learned values, corrections, a late
activation, changes of catalogue and configuration, an import), a forgetting one without features of
actions, a small mlp with two training rounds, and one whose log lost its oldest rows. Three others
have every kind of report: means, first rewards, and sums with windows that are closed and open.
From the last one a person was erased.
The directories of 0.1.0 and 0.2.0 have the first three bandits. Those of 0.2.0-reports, which the
code of 0.2.0 made with this script, and of 0.3.0 have all but the last. Later releases have all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

CONTEXT_DIM, ACTION_DIM = 3, 2
ACTIONS = ("red", "green", "blue")
COMMON = {"context": {"shape": [CONTEXT_DIM]}, "seed": 5}
PER_ACTION = COMMON | {
    "policy": "linear_ts", "action_dim": 0, "encoder": {"name": "per_action"},
    "training": {"mode": "lockstep"},
}  # fmt: skip
WINDOW_S = 3.0
SPECS: dict[str, dict[str, Any]] = {
    "linear": COMMON | {
        "policy": "linear_ts", "action_dim": ACTION_DIM, "encoder": {"name": "concat"},
        "training": {"mode": "lockstep"}, "rewards": {"aggregate": "last"},
    },
    "forgetting": PER_ACTION | {
        "forgetting": {"half_life": 32},
        "rewards": {"aggregate": "sum", "reward_window_s": 86400.0},
    },
    "mlp": COMMON | {
        "policy": "neural_linear_ts", "action_dim": ACTION_DIM,
        "encoder": {"name": "mlp", "params": {"feature_dim": 4, "hidden": [6]}},
        "training": {"mode": "lockstep", "optimizer_steps": 20},
    },
    "trimmed": PER_ACTION,
    "means": PER_ACTION | {"rewards": {"aggregate": "mean"}},
    "firsts": PER_ACTION,
    "closing": PER_ACTION | {
        "rewards": {"aggregate": "sum", "reward_window_s": WINDOW_S, "default_reward": 0.25},
    },
    "erased": PER_ACTION,
}  # fmt: skip
LASTING = [name for name in SPECS if name != "closing"]  # none of their windows closes on its own


class Recorded:
    """A client of the server, and the answers it received."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False)
        self.selects: list[dict[str, Any]] = []

    def call(self, method: str, path: str, body: Any = None) -> Any:
        response = self.http.request(method, path, json=body)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def create(self, name: str) -> None:
        spec = SPECS[name]
        self.call("PUT", f"/bandits/{name}", spec)
        self.catalogue(name, *ACTIONS)

    def catalogue(self, name: str, *actions: str) -> None:
        made: list[dict[str, Any]] = [{"id": action} for action in actions]
        if SPECS[name]["action_dim"]:
            for number, action in enumerate(made):
                action["features"] = [round(np.cos(number), 3), round(np.sin(number), 3)]
        self.call("PUT", f"/bandits/{name}/actions", {"actions": made})

    def select(self, name: str, number: int, **more: Any) -> str:
        context = np.random.default_rng([number, *name.encode()]).standard_normal(CONTEXT_DIM)
        decision_id = f"{name}.{number}"
        body = {
            "bandit": name, "context": context.round(3).tolist(), "decision_id": decision_id,
        } | more  # fmt: skip
        self.selects.append({"body": body, "answer": self.call("POST", "/select", body)})
        return decision_id

    def unnamed(self, name: str) -> str:
        """Select without an id; returns the one that the server made."""
        body = {"bandit": name, "context": [0.25] * CONTEXT_DIM}
        return str(self.call("POST", "/select", body)["decision_id"])

    def both(self, name: str, number: int) -> tuple[str, list[str]]:
        """Select two actions; returns the decision's id and theirs."""
        decision_id = self.select(name, number, k=2)
        return decision_id, [action["id"] for action in self.selects[-1]["answer"]["actions"]]

    def reward(self, decision_id: str, reward: float, status: str = "applied", **more: Any) -> None:
        report = {"decision_id": decision_id, "reward": reward} | more
        right = {status, "pending"} if status == "applied" else {status}  # until a window closes
        assert self.call("POST", "/reward", report)["status"] in right

    def activate(self, decision_id: str, status: str = "applied") -> None:
        assert self.call("POST", "/activate", {"decision_id": decision_id})["status"] == status

    def learn(self, name: str, first: int, num: int) -> None:
        named = SPECS[name].get("rewards", {}).get("aggregate") in ("sum", "mean")
        for number in range(first, first + num):
            decision_id = self.select(name, number)
            more = {"reward_id": "first"} if named else {}
            self.reward(decision_id, number * 5 % 9 / 8, **more)

    def state(self, name: str) -> dict[str, Any]:
        state = self.call("GET", f"/bandits/{name}")
        body = {"context": [0.5, -1.0, 2.0]}
        fields = ("uid", "snapshot", "position", "num_learned")
        scores = self.call("POST", f"/bandits/{name}/score", body)["scores"]
        return {key: state[key] for key in fields} | {"scores": scores}


def fill(server: Recorded) -> None:
    """Send what changes the models of three bandits."""
    for name in ("linear", "forgetting", "mlp"):
        server.create(name)
        server.learn(name, 0, 12)
    server.call("POST", "/bandits/mlp/train?wait=true")
    server.learn("mlp", 12, 6)
    server.call("POST", "/bandits/mlp/train?wait=true")
    server.learn("mlp", 18, 3)
    server.select("mlp", 21, k=2)
    server.reward("mlp.21", 0.5, action=server.selects[-1]["answer"]["actions"][1]["id"])
    inline = [{"id": "teal", "features": [0.1, 0.2]}, {"id": "pink", "features": [0.9, -0.3]}]
    server.select("mlp", 22, candidates=inline)

    server.reward("linear.3", 0.5)  # a correction
    decision_id = server.select("linear", 12, activate=False)
    server.reward(decision_id, 0.25, "aggregated")
    server.call("POST", "/activate", {"decision_id": decision_id})
    exported = server.http.get("/bandits/linear/snapshot").content
    assert server.http.put("/bandits/linear/snapshot", content=exported).is_success
    server.call("PUT", "/bandits/linear", SPECS["linear"] | {"selection": {"epsilon": 0.01}})
    server.catalogue("linear", "green", "white")
    server.call("DELETE", "/bandits/linear/actions/red")
    server.learn("linear", 13, 3)
    server.select("linear", 16, candidates=["blue", "white"])

    server.reward("forgetting.2", 0.5, "aggregated", reward_id="second")
    server.learn("forgetting", 12, 60)


def report(server: Recorded) -> None:
    """Send every kind of report; the last windows are still open at the end."""
    for name in ("means", "firsts", "closing"):
        server.create(name)
        server.learn(name, 100, 8)
    close(server)

    decision_id = server.select("means", 0)
    server.reward(decision_id, 0.1, reward_id="a")
    server.reward(decision_id, 0.2, "aggregated", reward_id="b")
    server.reward(decision_id, 0.4, "aggregated", reward_id="c")
    server.reward(decision_id, 0.4, "duplicate", reward_id="c")
    server.reward(decision_id, 0.8, "ignored", reward_id="c")
    for number in (1, 2):  # one is activated here, one later
        decision_id = server.select("means", number, activate=False)
        server.reward(decision_id, 0.3, "aggregated", reward_id="a")
        server.reward(decision_id, 0.6, "aggregated", reward_id="b")
    decision_id = server.select("means", 4, activate=False)
    for reward_id, reward in (("a", 1000.0), ("b", 1e-13), ("c", -1000.0)):
        server.reward(decision_id, reward, "aggregated", reward_id=reward_id)
    server.activate("means.1")
    decision_id, actions = server.both("means", 3)
    server.reward(decision_id, 0.7, action=actions[1], reward_id="a")
    server.reward(server.unnamed("means"), 0.35, reward_id="a")

    decision_id = server.select("firsts", 0)
    server.reward(decision_id, 0.5)
    server.reward(decision_id, 0.5, "duplicate")
    server.reward(decision_id, 0.75, "ignored")
    decision_id = server.select("firsts", 1)
    server.reward(decision_id, 0.5, reward_id="x")
    server.reward(decision_id, 0.25, "ignored", reward_id="x")
    server.reward(server.select("firsts", 2, activate=False), 0.125, "aggregated")
    server.reward(server.unnamed("firsts"), 0.625)
    server.unnamed("firsts")
    decision_id, actions = server.both("firsts", 3)
    for number, action in enumerate(actions):
        server.reward(decision_id, 0.1 * number, action=action)

    open_windows(server)


def close(server: Recorded) -> None:
    """Wait for the end of some windows, and report again after it."""
    decision_id = server.select("closing", 0)
    server.reward(decision_id, 0.1, reward_id="a")
    server.reward(decision_id, 0.2, "aggregated", reward_id="b")
    server.reward(decision_id, 0.3, "aggregated", reward_id="c")
    server.select("closing", 1)
    server.reward(server.select("closing", 2, activate=False), 0.5, "aggregated", reward_id="a")
    decision_id, actions = server.both("closing", 3)
    server.reward(decision_id, 0.5, action=actions[1], reward_id="a")
    last = "/bandits/closing/decisions/closing.3"
    wait(lambda: server.call("GET", last)["window_closed"] is not None)
    server.reward("closing.0", 0.7, "late", reward_id="d")
    server.reward("closing.0", 0.7, "duplicate", reward_id="d")
    server.reward("closing.0", 0.1, "duplicate", reward_id="a")
    server.reward("closing.0", 0.9, "ignored", reward_id="a")
    server.reward("closing.1", 0.7, "late", reward_id="a")
    server.activate("closing.2", "late")


def erase(server: Recorded) -> None:
    """Learn from two people, and erase one of them."""
    server.create("erased")
    for number in range(24):
        unit = "alice" if number % 3 == 0 else "bob"
        server.reward(server.select("erased", number, unit=unit), number * 5 % 9 / 8)
    done = server.call("POST", "/erase", {"unit": "alice"})
    assert done["decisions"] == 8, done
    server.selects = [one for one in server.selects if one["body"].get("unit") != "alice"]
    server.select("erased", 24, k=2, unit="bob")


def open_windows(server: Recorded) -> None:
    """Leave windows open, of decisions with and without rewards."""
    decision_id = server.select("closing", 10)
    server.reward(decision_id, 1000.0, reward_id="a")
    server.reward(decision_id, 1e-13, "aggregated", reward_id="b")
    server.reward(decision_id, -1000.0, "aggregated", reward_id="c")
    server.select("closing", 11)
    server.reward(server.select("closing", 12, activate=False), 0.5, "aggregated", reward_id="a")
    decision_id, actions = server.both("closing", 13)
    server.reward(decision_id, 0.5, action=actions[0], reward_id="a")


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def serving(root: Path, **env: str) -> Iterator[Recorded]:
    """Run a server on a directory."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data-dir", str(root)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, **env},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield Recorded(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        assert process.wait(60) == 0


def trim(root: Path) -> None:
    """Have a bandit whose log lost its oldest rows."""
    with serving(root) as server:
        server.create("trimmed")
        for first in range(0, 120, 20):
            server.learn("trimmed", first, 20)
            server.call("POST", "/bandits/trimmed/train?wait=true")
        server.learn("trimmed", 120, 10)
    with serving(root, BANDEXA_MAX_AGE_DAYS="1e-9") as server:
        counted = "bandexa_decisions_removed_total "
        removed = lambda: (  # noqa: E731
            line.split()[-1]
            for line in server.http.get("/metrics").text.splitlines()
            if line.startswith(counted)
        )
        wait(lambda: any(float(number) for number in removed()))


def main(dest: Path) -> None:
    """Make the directory `dest`, and `dest`.json beside it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        trim(root)
        with serving(root) as server:
            fill(server)
            report(server)
            erase(server)
            backup = [sys.executable, "-m", "service.cli", "backup", str(root), str(dest)]
            subprocess.run(backup, check=True)
            stored = len(server.selects)
            for name in LASTING:
                for number in range(1000, 1005):
                    server.select(name, number)
            states = {name: server.state(name) for name in LASTING}
    (dest / "backup.json").unlink()  # it names this machine's folders
    parts = {"stored": server.selects[:stored], "next": server.selects[stored:]}
    lines = [f'"bandits": {json.dumps(states)}']
    for part, selects in parts.items():
        listed = ",\n".join(map(json.dumps, selects))
        lines.append(f'"{part}": [\n{listed}\n]')
    dest.with_name(f"{dest.name}.json").write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
