"""Measures what training costs the other bandits of a server: the tail latency of their selects.

A small bandit receives selects at fixed times, at half of the server's capacity. Meanwhile another
bandit, a ResNet or a small network, is trained round after round and receives a few requests a
second ("train"); or the trainer is idle, and a process that computes the same takes its place
beside the same requests ("burner"); or nothing else runs ("idle"). A machine with few cores slows
everything beside such work; the burner shows the share that no server could avoid. Windows of all
conditions follow each other in turns. For each turn the ratio of the p99 is taken, and the median
of the turns must be below the bound.

The server has durability `os`, and its trainer uses the CPU, as the burner does. With `--device
cuda` it uses the GPU, and the burner says little. The load comes from the process of `open_loop`,
everything else from threads of this one.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bandexa_client import (
    NO_RETRY,
    Array,
    BanditClient,
    BanditError,
    Rejected,
    RewardReport,
    SelectRequest,
    TrainerState,
    array_body,
)
from benchmarks.burner import BurnerFailed, burner
from benchmarks.closed_loop import LoadFailed, rate
from benchmarks.closed_loop import Plan as ClosedPlan
from benchmarks.open_loop import Load, Loop, Outcome, drive
from benchmarks.processes import cpu_s
from benchmarks.report import Target, arguments, report
from benchmarks.server import ServerFailed, temporary_server
from service.settings import load_settings
from simulators.environments.mnist import shipped_digits

CONDITIONS = ("train", "burner", "idle")
TARGETS = {"p99_over_burner": Target(1.5, unit="p99 while training over p99 beside a burner")}
_SMALL, _TRAINED = "small", "trained"
_DIM, _NUM_ACTIONS, _NUM_BODIES = 16, 50, 64
_IDLE_S, _POLL_S = 120.0, 0.01
_LEAST_BUSY = 0.5  # the share of the burner's CPU time that the trainer must have used
_MLP: dict[str, Any] = {
    "policy": "neural_linear_ts",
    "context": {"shape": [_DIM]},
    "action_dim": _DIM,
    "encoder": {"name": "mlp", "params": {"feature_dim": 32}},
    "training": {"mode": "lockstep"},
    "reward_range": [-1.0, 1.0],
    "seed": 0,
}
_RESNET: dict[str, Any] = {
    "policy": "neural_linear_ts",
    "context": {"shape": [28, 28], "dtype": "uint8"},
    "action_dim": 0,
    "encoder": {"name": "resnet18", "params": {"weights": "none"}},
    "training": {"mode": "lockstep"},
    "seed": 0,
}


@dataclass(frozen=True)
class Plan:
    """What to measure; the options of the command line."""

    trains: str
    pairs: int
    seconds: float
    warmup_s: float
    share: float
    rate: float | None
    rows: int
    optimizer_steps: int
    requests_per_s: float
    device: str


@dataclass
class Window:
    """The figures of one window; `beside_s` is the CPU time of the trainer or the burner."""

    condition: str
    selects: int
    failed: int
    late: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    wall_s: float
    beside_s: float
    trainer_s: float
    rounds: int
    sent: int
    failures: list[str]


class _Problem:
    """Contexts and rewards of the trained bandit, by number."""

    def __init__(self, trains: str) -> None:
        self._digits = shipped_digits() if trains == "resnet" else None
        self._contexts = np.random.default_rng(2).standard_normal((1000, _DIM)).astype(np.float32)

    def context(self, number: int) -> Array:
        given: np.ndarray[Any, Any] = (
            self._contexts[number % 1000] if self._digits is None else self._digits.images[number]
        )
        return array_body(str(given.dtype), given.shape, given.tobytes())

    def reward(self, number: int, action: int) -> float:
        if self._digits is not None:
            return float(action == self._digits.labels[number])
        return round(float(np.tanh(self._contexts[number % 1000, action % _DIM])), 4)


class _Rig:
    """The server with both bandits, and what a window does to them."""

    def __init__(self, url: str, client: BanditClient, plan: Plan) -> None:
        self.url, self.client, self.plan = url, client, plan
        self.problem = _Problem(plan.trains)
        self.settings = load_settings(None)  # from the environment, as the server's
        self.spec: Mapping[str, object] = {}
        self._sent = plan.rows
        rng = np.random.default_rng(1)
        self._bodies = [
            json.dumps({"bandit": _SMALL, "context": rng.standard_normal(_DIM).round(4).tolist()})
            for _ in range(_NUM_BODIES)
        ]

    def prepare(self) -> None:
        """Create both bandits; they learn rows and serve a trained model."""
        small = _Problem("mlp")
        self._create(_SMALL, _MLP)
        self._learn(_SMALL, small, 200)
        trained = _RESNET if self.plan.trains == "resnet" else _MLP
        steps = {"optimizer_steps": self.plan.optimizer_steps}
        self._create(_TRAINED, trained | {"training": trained["training"] | steps})
        self._learn(_TRAINED, self.problem, self.plan.rows)
        for name in (_SMALL, _TRAINED):
            self.client.train(name)
        self.spec = self.client.get_bandit(_TRAINED).spec

    def _create(self, name: str, spec: dict[str, Any]) -> None:
        self.client.put_bandit(name, spec)
        if not spec["action_dim"]:
            self.client.put_actions(name, [str(label) for label in range(10)])
            return
        features = np.random.default_rng(0).standard_normal((_NUM_ACTIONS, _DIM)).round(4)
        self.client.put_actions(name, [f"a{n}" for n in range(_NUM_ACTIONS)], features.tolist())

    def _learn(self, name: str, problem: _Problem, rows: int) -> None:
        for first in range(0, rows, 100):
            numbers = range(first, min(first + 100, rows))
            requests = [SelectRequest(name, problem.context(number)) for number in numbers]
            reports = []
            for number, chosen in zip(numbers, self.client.select_batch(requests), strict=True):
                if isinstance(chosen, Rejected):
                    raise chosen
                reward = problem.reward(number, chosen.action.index)
                reports.append(RewardReport(chosen.decision_id, reward))
            for answer in self.client.reward_batch(reports):
                if isinstance(answer, Rejected):
                    raise answer

    def capacity(self) -> float:
        """Return how many selects per second the small bandit answers to four connections."""
        return rate(ClosedPlan(self.url, "/select", self._bodies, seconds=2.0, clients=4))

    def trainer(self) -> TrainerState:
        """Return the trainer's state."""
        return self.client.get_bandit(_TRAINED).trainer

    def wait_for(self, state: str) -> int:
        """Wait until the trainer is in a state; returns its process id."""
        deadline = time.monotonic() + _IDLE_S
        while (trainer := self.trainer()).state != state:
            if time.monotonic() > deadline:
                raise ServerFailed(f"the trainer is not {state} but {trainer.state}")
            time.sleep(_POLL_S)
        assert trainer.pid is not None
        return trainer.pid

    def window(self, condition: str, rate: float) -> Window:
        """Measure the small bandit's selects under a condition."""
        load = Load(
            self.url, "/select", self._bodies, seconds=self.plan.warmup_s + self.plan.seconds,
            rate=rate, warmup_s=self.plan.warmup_s,
        )  # fmt: skip
        trainer_pid = self.wait_for("idle")
        rounds = self.trainer().rounds
        with ExitStack() as beside:
            loops: list[Loop] = []
            beside_pid = trainer_pid
            if condition == "burner":
                beside_pid = beside.enter_context(self._burner())
            if condition == "train":
                loops.append(beside.enter_context(Loop(self.url, _train, 0.0)))
                self.wait_for("training")
            if condition != "idle":
                pause_s = 1.0 / self.plan.requests_per_s
                loops.append(beside.enter_context(Loop(self.url, self._request, pause_s)))
            started, before = time.perf_counter(), (cpu_s(beside_pid), cpu_s(trainer_pid))
            outcome = drive(load)
            wall_s = time.perf_counter() - started
            used = (cpu_s(beside_pid) - before[0], cpu_s(trainer_pid) - before[1])
            in_time = self.trainer().rounds - rounds
        sent = loops[-1].count if loops else 0
        self._sent += sent
        failures = [*outcome.failures, *(text for loop in loops for text in loop.failures)]
        return _window(condition, outcome, failures, (wall_s, *used), in_time, sent)

    def _burner(self) -> AbstractContextManager[int]:
        """Return a burner that is as much of a load as the trainer."""
        settings = self.settings
        return burner(
            self.spec, self.plan.rows, settings.trainer_threads, settings.trainer_niceness
        )

    def _request(self, client: BanditClient, number: int) -> None:
        chosen = client.select(_TRAINED, self.problem.context(self._sent + number))
        reward = self.problem.reward(self._sent + number, chosen.action.index)
        client.reward(chosen.decision_id, reward)


