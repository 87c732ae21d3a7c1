"""Proves that a wall clock that jumps neither deletes, nor closes, nor forgets anything early.

A server runs under libfaketime, which sets its wall clock alone. One bandit has decisions that an
age limit of 30 days removes, one has reward windows, one forgets by time. The clock jumps 60 days
ahead for 35 s, in which retention makes a pass, then back, then five hours back for a while. Last,
it jumps 60 days ahead between two servers. It holds if nothing is removed meanwhile, every window
closes within its time, the model that forgets stays as it was, the offset is reported, requests are
answered throughout, and `bandexa clock accept` lets retention go on over all, also over what was
decided while the clock was ahead.
"""

from __future__ import annotations

import glob
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.report import arguments, report
from benchmarks.server import Server, code_of

LIBRARY = "/usr/lib/*/faketime/libfaketime.so.1"
DAY_S, HOUR_S = 86_400, 3600
AHEAD_S = 60 * DAY_S
PASS_S = 35.0  # a pass of retention falls into it
WINDOW_S = 25.0
LATE_S = 8.0  # a window may close this much after its time: the clocks are read once a second
DECISIONS = 3000
LINEAR = {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 0, "seed": 1}
LOCKSTEP = LINEAR | {"training": {"mode": "lockstep"}}
BANDITS = {
    "aged": LOCKSTEP,
    "windowed": LOCKSTEP | {"rewards": {"reward_window_s": WINDOW_S, "default_reward": 0.5}},
    "forgetful": LOCKSTEP | {"forgetting": {"by": "time", "half_life": 10 * DAY_S}},
}


def library() -> str | None:
    """Return the path of libfaketime, None where it is not installed."""
    return next(iter(glob.glob(LIBRARY)), None)


