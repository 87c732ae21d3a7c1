"""The scenes that every client plays, and what must hold after each: see `scenes.json`.

A scene is `name`, `says`, and as far as it needs them:

    client     options of the client: `timeout_s`, `attempts`, `first_wait_s`, `max_wait_s`
    at         "nobody": an address where nothing listens; "prefix": the server is below a path
    faults     what a proxy between client and server does, see `faulty`
    victim     true: the server is killed in it
    queue      true: it needs the reward queue
    bandit     keys of its bandit beside those of `SPEC`; null: it makes its own
    steps      the calls, in order
    after      what must hold then

A step names a `call` of the public surface and its arguments `with`. It `gives` an answer that has
these fields with these values, or `fails` with an error of that `kind` and these fields. `as` keeps
the answer for later steps, `times` repeats the step. In arguments, "$bandit" is the name of the
scene's bandit, "$nan" no number, "$NAME.FIELD" a part of what was kept, and "#i" in a name the
number of the repetition: a repeated step keeps each answer as NAME0, NAME1 and so on.

A driver plays the steps with a client: it gets the scene as JSON, with `url` and `bandit`, and
returns one outcome for each step played: `{"gave": ...}` or `{"failed": {"kind": ..., ...}}`.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.conformance.faulty import FaultyProxy, faulty
from tests.fixtures.servers import Server
from tests.fixtures.waiting import poll

Scene = dict[str, Any]
Outcome = dict[str, Any]
SCENES: list[Scene] = json.loads(Path(__file__).with_name("scenes.json").read_text())["scenes"]
SPEC: dict[str, Any] = {
    "policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"}, "seed": 1,
    "rewards": {"aggregate": "sum"},
}  # fmt: skip
PREFIX = "/behind/a/proxy"
_NUMBERS = itertools.count()


class Stage:
    """Servers, bandits and proxies for scenes.

    Args:
        calm: A server that is never killed.
        victim: Returns one that is.
    """

    def __init__(self, calm: Server, victim: Callable[[], Server]) -> None:
        self._calm = calm
        self._victim = victim

    @contextmanager
    def set(self, scene: Scene, by: str) -> Iterator[tuple[Scene, FaultyProxy, Server]]:
        """Yield the scene as a driver gets it, its proxy and its server.

        Args:
            scene: The scene.
            by: Who plays it; part of names.
        """
        server = self._victim() if scene.get("victim") else self._calm
        bandit = f"{by}-{scene['name']}-{next(_NUMBERS)}"
        if scene.get("bandit", {}) is not None:
            spec = SPEC | scene.get("bandit", {})
            server.http.put(f"/bandits/{bandit}", json=spec).raise_for_status()
            actions = {"actions": [{"id": "red"}, {"id": "blue"}]}
            server.http.put(f"/bandits/{bandit}/actions", json=actions).raise_for_status()
        at = scene.get("at")
        scene = json.loads(json.dumps(scene).replace("$bandit", bandit))
        prefix = PREFIX if at == "prefix" else ""
        with faulty(server, scene.get("faults", ()), prefix) as (url, proxy):
            url = nobody() if at == "nobody" else url
            yield scene | {"url": url, "bandit": bandit}, proxy, server

    @contextmanager
    def set_all(
        self, scenes: Sequence[Scene], by: str
    ) -> Iterator[list[tuple[Scene, FaultyProxy, Server]]]:
        """Set several scenes at once."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.set(scene, by)) for scene in scenes]


def nobody() -> str:
    """Return an address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def check(scene: Scene, outcomes: Sequence[Outcome], proxy: FaultyProxy, server: Server) -> None:
    """Check what a driver reports, what the proxy saw, and what the server stores."""
    steps = [step for step in scene["steps"] for _ in range(step.get("times", 1))]
    assert len(outcomes) == len(steps)
    for number, (step, outcome) in enumerate(zip(steps, outcomes, strict=True)):
        where = f"{scene['name']}, step {number} ({step['call']}): {outcome}"
        if "fails" in step:
            assert "failed" in outcome, where
            assert within(step["fails"], outcome["failed"]), where
        else:
            assert "gave" in outcome, where
            assert "gives" not in step or within(step["gives"], outcome["gave"]), where
    _check_after(scene, proxy, server)


def _check_after(scene: Scene, proxy: FaultyProxy, server: Server) -> None:
    after, name = scene.get("after", {}), scene["name"]
    assert proxy.faults == [], f"{name}: these have not happened"
    for path, num in after.get("requests", {}).items():
        assert len(proxy.requests(path)) == num, f"{name}: requests to {path}"
    for path in after.get("repeated", ()):
        bodies = {json.dumps(json.loads(one.content)) for one in proxy.requests(path)}
        assert len(bodies) == 1, f"{name}: what is sent again to {path} is what was sent"
    for path, fields in after.get("unsent", {}).items():
        for one in proxy.requests(path):
            assert not set(fields) & set(json.loads(one.content)), f"{name}: sent to {path}"
    for path, seconds in after.get("pauses", {}).items():
        first, second = proxy.requests(path)[:2]
        assert second.at - first.at >= seconds, f"{name}: the pause before {path} again"
    stored = ("decisions", "values", "outcomes")
    if not any(key in after for key in stored):
        return
    rows = decisions(server, scene["bandit"])
    if "decisions" in after:
        wanted = after["decisions"]
        if len(rows) < wanted:  # a client that gave up may be ahead of the server
            found = partial(decisions, server, scene["bandit"])
            poll(lambda: len(found()) >= wanted, f"{name}: decisions")
            rows = found()
        assert len(rows) == wanted, f"{name}: decisions"
    if "values" in after:
        values = [each for row in rows for each in values_of(row)]
        assert sorted(values) == sorted(after["values"]), f"{name}: learned values"
    if "outcomes" in after:
        assert sum(len(row["rewards"]) for row in rows) == after["outcomes"], f"{name}: outcomes"


def decisions(server: Server, bandit: str) -> list[dict[str, Any]]:
    """Return the decisions that a server stores, with what came of them."""
    response = server.http.get(f"/bandits/{bandit}/log?limit=1000")
    assert response.status_code == 200, response.text
    rows = [json.loads(line) for line in response.text.splitlines()]
    return [row for row in rows if row["kind"] == "decision"]


def values_of(row: dict[str, Any]) -> list[float]:
    """Return the values of a decision's chosen actions that have one."""
    chosen = row.get("actions") or [row]
    return [one["value"] for one in chosen if one.get("value") is not None]


def within(wanted: Any, found: Any) -> bool:
    """Return whether a JSON value has all that is wanted; "$any" is anything but null."""
    if wanted == "$any":
        return found is not None
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            key in found and within(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(map(within, wanted, found))
        )
    return bool(wanted == found)
