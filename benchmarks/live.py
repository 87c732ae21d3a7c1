"""Proves swaps under load: many clients select and reward while the trainer swaps models in.

Starts a server of its own on a temporary directory (durability "os"), has every client select and
reward as fast as it is answered until enough models were swapped in, ends the server and audits its
store: no request failed, each acknowledged reward has exactly one learn row with its value, the log
has no gap. Bounded in time and in rewards; the exit status is 1 when a claim does not hold.

Runs client threads in this process; nothing is kept but the JSON file asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bandexa_client import NO_RETRY, BanditClient, BanditError, ServiceUnavailable

_BANDIT = "live"
_DIM, _NUM_ACTIONS = 16, 50
_START_S, _STOP_S, _POLL_S = 60.0, 30.0, 0.1
_MOST_FAILURES = 10  # of one client, which then gives up


@dataclass(frozen=True)
class _Plan:
    clients: int
    swaps: int
    train_every: int
    max_rewards: int
    max_seconds: float


@dataclass
class _Tally:
    """What one client was answered; times in seconds."""

    rewards: dict[str, float] = field(default_factory=dict)
    select_s: list[float] = field(default_factory=list)
    reward_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass
class _Load:
    """All clients at the end: their tallies, how long they ran, and the models swapped in."""

    tallies: list[_Tally]
    wall_s: float
    swaps: int

    @property
    def failures(self) -> list[str]:
        return [failure for tally in self.tallies for failure in tally.failures]


class _NotStarted(Exception):
    """The server did not start; the message is the end of its log."""


@contextmanager
def _server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a server on `folder`/data; yields its address and process, and ends it."""
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--durability", "os"]
    log_path = folder / "server.log"
    with log_path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, "--data-dir", str(folder / "data")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    assert process.stdout is not None
    stdout = process.stdout
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
    try:
        try:
            url = str(json.loads(lines.get(timeout=_START_S))["url"])
        except (queue.Empty, ValueError) as error:
            raise _NotStarted(log_path.read_text(errors="replace")[-2000:]) from error
        yield url, process
    finally:
        _end(process)
        stdout.close()