class _Scene:
    """A server whose wall clock can be set, and what has been found wrong."""

    def __init__(self, folder: Path, preload: str) -> None:
        self._file = folder / "wall-clock"
        self.set(0)
        environment = {
            "LD_PRELOAD": preload, "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "BANDEXA_MAX_AGE_DAYS": "30",
        }  # fmt: skip
        self.server = Server(folder / "data", environment=environment)
        self.wrong: list[str] = []
        self.results: dict[str, float] = {}
        self.num_calls = 0

    def set(self, seconds: int) -> None:
        """Set the wall clock ahead by so many seconds."""
        self._file.write_text(f"{seconds:+d}\n")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request; an answer other than success is wrong."""
        assert self.server.url is not None
        answer = httpx.request(method, self.server.url + path, json=body, timeout=60)
        self.num_calls += 1
        if answer.status_code >= 300 and path != "/learnz":
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.json() if path != "/metrics" else answer.text

    def claim(self, holds: bool, claim: str) -> None:
        """Note a claim that does not hold."""
        if not holds:
            self.wrong.append(claim)

    def decide(self, bandit: str, name: str, num: int) -> None:
        """Make decisions under the names `<name>-<number>`."""
        for first in range(0, num, 1000):
            numbers = range(first, min(num, first + 1000))
            items = [
                {"bandit": bandit, "context": [1.0, n % 7 / 7], "decision_id": f"{name}-{n}"}
                for n in numbers
            ]
            self.call("POST", "/select/batch", {"items": items})

    def reward(self, name: str, num: int) -> None:
        """Reward the decisions of a name."""
        items = [{"decision_id": f"{name}-{n}", "reward": n % 2} for n in range(num)]
        self.call("POST", "/reward/batch", {"items": items})

    def windowed(self, name: str, meanwhile: Callable[[], None]) -> None:
        """Make a decision with a window, do something, and check when the window closes."""
        self.decide("windowed", name, 1)
        began = time.monotonic()
        meanwhile()
        path, closed = f"/bandits/windowed/decisions/{name}-0", False
        while not closed and time.monotonic() - began < WINDOW_S + 3 * LATE_S:
            time.sleep(0.5)
            closed = bool(self.call("GET", path)["chosen"][0]["learned"])
        took = time.monotonic() - began
        self.results[f"window_{name}_s"] = round(took, 1)
        self.claim(
            closed and WINDOW_S - 1.0 <= took <= WINDOW_S + LATE_S,
            f"the window of {name} was closed after {took:.1f} s in place of {WINDOW_S:.0f} s",
        )

    def stored(self) -> int:
        """Return how many of the aged decisions are stored."""
        return sum(self._num(name) for name in ("before", "ahead", "after"))

    def _num(self, name: str) -> int:
        num = DECISIONS if name == "before" else 1
        probes = [0, num // 2, num - 1]
        assert self.server.url is not None
        found = [
            httpx.get(f"{self.server.url}/bandits/aged/decisions/{name}-{n}").status_code == 200
            for n in probes
        ]
        return sum(found)

    def removed(self) -> float:
        """Return how many decisions retention has removed since the start."""
        return self.metric("bandexa_decisions_removed_total")

    def metric(self, name: str) -> float:
        """Return a metric without labels."""
        lines = self.call("GET", "/metrics").splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])

    def offset_is(self, seconds: float, finding: str | None) -> None:
        """Check the reported offset, within a second, and the finding about it."""
        until = time.monotonic() + 5.0
        while abs(self.metric("bandexa_clock_offset_seconds") - seconds) > 2.0:
            if time.monotonic() > until:
                self.wrong.append(f"the metric of the offset is not {seconds:.0f} s")
                break
            time.sleep(0.2)
        names = [found["name"] for found in self.call("GET", "/learnz")["findings"]]
        clock = [name for name in names if name.startswith("clock-")]
        self.claim(clock == ([finding] if finding else []), f"/learnz finds {clock} of the clock")
        shown = json.loads(self.command("show", "--json"))
        self.claim(abs(shown["offset_s"] - seconds) < 2.0, f"`bandexa clock show` says {shown}")

    def command(self, *arguments: str) -> str:
        """Run `bandexa clock` on the server and return its output."""
        assert self.server.url is not None
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", "clock", *arguments, "--url", self.server.url],
            env=code_of(Path(__file__).parents[2]), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        self.claim(done.returncode == 0, f"bandexa clock {arguments}: {done.stderr}")
        return done.stdout

    def spread(self) -> float:
        """Return the standard deviation of a score of the model that forgets."""
        body = {"context": [1.0, 0.5]}
        scores = self.call("POST", "/bandits/forgetful/score", body)["scores"]
        return float(scores[0]["std"])


def examine(folder: Path, preload: str) -> tuple[dict[str, float], list[str]]:
    """Run the scene; returns figures, and what does not hold."""
    scene = _Scene(folder, preload)
    with scene.server:
        for name, spec in BANDITS.items():
            scene.call("PUT", f"/bandits/{name}", spec)
            scene.call("PUT", f"/bandits/{name}/actions", {"ids": ["a", "b"]})
        scene.decide("aged", "before", DECISIONS)
        scene.decide("forgetful", "f", 200)
        scene.reward("f", 200)
        spread = scene.spread()
        scene.windowed("ahead-w", lambda: _ahead(scene))
        _behind(scene, spread)
    scene.set(AHEAD_S)  # between two servers
    scene.server.spawn()
    scene.server.wait_ready()
    try:
        _accepted(scene)
    finally:
        scene.server.stop()
    scene.results["requests"] = scene.num_calls
    return scene.results, scene.wrong


def _ahead(scene: _Scene) -> None:
    """Jump ahead by 60 days; a window is open meanwhile."""
    scene.set(AHEAD_S)
    scene.decide("aged", "ahead", 1)
    scene.decide("forgetful", "g", 1)
    scene.reward("g", 1)
    scene.offset_is(AHEAD_S, "clock-ahead")


def _behind(scene: _Scene, spread: float) -> None:
    """Wait for a pass of retention, jump back to the right time, and behind it."""
    time.sleep(max(0.0, PASS_S - WINDOW_S))
    scene.results["removed_while_ahead"] = scene.removed()
    scene.set(0)
    scene.offset_is(0.0, None)
    scene.decide("aged", "after", 1)
    scene.windowed("behind-w", lambda: scene.set(-5 * HOUR_S))
    scene.offset_is(-5 * HOUR_S, "clock-behind")
    scene.decide("forgetful", "h", 1)
    scene.reward("h", 1)
    scene.results["spread_over_before"] = round(scene.spread() / spread, 4)
    scene.claim(0.97 < scene.spread() / spread < 1.001, "the model that forgets has forgotten")
    scene.set(0)
    scene.offset_is(0.0, None)
    scene.claim(scene.removed() == 0, "decisions were removed early")
    scene.claim(scene.stored() == 9, "decisions are gone")


def _accepted(scene: _Scene) -> None:
    """Be ahead by 60 days since the start, and accept it."""
    scene.offset_is(AHEAD_S, "clock-ahead")
    time.sleep(PASS_S)
    scene.claim(scene.removed() == 0, "a jump between two servers removed decisions")
    scene.decide("aged", "accepted", 1)
    scene.command("accept")
    scene.offset_is(0.0, None)
    scene.decide("aged", "newest", 1)
    until = time.monotonic() + 2 * PASS_S
    while scene.stored() and time.monotonic() < until:
        time.sleep(1.0)
    scene.results["removed_after_accept"] = scene.removed()
    scene.claim(scene.stored() == 0, "retention did not go on once the clock was accepted")
    scene.call("GET", "/bandits/aged/decisions/newest-0")


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    given = arguments("clocks", __doc__).parse_args(argv)
    preload = library()
    if preload is None:
        print("the proof needs libfaketime: apt-get install faketime", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="bandexa-clocks-") as name:
        results, wrong = examine(Path(name), preload)
    claim = "a clock that jumps removes, closes and forgets nothing early, and is reported"
    return report("clocks", results, given.json, wrong=wrong, claim=claim)
