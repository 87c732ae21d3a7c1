"""Makes the small data directory that a release leaves behind for the upgrade tests of later ones.

    python -m tests.recovery.save_directory tests/recovery/data/VERSION

Run it on the code of the release. It starts `bandexa serve` on an empty directory, sends what is
written below, takes a backup, which becomes the directory, and sends some more selects. The answers
go to VERSION.json, with which `test_saved_directories` compares those of later servers: to selects
that are stored in the directory, and to the next ones.

The directory has a linear bandit with every kind of log row (learned values, corrections, a late
activation, changes of catalogue and configuration, an import), a forgetting one without features of
actions, and a small mlp with two training rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np

CONTEXT_DIM, ACTION_DIM = 3, 2
ACTIONS = ("red", "green", "blue")
COMMON = {"context": {"shape": [CONTEXT_DIM]}, "seed": 5}
SPECS: dict[str, dict[str, Any]] = {
    "linear": COMMON | {
        "policy": "linear_ts", "action_dim": ACTION_DIM, "encoder": {"name": "concat"},
        "training": {"mode": "lockstep"}, "rewards": {"aggregate": "last"},
    },
    "forgetting": COMMON | {
        "policy": "linear_ts", "action_dim": 0, "encoder": {"name": "per_action"},
        "training": {"mode": "lockstep"}, "forgetting": {"half_life": 32},
        "rewards": {"aggregate": "sum", "reward_window_s": 86400.0},
    },
    "mlp": COMMON | {
        "policy": "neural_linear_ts", "action_dim": ACTION_DIM,
        "encoder": {"name": "mlp", "params": {"feature_dim": 4, "hidden": [6]}},
        "training": {"mode": "lockstep", "optimizer_steps": 20},
    },
}  # fmt: skip


class Recorded:
    """A client of the server, and the answers it received."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self.selects: list[dict[str, Any]] = []

    def call(self, method: str, path: str, body: Any = None) -> Any:
        response = self._http.request(method, path, json=body)
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

    def reward(self, decision_id: str, reward: float, status: str = "applied", **more: Any) -> None:
        report = {"decision_id": decision_id, "reward": reward} | more
        assert self.call("POST", "/reward", report)["status"] == status

    def learn(self, name: str, first: int, num: int) -> None:
        named = SPECS[name].get("rewards", {}).get("aggregate") == "sum"
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
    """Send everything."""
    for name in SPECS:
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
    exported = server._http.get("/bandits/linear/snapshot").content
    assert server._http.put("/bandits/linear/snapshot", content=exported).is_success
    server.call("PUT", "/bandits/linear", SPECS["linear"] | {"selection": {"epsilon": 0.01}})
    server.catalogue("linear", "green", "white")
    server.call("DELETE", "/bandits/linear/actions/red")
    server.learn("linear", 13, 3)
    server.select("linear", 16, candidates=["blue", "white"])

    server.reward("forgetting.2", 0.5, "aggregated", reward_id="second")
    server.learn("forgetting", 12, 60)


def main(dest: Path) -> None:
    """Make the directory `dest`, and `dest`.json beside it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data-dir", str(root)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            server = Recorded(json.loads(process.stdout.readline())["url"])
            fill(server)
            backup = [sys.executable, "-m", "service.cli", "backup", str(root), str(dest)]
            subprocess.run(backup, check=True)
            stored = len(server.selects)
            for name in SPECS:
                for number in range(1000, 1005):
                    server.select(name, number)
            states = {name: server.state(name) for name in SPECS}
        finally:
            process.terminate()
            assert process.wait(60) == 0
    (dest / "backup.json").unlink()  # it names this machine's folders
    parts = {"stored": server.selects[:stored], "next": server.selects[stored:]}
    lines = [f'"bandits": {json.dumps(states)}']
    for part, selects in parts.items():
        listed = ",\n".join(map(json.dumps, selects))
        lines.append(f'"{part}": [\n{listed}\n]')
    dest.with_name(f"{dest.name}.json").write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