def _train(client: BanditClient, number: int) -> None:
    client.train(_TRAINED)


def _window(
    condition: str,
    outcome: Outcome,
    failures: list[str],
    times: tuple[float, float, float],
    rounds: int,
    sent: int,
) -> Window:
    found = outcome.latencies_ms or [float("nan")]
    p50, p99, p999 = (round(float(np.percentile(found, share)), 4) for share in (50, 99, 99.9))
    wall_s, beside_s, trainer_s = (round(seconds, 3) for seconds in times)
    return Window(
        condition, len(outcome.latencies_ms), outcome.failed, outcome.late, p50, p99, p999,
        max(found), wall_s, beside_s, trainer_s, rounds, sent, failures,
    )  # fmt: skip


def measure(plan: Plan, show: Callable[[Window], None]) -> tuple[dict[str, float], list[Window]]:
    """Run all windows on a private server; returns the rates and the windows in order.

    Raises:
        ServerFailed, BanditError, BurnerFailed, SubprocessError: It could not be measured.
    """
    with (
        temporary_server(device=plan.device) as server,
        BanditClient(server.address, retry=NO_RETRY, trust_env=False, timeout_s=120.0) as client,
    ):
        rig = _Rig(server.address, client, plan)
        rig.prepare()
        capacity = rig.capacity()
        per_s = plan.rate if plan.rate is not None else plan.share * capacity
        windows = []
        for turn in range(plan.pairs):
            for condition in CONDITIONS if turn % 2 == 0 else reversed(CONDITIONS):
                windows.append(rig.window(condition, per_s))
                show(windows[-1])
    return {"capacity_per_s": round(capacity, 1), "rate_per_s": round(per_s, 1)}, windows