def _end(process: subprocess.Popen[str]) -> int:
    """End the server as an operator would; returns its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def _prepare(client: BanditClient, plan: _Plan) -> None:
    client.put_bandit(
        _BANDIT,
        {
            "policy": "neural_linear_ts",
            "context": {"shape": [_DIM]},
            "action_dim": _DIM,
            "encoder": {"name": "mlp"},
            "training": {"train_every": plan.train_every},
            "replay": {"backend": "disk"},
            "reward_range": [-1.0, 1.0],
            "seed": 0,
        },
    )
    features = np.random.default_rng(0).standard_normal((_NUM_ACTIONS, _DIM)).round(4)
    client.put_actions(_BANDIT, [f"a{n}" for n in range(_NUM_ACTIONS)], features.tolist())


def _client(url: str, number: int, plan: _Plan, stop: threading.Event, tally: _Tally) -> None:
    """Select and reward until told to stop."""
    rng = np.random.default_rng([1, number])
    with BanditClient(url, retry=NO_RETRY, trust_env=False) as client:
        for count in range(plan.max_rewards // plan.clients):
            if stop.is_set() or len(tally.failures) >= _MOST_FAILURES:
                return
            context = rng.standard_normal(_DIM).round(4)
            decision_id = f"{number}.{count}"
            try:
                started = time.perf_counter()
                chosen = client.select(_BANDIT, context.tolist(), decision_id=decision_id)
                selected = time.perf_counter()
                reward = round(float(np.tanh(context[chosen.action.index % _DIM])), 4)
                answer = client.reward(decision_id, reward)
                rewarded = time.perf_counter()
            except BanditError as error:
                tally.failures.append(str(error))
                continue
            if answer.status != "applied":
                tally.failures.append(f"reward of {decision_id}: {answer.status}")
            tally.rewards[decision_id] = reward
            tally.select_s.append(selected - started)
            tally.reward_s.append(rewarded - selected)


def _drive(url: str, plan: _Plan) -> _Load:
    """Run all clients until enough swaps were made, or a bound is met."""
    stop = threading.Event()
    tallies = [_Tally() for _ in range(plan.clients)]
    threads = [
        threading.Thread(target=_client, args=(url, number, plan, stop, tally))
        for number, tally in enumerate(tallies)
    ]
    with BanditClient(url, retry=NO_RETRY, trust_env=False) as observer:
        _prepare(observer, plan)
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        swaps = 0
        try:
            while swaps < plan.swaps and any(thread.is_alive() for thread in threads):
                if time.perf_counter() - started > plan.max_seconds:
                    break
                time.sleep(_POLL_S)
                swaps = observer.get_bandit(_BANDIT).snapshot
                if sys.stdout.isatty():
                    num = sum(len(tally.rewards) for tally in tallies)
                    print(f"\r{num} rewards, {swaps} of {plan.swaps} swaps", end="", flush=True)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        wall_s = time.perf_counter() - started
        if sys.stdout.isatty():
            print()
        swaps = observer.get_bandit(_BANDIT).snapshot
    return _Load(tallies, wall_s, swaps)


def _audit(database: Path, load: _Load) -> dict[str, int]:
    """Compare the store with what was acknowledged; every count but `learn_rows` should be 0."""
    with closing(sqlite3.connect(database)) as store:
        rows = store.execute("SELECT decision_id, after FROM log WHERE kind = 1").fetchall()
        positions = [p for (p,) in store.execute("SELECT position FROM log ORDER BY position")]
        (decisions,) = store.execute("SELECT count(*) FROM decisions").fetchone()
    acknowledged = {name: value for tally in load.tallies for name, value in tally.rewards.items()}
    learned = Counter(name for name, _ in rows)
    values = dict(rows)
    return {
        "learn_rows": len(rows),
        "rewards_not_learned": sum(name not in learned for name in acknowledged),
        "rewards_learned_twice": sum(count > 1 for count in learned.values()),
        "learned_without_reward": sum(name not in acknowledged for name in learned),
        "wrong_values": sum(
            values[name] != value for name, value in acknowledged.items() if name in values
        ),
        "gaps_in_positions": sum(p != n for n, p in enumerate(positions, start=1)),
        "decisions_lost": max(0, len(acknowledged) - int(decisions)),
    }


def _verdict(plan: _Plan, load: _Load, audit: dict[str, int], status: int) -> list[str]:
    """Return what does not hold, in words."""
    failures = load.failures
    wrong = [f"{name}: {count}" for name, count in audit.items() if name != "learn_rows" and count]
    if failures:
        wrong.append(f"{len(failures)} requests failed, the first: {failures[0]}")
    if load.swaps < plan.swaps:
        wrong.append(f"{load.swaps} swaps within the bounds, {plan.swaps} were asked for")
    if status != 0:
        wrong.append(f"the server ended with status {status}")
    return wrong


def _figures(load: _Load, audit: dict[str, int]) -> dict[str, float]:
    num = sum(len(tally.rewards) for tally in load.tallies)
    results: dict[str, float] = {
        "clients": len(load.tallies),
        "rewards": num,
        "failed_requests": len(load.failures),
        "swaps": load.swaps,
        "wall_s": round(load.wall_s, 2),
        "requests_per_s": round(2 * num / load.wall_s, 1),
        **audit,
    }
    for kind in ("select", "reward"):
        times = [s for tally in load.tallies for s in getattr(tally, f"{kind}_s")]
        for share in (50, 99):
            value = np.percentile(times, share) * 1e3 if times else float("nan")
            results[f"{kind}_p{share}_ms"] = round(float(value), 2)
        results[f"{kind}_max_ms"] = round(max(times, default=float("nan")) * 1e3, 2)
    return results


def _parse(argv: Sequence[str] | None) -> tuple[_Plan, Path | None]:
    parser = argparse.ArgumentParser(prog="benchmarks.live", description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=16, help="concurrent client threads")
    parser.add_argument("--swaps", type=int, default=20, help="models to be swapped in")
    parser.add_argument("--train-every", type=int, default=200, help="rewards between two rounds")
    parser.add_argument("--max-rewards", type=int, default=200_000, help="give up after so many")
    parser.add_argument("--max-seconds", type=float, default=300.0, help="or after so long")
    parser.add_argument("--json", type=Path, help="file the figures are written to")
    given = parser.parse_args(argv)
    for name in ("clients", "swaps", "train_every"):
        if getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    plan = _Plan(
        given.clients, given.swaps, given.train_every, given.max_rewards, given.max_seconds
    )
    return plan, given.json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the proof and return the exit status: 0 when every claim holds.

    Args:
        argv: command line arguments; those of the process when None.
    """
    plan, json_path = _parse(argv)
    with tempfile.TemporaryDirectory(prefix="bandexa-live-") as name:
        folder = Path(name)
        try:
            with _server(folder) as (url, process):
                load = _drive(url, plan)
                status = _end(process)
        except (_NotStarted, ServiceUnavailable) as error:
            print(f"benchmarks.live: the server is not there: {error}", file=sys.stderr)
            return 2
        audit = _audit(folder / "data" / "bandexa.db", load)
    results = _figures(load, audit)
    for measure, value in results.items():
        print(f"{measure:>24} {value:>12g}")
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        report = {"name": "live", "machine": machine, "results": results}
        json_path.write_text(json.dumps(report, indent=2) + "\n")
    wrong = _verdict(plan, load, audit, status)
    for finding in wrong:
        print(f"FAILED: {finding}")
    if not wrong:
        print("HOLDS: no request failed, and every reward has exactly one learn row")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
