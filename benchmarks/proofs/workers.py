"""Proves that a server of several workers loses nothing when its processes are killed.

Clients select, reward, repeat, correct and report late, over connections that any worker may have,
while workers, the keeper, the trainer and the process that started them are killed with SIGKILL, or
stopped for a while. At the end every acknowledged event must be in the store exactly once, with the
value of the reward contract, `bandexa verify` must pass, and all workers must be at one position
with equal scores to the last bit. Then a server of one process, and those of one and two workers,
serve selects in turns: requests per second, and CPU time per select of all processes together.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.closed_loop import Plan, rate
from benchmarks.processes import children, cpu_s
from benchmarks.proofs.audit import under_load
from benchmarks.proofs.fault_clients import BANDITS, DIM, trainer_of
from benchmarks.report import arguments, report
from benchmarks.server import Server, temporary_server

_KINDS = ("worker", "keeper", "worker", "keeper", "trainer", "worker", "stopped", "all")
_BACK_WITHIN_S = 90.0
_STOPPED_S = 2.0
_WARM_S = 1.0
CONNECTIONS = 32


def processes(server: Server) -> dict[str, int]:
    """Return the processes of a server by their names: keeper, worker-1, ..."""
    found = {}
    for pid in children(server.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[Path(f"/proc/{pid}/comm").read_text().strip().removeprefix("bx-")] = pid
    return found


def within(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of a condition.

    Raises:
        TimeoutError: There was none in time.
    """
    deadline = time.monotonic() + _BACK_WITHIN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError, KeyError, TypeError, ValueError):
            if value := condition():
                return value
        time.sleep(0.05)
    raise TimeoutError(f"not within {_BACK_WITHIN_S:g} s: {what}")


def at_each_worker(server: Server, num: int, ask: Callable[[httpx.Client], Any]) -> list[Any]:
    """Return what each worker answers."""
    found: dict[int, Any] = {}

    def another() -> bool:
        with httpx.Client(base_url=server.address, trust_env=False, timeout=20.0) as client:
            answer = client.get("/readyz")
            if answer.status_code == 200:
                found[answer.json()["worker"]] = ask(client)
        return len(found) == num

    within(another, "an answer of each worker")
    return [found[number] for number in sorted(found)]


def equal_everywhere(server: Server, num: int, bandit: str) -> bool:
    """Whether all workers are at one position of a bandit, with equal scores to the last bit."""
    body = {"context": [0.5] * DIM}

    def scores(client: httpx.Client) -> str:
        answer = client.post(f"/bandits/{bandit}/score", json=body)
        answer.raise_for_status()
        return answer.text

    return len(set(at_each_worker(server, num, scores))) == 1


def play(server: Server, num: int, kills: int, counts: Counter[str], wrong: list[str]) -> None:
    """Kill processes, and wait each time until everything serves again."""
    rng = np.random.default_rng(7)
    for number in range(kills):
        time.sleep(float(rng.uniform(0.2, 2.0)))
        kind = _KINDS[number % len(_KINDS)]
        running = processes(server)
        one = f"worker-{1 + int(rng.integers(num))}"
        if kind == "all":
            before = list(running.values())
            server.kill()
            within(partial(_ended, before), "the end of all processes")
            server.spawn()
            server.wait_ready()
        elif kind == "stopped":
            os.kill(running[one], signal.SIGSTOP)
            time.sleep(_STOPPED_S)
            os.kill(running[one], signal.SIGCONT)
        elif kind == "trainer":
            pid = within(lambda: trainer_of(server.address)["pid"], "a trainer")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        else:
            os.kill(running["keeper" if kind == "keeper" else one], signal.SIGKILL)
        counts[f"{'stops' if kind == 'stopped' else 'kills'}_of_{kind}"] += 1
        within(lambda: len(processes(server)) == num + 1, "all processes")
        at_each_worker(server, num, lambda client: client.get("/bandits").raise_for_status())
        if sys.stdout.isatty():
            print(f"\r{number + 1} of {kills} kills", end="", flush=True)
    if sys.stdout.isatty():
        print()