def ratios(windows: Sequence[Window], above: str, below: str) -> list[float]:
    """Return p99 under one condition over p99 under another, for each turn."""
    p99 = {name: [w.p99_ms for w in windows if w.condition == name] for name in (above, below)}
    return [round(a / b, 3) for a, b in zip(p99[above], p99[below], strict=True)]


def doubts(windows: Sequence[Window]) -> list[str]:
    """Return what makes the comparison worthless, in words."""
    wrong = [f"{window.condition}: {text}" for window in windows for text in window.failures[:1]]
    busy = {name: [w for w in windows if w.condition == name] for name in CONDITIONS}
    trained, burnt = (sum(w.beside_s for w in busy[name]) for name in ("train", "burner"))
    if trained < _LEAST_BUSY * burnt:
        wrong.append(f"the trainer had {trained:.1f} s of CPU, the burner {burnt:.1f} s")
    if any(w.rounds or w.trainer_s > 0.05 * w.wall_s for w in (*busy["burner"], *busy["idle"])):
        wrong.append("the trainer was not idle beside the burner or alone")
    return wrong


def _figures(plan: Plan, rates: dict[str, float], windows: Sequence[Window]) -> dict[str, Any]:
    results: dict[str, Any] = {**asdict(plan), **rates}
    for name in CONDITIONS:
        those = [window for window in windows if window.condition == name]
        for figure in ("p50_ms", "p99_ms", "p999_ms"):
            results[f"{name}_{figure}"] = statistics.median(getattr(w, figure) for w in those)
    for below in ("burner", "idle"):
        found = ratios(windows, "train", below)
        results[f"p99_over_{below}"] = statistics.median(found)
        results[f"p99_over_{below}_of_pairs"] = found
    results["selects"] = sum(window.selects for window in windows)
    results["failed"] = sum(window.failed for window in windows)
    results["windows"] = [asdict(window) for window in windows]
    return results


def _parse(argv: Sequence[str]) -> tuple[Plan, Path | None]:
    parser = arguments("interference", __doc__)
    parser.add_argument("--trains", choices=("resnet", "mlp"), default="resnet")
    parser.add_argument("--pairs", type=int, default=5, help="turns through all conditions")
    parser.add_argument("--seconds", type=float, default=8.0, help="of one window")
    parser.add_argument("--warmup-s", type=float, default=1.0, help="before each, not counted")
    parser.add_argument("--share", type=float, default=0.5, help="of the capacity that is used")
    parser.add_argument("--rate", type=float, help="selects per second in place of that share")
    parser.add_argument("--rows", type=int, help="that are trained on")
    parser.add_argument("--optimizer-steps", type=int, help="of a round")
    parser.add_argument("--requests-per-s", type=float, default=5.0, help="of the trained bandit")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what trains")
    given = vars(parser.parse_args(argv))
    json_path = given.pop("json")
    resnet = given["trains"] == "resnet"
    given["rows"] = given["rows"] or (300 if resnet else 2000)
    given["optimizer_steps"] = given["optimizer_steps"] or (20 if resnet else 1000)
    for name, value in given.items():
        if isinstance(value, int | float) and not 0 < value <= 100_000:
            parser.error(f"--{name.replace('_', '-')} must be above 0 and at most 100,000")
    return Plan(**given), json_path


def _show(window: Window) -> None:
    print(
        f"{window.condition:>8}: p50 {window.p50_ms:8.2f}  p99 {window.p99_ms:8.2f}  "
        f"p99.9 {window.p999_ms:8.2f}  max {window.max_ms:8.2f} ms, {window.selects} selects, "
        f"{window.failed} failed, {window.late} late; beside: {window.beside_s:.1f} of "
        f"{window.wall_s:.1f} s, {window.rounds} rounds, {window.sent} requests",
        flush=True,
    )


def main(argv: Sequence[str]) -> int:
    """Measure; 0 when the bound holds, 1 when it does not, 2 when nothing could be measured."""
    plan, json_path = _parse(argv)
    try:
        rates, windows = measure(plan, _show)
    except (
        ServerFailed, LoadFailed, BanditError, BurnerFailed, subprocess.SubprocessError, ValueError,
    ) as error:  # fmt: skip
        print(f"benchmarks interference: {error}", file=sys.stderr)
        return 2
    return report(
        "interference", _figures(plan, rates, windows), json_path, targets=TARGETS,
        wrong=doubts(windows), claim="the trainer and the burner worked when they had to",
    )  # fmt: skip
