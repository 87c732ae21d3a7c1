"""Proves that ten thousand bandits leave the server responsive, quiet and quick to start.

The bandits are made through the store (see `benchmarks.many`). The server runs on an event loop
that writes down each callback's CPU time (see `benchmarks.stalls`). It holds if no callback of a
scene takes longer than 50 ms: metrics, /learnz, /bandits and the overview, plain and compressed,
metrics while selects are answered, a bandit that is created with a large encoder or with a ResNet,
and an import of a large model. An idle server takes less than a fiftieth of a core, and its
retention (`max_age_days` is set, and nothing is old) commits nothing.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks import stalls
from benchmarks.many import DIM, make, name_of
from benchmarks.processes import cpu_s, resident_bytes
from benchmarks.report import Target, arguments, report
from benchmarks.server import Server

MOST_MS = 50.0
TARGETS = {
    "longest_stall_ms": Target(MOST_MS, unit="ms of CPU of one callback, over all scenes"),
    "start_s": Target(15.0, unit="s until it serves, on an idle machine"),
    "idle_cpu": Target(0.02, unit="of a core"),
    "idle_commits_per_minute": Target(75.0, unit="of which 60 check the reward windows"),
    "idle_writes_per_minute": Target(20.0, unit="commits that wrote something"),
}
_PATHS = ("/metrics", "/metrics?histograms=false", "/learnz", "/bandits", "/bandits?limit=10000",
          "/dashboard/overview", "/dashboard/overview?limit=1000")  # fmt: skip
_PLAIN, _GZIP = {"accept-encoding": "identity"}, {"accept-encoding": "gzip"}
_LARGE: dict[str, Any] = {  # its posterior and sums are about 45 MB
    "policy": "neural_linear_ts", "context": {"shape": [1024]}, "action_dim": 4, "seed": 1,
    "encoder": {"name": "mlp", "params": {"hidden": [1024, 1024], "feature_dim": 1400}},
    "training": {"mode": "lockstep"},
}  # fmt: skip
_RESNET: dict[str, Any] = {
    "policy": "neural_linear_ts", "context": {"shape": [28, 28], "dtype": "uint8"}, "seed": 1,
    "encoder": {"name": "resnet18"}, "training": {"mode": "lockstep"},
}  # fmt: skip


class _Scenes:
    """Runs scenes and notes the longest stall of each."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        self.longest_ms: dict[str, float] = {}
        self._path = path
        self._log = log

    @contextmanager
    def scene(self, name: str) -> Iterator[None]:
        """Run a scene."""
        begun = time.time()
        yield
        took = time.time() - begun
        time.sleep(0.1)  # what it left to be done
        found = stalls.read(self._path, begun)
        self.longest_ms[name] = 1000 * found[0].seconds if found else 0.0
        what = f" in {found[0].what}" if found else ""
        self._log(f"{name}: {took:.2f} s, longest callback {self.longest_ms[name]:.1f} ms{what}")


def _commits(http: httpx.Client) -> float:
    lines = http.get("/metrics?histograms=false").text.splitlines()
    return next(float(x.split()[1]) for x in lines if x.startswith("bandexa_commit_seconds_count"))


def _writes(database: Path, seconds: float) -> int:
    """Return how often the database changed, as another connection sees it."""
    with closing(sqlite3.connect(database)) as db:
        num, until = -1, time.monotonic() + seconds
        seen = None
        while time.monotonic() < until:
            (version,) = db.execute("PRAGMA data_version").fetchone()
            num, seen = num + (version != seen), version
            time.sleep(0.05)
    return num


def _idle(server: Server, http: httpx.Client, seconds: float) -> dict[str, float]:
    """Return what an idle server does."""
    commits, used, begun = _commits(http), cpu_s(server.pid), time.monotonic()
    writes = _writes(server.data_dir / "bandexa.db", seconds)
    minutes = (time.monotonic() - begun) / 60
    used = cpu_s(server.pid) - used
    return {
        "idle_cpu": used / (60 * minutes),
        "idle_commits_per_minute": (_commits(http) - commits - 1) / minutes,
        "idle_writes_per_minute": writes / minutes,
    }


@contextmanager
def _selecting(url: str, num: int) -> Iterator[list[float]]:
    """Select from one bandit after the other; yields the seconds that each takes."""
    ending, took = threading.Event(), list[float]()

    def select() -> None:
        with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as http:
            number = 0
            while not ending.is_set():
                begun = time.perf_counter()
                body = {"bandit": name_of(number % num), "context": [0.5] * DIM}
                http.post("/select", json=body).raise_for_status()
                took.append(time.perf_counter() - begun)
                number += 1

    thread = threading.Thread(target=select)
    thread.start()
    try:
        yield took
    finally:
        ending.set()
        thread.join()


