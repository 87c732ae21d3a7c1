"""Compares the CPU time of this checkout with that of another one, in interleaved pairs.

Both sides run at once: of each checkout a server with durability `os` and one with `commit`, with
the same trained bandits (an `mlp` and a linear one of 50 actions, panels of 64), and a process for
the arithmetic of the core. Turns follow each other as A B B A. A turn sends a counted number of
requests and reads the CPU time (user and system, all threads, the writer's and the dashboard's
included) that the server has used by the time it is idle again. Clients have one CPU core, servers
the others. From the pairs of each measure follow the mean ratio of the costs, this checkout over
the other, and its 95 % interval; the upper end must be at most 1.05. A fresh start of all
processes after every quarter of the pairs averages over memory layouts.

The other checkout may be older than this one: it must have `python -m service.cli serve`, the HTTP
interface, and `bandexa_core.posterior`.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.closed_loop import Plan, rate
from benchmarks.intervals import Ratio, ratio_of_pairs
from benchmarks.processes import TICK_S, cpu_s
from benchmarks.report import arguments, compared, machine, write
from benchmarks.server import ROOT, Server, code_of
from benchmarks.workload import BATCH, contexts, linear_spec, mlp_spec, prepare

MOST = 1.05
_BANDITS = {"mlp": mlp_spec(), "linear": linear_spec()}
_STEPS = {
    "core_d32": 20_000, "core_d64": 15_000, "core_d256": 2_000, "core_d785": 250,
    "core_rebuild": 12,
}  # fmt: skip
_STARTS = 4
_PAIRS, _QUICK_PAIRS, _QUICK_SHARE = 20, 4, 0.25
_IDLE_S, _IDLE_WITHIN_S = 0.2, 10.0


@dataclass(frozen=True)
class _Load:
    """What one turn of a measure sends: to which server, and how many decisions or pairs."""

    durability: str
    plan: Plan
    count: int


@dataclass
class _Side:
    """The processes of one checkout."""

    root: Path
    servers: dict[str, Server]
    core: subprocess.Popen[str]

    def turn_us(self, load: _Load) -> float:
        """Return the CPU time of a server per decision or pair, in microseconds."""
        server = self.servers[load.durability]
        before = cpu_s(server.pid)
        rate(replace(load.plan, url=server.address))
        return 1e6 * (settled_cpu_s(server.pid) - before) / load.count

    def core_us(self, measure: str, steps: int) -> float:
        """Return the CPU time of one step of the core, in microseconds."""
        assert self.core.stdin is not None
        assert self.core.stdout is not None
        self.core.stdin.write(json.dumps({"measure": measure, "steps": steps}) + "\n")
        self.core.stdin.flush()
        return 1e6 * float(json.loads(self.core.stdout.readline())) / steps


def settled_cpu_s(pid: int) -> float:
    """Return the CPU time of a process once it is idle: what requests left behind is done."""
    deadline = time.monotonic() + _IDLE_WITHIN_S
    used = cpu_s(pid)
    while time.monotonic() < deadline:
        time.sleep(_IDLE_S)
        before, used = used, cpu_s(pid)
        if used - before <= TICK_S:
            break
    return used


def _cores() -> tuple[list[int], list[int]]:
    """Return the cores of the clients and those of the servers."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-1:], cores[:-1] or cores


def _loads(share: float) -> dict[str, _Load]:
    """Return what a turn of each measure over HTTP sends."""
    drawn = contexts(4 * BATCH, np.random.default_rng(1))
    clients, _ = _cores()
    loads = {}
    for name in _BANDITS:
        bodies = [{"bandit": name, "context": context} for context in drawn]
        batches = [{"items": bodies[first : first + BATCH]} for first in range(0, 400, BATCH)]
        selects, pairs, calls = (max(40, int(share * num)) for num in (3000, 2000, 60))
        single = Plan(
            "", "/select", [json.dumps(body) for body in bodies], requests=selects, cores=clients
        )
        loads[f"select_os_{name}"] = _Load("os", single, selects)
        rewarded = replace(single, requests=2 * pairs, rewards=True)
        loads[f"pairs_commit_{name}"] = _Load("commit", rewarded, pairs)
        batch = Plan(
            "", "/select/batch", [json.dumps(body) for body in batches], clients=4,
            requests=calls, cores=clients,
        )  # fmt: skip
        loads[f"batch_os_{name}"] = _Load("os", batch, calls * BATCH)
    return loads


