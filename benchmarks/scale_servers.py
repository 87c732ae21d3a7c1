"""What the benchmark of scale asks of servers: a select over HTTP, an idle follower, a start."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

import numpy as np

from bandexa_client import BanditClient
from benchmarks.processes import children, cpu_s
from benchmarks.server import Server
from benchmarks.workload import contexts, create, learn, linear_spec

THREADS = 8


def select_cpu_us(folder: Path, url: str, turns: int, selects: int) -> dict[str, float]:
    """Return the CPU time of a select over HTTP, of a server on a file and of one on a database.

    That is the server's process; a file is written in it, a database has its own.
    """
    sides = {
        "file": Server(folder / "file", "commit"),
        "database": Server(folder / "database", "commit", environment={"BANDEXA_STORE": url}),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    with sides["file"] as file, sides["database"] as database:
        for server in (file, database):
            with BanditClient(server.address, trust_env=False, timeout_s=60.0) as client:
                create(client, "shop", linear_spec())
        for turn in range(turns + 1):
            for name, server in sides.items():
                before = cpu_s(server.pid)
                _select(server.address, selects)
                if turn:
                    found[name].append(1e6 * (cpu_s(server.pid) - before) / selects)
    return {name: statistics.median(values) for name, values in found.items()}


def _select(url: str, num: int) -> None:
    def run(seed: int) -> None:
        with BanditClient(url, trust_env=False, timeout_s=60.0) as client:
            for context in contexts(num // THREADS, np.random.default_rng(seed)):
                client.select("shop", context)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def shared(url: str) -> dict[str, str]:
    """Return the settings of a server that shares a database."""
    return {
        "BANDEXA_STORE": url, "BANDEXA_SERVERS": "8", "BANDEXA_SNAPSHOT_STORE": "postgresql",
    }  # fmt: skip


def followers(
    folder: Path, empty: str, full: str, rows: int, turns: int, idle_s: float
) -> dict[str, float]:
    """Return the share of a core that an idle follower takes, and what starts of followers take.

    Args:
        folder: Where data directories are made.
        empty: A database whose log stays empty.
        full: A database whose log has `rows` rows behind its snapshot.
        rows: See above.
        turns: How often a follower is started at each.
        idle_s: How long an idle one is watched.
    """
    starts: dict[str, list[float]] = {"import": [], "tail": []}
    idle = 0.0
    keepers = {"import": (empty, 0), "tail": (full, rows)}
    with (
        Server(folder / "keeper-import", environment=shared(empty)) as first,
        Server(folder / "keeper-tail", environment=shared(full)) as second,
    ):
        for server, (_, num) in zip((first, second), keepers.values(), strict=True):
            with BanditClient(server.address, trust_env=False, timeout_s=120.0) as client:
                create(client, "shop", linear_spec())
                learn(client, "shop", num, np.random.default_rng(1))
        for turn in range(turns + 1):
            for name, (url, _) in keepers.items():
                data_dir = folder / f"follower-{name}-{turn}"
                with Server(data_dir, environment=shared(url)) as follower:
                    if turn:
                        starts[name].append(follower.ready_s[-1])
                    if name == "tail" and turn == turns:
                        (child,) = children(follower.pid)
                        time.sleep(2.0)
                        before, began = cpu_s(child), time.perf_counter()
                        time.sleep(idle_s)
                        idle = (cpu_s(child) - before) / (time.perf_counter() - began)
    return {"idle": idle} | {name: statistics.median(each) for name, each in starts.items()}
