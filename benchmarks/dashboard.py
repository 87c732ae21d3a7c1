"""Measures what the dashboard costs: a million decisions in the store, the page open, and selects.

Decisions go through the store itself, spread over two weeks; the server then aggregates them. A
headless Chromium (Debian: chromium) loads the page. Decisions are explained one after the other by
a server that has not loaded their snapshot before. Selects come at fixed times, in turns with and
without the requests of two open pages. A run takes about eight minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from msgspec.structs import replace
from playwright.sync_api import sync_playwright

from bandexa_core.ids import DecisionId
from benchmarks.open_loop import Load, drive
from benchmarks.report import Target, arguments, report
from benchmarks.server import Server
from service.store.records import DecisionRecord
from service.store.sqlite.history import History
from service.store.sqlite.store import SqliteStore

TARGETS = {
    "overview_s": Target(1.0, unit="s until the overview is shown"),
    "overview_call_s": Target(None, unit="s of its call, median"),
    "explained_s": Target(2.0, unit="s until a decision is explained, the slowest"),
    "p99_with_page_over_without": Target(1.1, unit="median of interleaved pairs"),
}
NAME, ACTIONS, DIM = "shop", 50, 16
LEARNED = 9_000  # rows after the snapshot, a multiple of 500: close to the most a server applies
DAYS = 14
POLLED_S = 2.0
_GROUP = 20_000


@contextmanager
def served(data_dir: Path) -> Iterator[httpx.Client]:
    """Run a server on a data directory; yields a client of it."""
    with (
        Server(data_dir) as server,
        httpx.Client(base_url=server.address, timeout=120.0, trust_env=False, verify=False) as http,
    ):
        yield http


def call(http: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    """Send JSON and return the JSON answer."""
    answer = http.request(method, path, json=body)
    answer.raise_for_status()
    return answer.json()


def prepare(http: httpx.Client, learned: int) -> None:
    """Create the bandit; it learns the rows that explanations apply again."""
    rng = np.random.default_rng(0)
    call(http, "PUT", f"/bandits/{NAME}", {
        "policy": "neural_linear_ts", "context": {"shape": [DIM]}, "action_dim": DIM, "seed": 1,
        "encoder": {"name": "mlp"}, "training": {"mode": "lockstep"},
    })  # fmt: skip
    features = rng.standard_normal((ACTIONS, DIM)).tolist()
    ids = [f"a{number}" for number in range(ACTIONS)]
    call(http, "PUT", f"/bandits/{NAME}/actions", {"ids": ids, "features": features})
    for first in range(0, learned, 500):
        names = [f"learned-{number}" for number in range(first, first + 500)]
        contexts = rng.standard_normal((len(names), DIM)).tolist()
        selects = [
            {"bandit": NAME, "context": context, "decision_id": name}
            for name, context in zip(names, contexts, strict=True)
        ]
        call(http, "POST", "/select/batch", {"items": selects})
        rewards = [{"decision_id": name, "reward": float(rng.random())} for name in names]
        call(http, "POST", "/reward/batch", {"items": rewards})


def fill(database: Path, num: int, learned: int) -> None:
    """Put decisions like the last learned ones into the store, spread over two weeks."""
    with _Filled(database) as store:
        (bandit,) = store.bandits
        with History(database) as history:
            found = history.decision(bandit, DecisionId(f"learned-{learned - 1}"))
        assert found is not None
        begin, step = time.time() - DAYS * 86400, DAYS * 86400 / num
        for first in range(0, num, _GROUP):
            for number in range(first, min(num, first + _GROUP)):
                store.put(
                    replace(
                        found.record,
                        decision_id=DecisionId(f"old-{number}"),
                        time=begin + number * step,
                    )
                )
            store.wait()


class _Filled:
    """A store whose answers arrive in this process."""

    def __init__(self, database: Path) -> None:
        self._store = SqliteStore(database, "os", lambda call: call())
        with self._store.reader() as reader:
            self.bandits = reader.bandits()

    def __enter__(self) -> _Filled:
        return self

    def __exit__(self, *exc: object) -> None:
        self._store.close()

    def put(self, record: DecisionRecord) -> None:
        """Queue a decision, with a new key."""
        key = self._store.ids.new_key(record.bandit)
        self._store.append_decision(replace(record, key=key), _stored)

    def wait(self) -> None:
        """Return once everything queued is committed."""
        done = threading.Event()
        self._store.sync(lambda _, error: done.set())
        done.wait()


def _stored(answer: Any, error: Exception | None) -> None:
    if error is not None or answer is not None:
        raise RuntimeError(f"a decision was not stored: {error or 'its id exists'}")


def counted(http: httpx.Client, num: int) -> float:
    """Wait until the dashboard has aggregated everything; returns the seconds it took."""
    begun = time.perf_counter()
    while True:
        found = call(http, "GET", "/dashboard/overview")
        if found["bandits"][0]["decisions"] >= num and not found["server"]["behind"]:
            return time.perf_counter() - begun
        time.sleep(1.0)


def load_page(url: str, times: int) -> list[float]:
    """Return how long a fresh browser page takes to show the overview."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        raise SystemExit("install Chromium (Debian: chromium), or name it in CHROMIUM")
    took = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(times):
            context = browser.new_context()  # with an empty cache
            page = context.new_page()
            begun = time.perf_counter()
            page.goto(url)
            page.wait_for_selector(f"article[data-bandit='{NAME}'] dd")
            took.append(time.perf_counter() - begun)
            context.close()
        browser.close()
    return took