@contextmanager
def _side(root: Path, folder: Path) -> Iterator[_Side]:
    """Run the processes of a checkout, with data directories in a folder."""
    _, cores = _cores()
    with ExitStack() as stack:
        servers = {}
        for durability in ("os", "commit"):
            server = Server(folder / durability, durability, checkout=root, cores=cores)
            servers[durability] = stack.enter_context(server)
            for name, spec in _BANDITS.items():
                prepare(server.address, name, spec)
        worker = [sys.executable, "-P", str(Path(__file__).with_name("core_turns.py"))]
        core = stack.enter_context(
            subprocess.Popen(
                worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
                env=code_of(root),
            )
        )  # fmt: skip
        stack.callback(core.kill)
        assert core.stdout is not None
        imported = json.loads(core.stdout.readline())
        if Path(imported).resolve() != root:
            raise RuntimeError(f"the core of {root} was to be measured, not that of {imported}")
        os.sched_setaffinity(core.pid, cores)
        yield _Side(root, servers, core)


def _pairs(
    sides: tuple[_Side, _Side], loads: dict[str, _Load], share: float, numbers: range
) -> Iterator[tuple[str, float, float]]:
    """Yield measure, cost here and cost there of each pair; first, every turn warms up once."""
    for number in (None, *numbers):
        for measure in (*loads, *_STEPS):
            costs = [0.0, 0.0]
            for place in (0, 1) if number is None or number % 2 == 0 else (1, 0):
                if measure in loads:
                    costs[place] = sides[place].turn_us(loads[measure])
                else:
                    steps = max(2, int(share * _STEPS[measure]))
                    costs[place] = sides[place].core_us(measure, steps)
            if number is not None:
                yield measure, costs[0], costs[1]


def measure(
    other: Path, pairs: int, share: float, starts: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Return the costs of each measure, here and there, pair by pair, in microseconds.

    Args:
        other: The root of the other checkout.
        pairs: How many pairs of turns each measure gets.
        share: The length of a turn, in usual turns.
        starts: How often all processes are started afresh.

    Raises:
        ServerFailed, LoadFailed, BanditError, SubprocessError: It could not be measured.
    """
    loads = _loads(share)
    costs: dict[str, tuple[list[float], list[float]]] = {
        name: ([], []) for name in (*loads, *_STEPS)
    }
    bounds = [pairs * start // starts for start in range(starts + 1)]
    for first, end in itertools.pairwise(bounds):
        with (
            tempfile.TemporaryDirectory(prefix="bandexa-compare-") as folder,
            ExitStack() as stack,
        ):
            sides = []
            for name, root in (("here", ROOT), ("there", other)):
                (Path(folder) / name).mkdir()
                sides.append(stack.enter_context(_side(root, Path(folder) / name)))
            found = _pairs((sides[0], sides[1]), loads, share, range(first, end))
            for name, here, there in found:
                costs[name][0].append(here)
                costs[name][1].append(there)
        print(f"{end} of {pairs} pairs", flush=True)
    return costs


def _show(costs: dict[str, tuple[list[float], list[float]]], ratios: dict[str, Ratio]) -> None:
    print(f"\n{'CPU time, us':<22}{'here':>10}{'there':>10}{'ratio':>8}   95 % interval")
    for name, (here, there) in costs.items():
        ratio = ratios[name]
        verdict = "holds" if ratio.high <= MOST else f"above {MOST}"
        means = f"{np.mean(here):>10.1f}{np.mean(there):>10.1f}"
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
        print(f"{name:<22}{means}{ratio.mean:>8.3f}   {interval}  {verdict}")


def main(argv: Sequence[str]) -> int:
    """Compare; returns 0 when the upper end of every interval is at most 1.05."""
    given, other, pairs = compared(
        arguments("compare", __doc__), argv, "pairs", _PAIRS, _QUICK_PAIRS
    )
    print(machine())
    share, starts = (_QUICK_SHARE, 2) if given.quick else (1.0, min(_STARTS, pairs))
    costs = measure(other, pairs, share, starts)
    ratios = {name: ratio_of_pairs(here, there) for name, (here, there) in costs.items()}
    _show(costs, ratios)
    results: dict[str, float] = {"pairs": pairs}
    for name, (here, there) in costs.items():
        results |= {f"{name}_{end}": value for end, value in ratios[name]._asdict().items()}
        results |= {f"{name}_here_us": float(np.mean(here))}
        results |= {f"{name}_there_us": float(np.mean(there))}
    write("compare", results, given.json)
    return 0 if all(ratio.high <= MOST for ratio in ratios.values()) else 1