def _read_scenes(scenes: _Scenes, http: httpx.Client, num: int) -> None:
    for path in _PATHS:
        for label, headers in (("", _PLAIN), (" in gzip", _GZIP)):
            with scenes.scene(f"{path}{label}"):
                answer = http.get(path, headers=headers)
                answer.raise_for_status()
    with scenes.scene("/metrics beside selects"), _selecting(str(http.base_url), num):
        for _ in range(3):
            http.get("/metrics", headers=_GZIP).raise_for_status()
    with scenes.scene("pages of /bandits"):
        seen, after = 0, None
        while seen == 0 or after is not None:
            page = http.get("/bandits", params={"after": after} if after else {}).json()
            seen, after = seen + len(page["bandits"]), page["next"]
    if seen != num:
        raise RuntimeError(f"the pages have {seen} of {num} bandits")


def _write_scenes(scenes: _Scenes, http: httpx.Client) -> float:
    """Create bandits with large encoders, and import a large model; returns its megabytes."""
    put = {"from": _LARGE, "to": _LARGE, "resnet": _RESNET}
    for name, spec in put.items():
        with scenes.scene(f"create {name}"):
            http.put(f"/bandits/large-{name}", json=spec).raise_for_status()
    with scenes.scene("export"):
        exported = http.get("/bandits/large-from/snapshot").raise_for_status().content
    with scenes.scene("import"):
        answer = http.put("/bandits/large-to/snapshot", content=exported)
        answer.raise_for_status()
    for name in put:
        with scenes.scene(f"delete {name}"):
            http.delete(f"/bandits/large-{name}").raise_for_status()
    return len(exported) / 1e6


def measure(
    folder: Path, num: int, idle_s: float, log: Callable[[str], None], *, large: bool = True
) -> dict[str, float]:
    """Return the figures.

    Args:
        folder: Where the data directory is made.
        num: How many bandits.
        idle_s: How long the idle server is watched.
        log: Receives lines about each scene.
        large: Whether large bandits are created and imported, too.
    """
    data_dir, path = folder / "data", folder / "stalls.jsonl"
    make(data_dir, num)
    scenes = _Scenes(path, log)
    environment = {
        stalls.STALLS_FILE: str(path), "BANDEXA_MAX_AGE_DAYS": "30", "BANDEXA_LOG_LEVEL": "warning",
    }  # fmt: skip
    with Server(data_dir, environment=environment, command=stalls.COMMAND) as server:
        results: dict[str, float] = {
            "bandits": num,
            "start_s": server.ready_s[0],
            "start_cpu_s": cpu_s(server.pid),
            "resident_mb": resident_bytes(server.pid) / 1e6,
            "files": sum(1 for each in data_dir.rglob("*") if each.is_file()),
        }
        with httpx.Client(base_url=server.address, timeout=120.0, trust_env=False) as http:
            with scenes.scene("first pass of the dashboard and of retention"):
                _counted(http)
            with scenes.scene("idle"):
                results |= _idle(server, http, idle_s)
            _read_scenes(scenes, http, num)
            if large:
                results["import_mb"] = _write_scenes(scenes, http)
        results["resident_after_mb"] = resident_bytes(server.pid) / 1e6
    stalled = {f"stall_ms {name}": longest for name, longest in scenes.longest_ms.items()}
    return results | {"longest_stall_ms": max(scenes.longest_ms.values())} | stalled


def _counted(http: httpx.Client) -> None:
    """Wait until the dashboard has looked at all bandits."""
    until = time.monotonic() + 60.0
    while http.get("/dashboard/overview?limit=1").json()["server"]["behind"]:
        if time.monotonic() > until:
            raise RuntimeError("the dashboard is still behind after a minute")
        time.sleep(0.2)


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every bound holds."""
    parser = arguments("many_bandits", __doc__)
    parser.add_argument("--bandits", type=int, default=10_000)
    parser.add_argument("--idle-s", type=float, default=70.0, help="two passes of retention")
    parser.add_argument("--small", action="store_true", help="no large bandits")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bandexa-many-") as name:
        results = measure(
            Path(name), given.bandits, given.idle_s, lambda text: print(text, flush=True),
            large=not given.small,
        )  # fmt: skip
    return report("many_bandits", results, given.json, targets=TARGETS)