def explain(http: httpx.Client, learned: int) -> list[float]:
    """Return the seconds of each explanation: of early, late and old decisions."""
    names = [f"learned-{learned - 1 - number}" for number in range(4)] + ["learned-5", "old-77"]
    took = []
    for name in names:
        begun = time.perf_counter()
        found = call(http, "GET", f"/bandits/{NAME}/decisions/{name}")
        took.append(time.perf_counter() - begun)
        if found["explained"] != "yes":
            raise RuntimeError(f"{name}: {found['reason']}")
    return took


def p99(url: str, seconds: float, rate: float) -> float:
    """Return the 99th percentile of selects at fixed times, in milliseconds."""
    rng = np.random.default_rng(7)
    bodies = [
        json.dumps({"bandit": NAME, "context": rng.standard_normal(DIM).round(4).tolist()})
        for _ in range(256)
    ]
    done = drive(Load(url, "/select", bodies, seconds, rate, warmup_s=1.0))
    if done.failed:
        raise RuntimeError(f"selects failed: {done.failures[:3]}")
    return float(np.percentile(done.latencies_ms, 99))


@contextmanager
def pages_open(url: str) -> Iterator[None]:
    """Send the requests of two open pages: the overview, and a bandit over a day."""
    ending = threading.Event()
    pages = (
        ["/dashboard/overview"],
        [f"/dashboard/bandits/{NAME}?range=1d", f"/dashboard/bandits/{NAME}/decisions?limit=25"],
    )

    def follow(paths: list[str]) -> None:
        with httpx.Client(base_url=url, timeout=60.0, trust_env=False, verify=False) as http:
            while not ending.wait(POLLED_S):
                for path in paths:
                    call(http, "GET", path)

    threads = [threading.Thread(target=follow, args=(page,)) for page in pages]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def measure(
    folder: Path,
    num: int,
    pairs: int,
    seconds: float,
    rate: float,
    log: Callable[[str], None],
    learned: int = LEARNED,
) -> dict[str, float]:
    """Return the figures."""
    with served(folder / "data") as http:
        prepare(http, learned)
    begun = time.perf_counter()
    fill(folder / "data" / "bandexa.db", num, learned)
    log(f"{num:,} decisions put into the store in {time.perf_counter() - begun:.0f} s")
    with served(folder / "data") as http:
        log(f"counted in {counted(http, num + learned):.0f} s")
        explained = explain(http, learned)
        log(f"explained: {', '.join(f'{took:.2f}' for took in explained)} s")
        url = str(http.base_url)
        loaded = load_page(url, 5)
        log(f"overview shown: {', '.join(f'{took:.2f}' for took in loaded)} s")
        calls = []
        for _ in range(20):
            begun = time.perf_counter()
            call(http, "GET", "/dashboard/overview")
            calls.append(time.perf_counter() - begun)
        ratios = []
        for _ in range(pairs):
            without = p99(url, seconds, rate)
            with pages_open(url):
                beside = p99(url, seconds, rate)
            ratios.append(beside / without)
            log(f"p99 {without:.2f} ms, with the page {beside:.2f} ms: {ratios[-1]:.2f}")
    return {
        "decisions": num,
        "overview_s": statistics.median(loaded),
        "overview_call_s": statistics.median(calls),
        "explained_s": max(explained),
        "p99_with_page_over_without": statistics.median(ratios),
        "pairs": len(ratios),
    }


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("dashboard", __doc__)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one window")
    parser.add_argument("--rate", type=float, default=150.0, help="selects per second")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bandexa-dashboard-") as folder:
        results = measure(
            Path(folder), given.decisions, given.pairs, given.seconds, given.rate,
            lambda text: print(text, flush=True),
        )  # fmt: skip
    return report("dashboard", results, given.json, targets=TARGETS)