def compare_at_rest(server: Server, num: int, wrong: list[str]) -> None:
    """Compare the workers, once nothing is reported any more."""
    for bandit in BANDITS:
        try:
            within(partial(equal_everywhere, server, num, bandit), "equal scores")
        except TimeoutError:
            wrong.append(f"the workers have other scores of {bandit!r}")


def _ended(pids: Sequence[int]) -> bool:
    return not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def measured(seconds: float, turns: int, most: int) -> dict[str, float]:
    """Return selects per second, and CPU time per select, of one process and of workers."""
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    spec = {"policy": "linear_ts", "context": {"shape": [DIM]}, "encoder": {"name": "per_action"}}
    body = '{"bandit": "b", "context": [0.1, 0.2, 0.3, 0.4]}'
    with contextlib.ExitStack() as stack:
        servers = {}
        for workers in (1, *([2] if most >= 2 else []), *([most] if most > 2 else [])):
            name = "one_process" if workers == 1 else f"workers_{workers}"
            environment = {"BANDEXA_WORKERS": str(workers)}
            server = stack.enter_context(temporary_server(environment=environment))
            with httpx.Client(base_url=server.address, trust_env=False, timeout=60.0) as client:
                client.put("/bandits/b", json=spec).raise_for_status()
                ids = [f"a{number}" for number in range(10)]
                client.put("/bandits/b/actions", json={"ids": ids}).raise_for_status()
            servers[name] = server
            rate(Plan(server.address, "/select", [body], _WARM_S, CONNECTIONS))
        for _ in range(turns):
            for name, server in servers.items():
                plan = Plan(server.address, "/select", [body], seconds, CONNECTIONS)
                everyone = [server.pid, *children(server.pid)]
                before = sum(map(cpu_s, everyone))
                per_s = rate(plan)
                spent = sum(map(cpu_s, everyone)) - before
                rates.setdefault(name, []).append(per_s)
                costs.setdefault(name, []).append(1e6 * spent / (per_s * seconds))
    results = {}
    for name, found in rates.items():
        results[f"{name}_selects_per_s"] = round(float(np.median(found)), 1)
        results[f"{name}_cpu_us_per_select"] = round(float(np.median(costs[name])), 1)
        if name != "one_process":
            ratios = np.divide(found, rates["one_process"])
            results[f"{name}_over_one_process"] = round(float(np.median(ratios)), 3)
    return results


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("workers", __doc__)
    parser.add_argument("--workers", type=int, default=3, help="workers of the server")
    parser.add_argument("--kills", type=int, default=100, help="how often something is killed")
    parser.add_argument("--clients", type=int, default=16, help="concurrent client threads")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn of selects")
    parser.add_argument("--turns", type=int, default=5, help="of selects; 0 measures nothing")
    given = parser.parse_args(argv)
    if given.workers < 2:
        parser.error("--workers must be at least 2")
    counts, wrong = Counter[str](), list[str]()
    results: dict[str, float] = {"kills": given.kills, "workers": given.workers}
    if given.kills:
        with tempfile.TemporaryDirectory(prefix="bandexa-workers-") as name:
            found = under_load(
                Path(name), given.clients,
                lambda server: play(server, given.workers, given.kills, counts, wrong),
                workers=given.workers,
                at_rest=lambda server: compare_at_rest(server, given.workers, wrong),
            )  # fmt: skip
        ledgers, differences, broken = found
        wrong += broken
        results |= {
            "selects": sum(len(ledger.selects) for ledger in ledgers),
            "rewards": sum(len(ledger.rewards) for ledger in ledgers),
            **dict(sorted(counts.items())),
            **differences,
        }
    if given.turns:
        results |= measured(given.seconds, given.turns, min(given.workers, os.cpu_count() or 1))
    claim = "everything acknowledged is in the store once, and all workers have equal models"
    return report("workers", results, given.json, wrong=wrong, claim=claim)
