"""A server that writes down which callbacks keep its event loop from everything else.

`python -m benchmarks.stalls serve ...` is `bandexa serve` on asyncio's own loop, each callback of
which is timed by the CPU time of the loop's thread: other processes and threads do not count. A
callback that takes longer than `REPORTED_S` is a line of JSON in the file named by `STALLS_FILE`,
and says how much of it was garbage collection.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
from asyncio import events
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

STALLS_FILE = "BENCHMARK_STALLS_FILE"
REPORTED_S = 0.005
COMMAND = ("-m", "benchmarks.stalls", "serve")


class Stall(NamedTuple):
    """One long callback.

    Attributes:
        ended: When it ended, in seconds since the epoch.
        seconds: Its CPU time.
        what: What it was.
        collecting: How much of that time was garbage collection, in seconds.
    """

    ended: float
    seconds: float
    what: str
    collecting: float = 0.0


def read(path: Path, since: float = 0.0) -> list[Stall]:
    """Return the stalls that ended after a time, the longest first."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [Stall(*json.loads(line)) for line in lines]
    return sorted((one for one in found if one.ended > since), key=lambda one: -one.seconds)


class _Collections:
    """Adds up the CPU time of garbage collections in the thread that made it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = 0.0
        self._thread = threading.get_ident()

    def noted(self, phase: str, _: dict[str, int]) -> None:
        """Note that a collection begins or has ended; see `gc.callbacks`."""
        if threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._begun = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._begun


def watch(report: Callable[[Stall], None], above_s: float = REPORTED_S) -> None:
    """Time the callbacks of every asyncio loop of this process from now on."""
    run = events.Handle._run
    collections = _Collections()
    gc.callbacks.append(collections.noted)

    def timed(self: Any) -> None:
        begun, collected = time.thread_time(), collections.seconds
        run(self)
        seconds = time.thread_time() - begun
        if seconds > above_s:
            what, collecting = _name(self._callback), collections.seconds - collected
            report(Stall(time.time(), seconds, what, collecting))

    events.Handle._run = timed  # type: ignore[method-assign]


def _name(callback: Any) -> str:
    """Return what a callback runs: of a task, its coroutine."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"{owner.get_name()}: {owner.get_coro()!r}"[:200]
    return repr(callback)[:200]


def main() -> None:
    """Serve, and write the stalls."""
    from uvicorn import config

    from service.cli import main as bandexa

    path = Path(os.environ[STALLS_FILE])

    def append(stall: Stall) -> None:
        with path.open("a") as out:
            out.write(json.dumps(stall) + "\n")

    config.LOOP_FACTORIES["uvloop"] = config.LOOP_FACTORIES["asyncio"]  # whose callbacks are timed
    watch(append)
    bandexa()


if __name__ == "__main__":
    main()
