"""Sends requests at fixed times, however long the answers take, and measures from those times.

A closed loop hides stalls: while the server stands still, its clients wait with it and send less.
Here request n is due n / rate seconds after the start, and its latency counts from then, so that
waiting for a connection counts, too.

The load runs in a process of its own, `python -m benchmarks.open_loop`, which reads a `Load` as
JSON on its standard input and writes an `Outcome` on its standard output; `drive` starts it. Each
connection has a thread: threads sleep to within a tenth of a millisecond, event loops only to a
whole one. `Loop` sends requests from a thread beside such a load.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from bandexa_client import NO_RETRY, BanditClient, BanditError

_ANSWER_S = 10.0  # limit of one answer
_GRACE_S = 5.0  # after the last due time; a request that is not sent by then has failed
_START_S = 30.0
_MOST_FAILURES = 20  # of one connection, which then gives up
_LATE_S = 1e-3


@dataclass(frozen=True)
class Load:
    """What to send.

    Attributes:
        url: Address of the server.
        path: Where the bodies are posted to.
        bodies: JSON bodies, sent in turn.
        seconds: Length of the load.
        rate: Requests per second.
        connections: The most concurrent requests.
        warmup_s: Latencies of requests that are due earlier are not reported.
        max_requests: Bound on what is sent.
    """

    url: str
    path: str
    bodies: list[str]
    seconds: float
    rate: float
    connections: int = 16
    warmup_s: float = 0.0
    max_requests: int = 200_000

    @property
    def num_requests(self) -> int:
        """How many requests are due."""
        return round(self.rate * self.seconds)

    def __post_init__(self) -> None:
        if not self.bodies or self.connections < 1:
            raise ValueError("a load needs bodies and connections")
        if not 0.0 <= self.warmup_s < self.seconds:
            raise ValueError("the warm-up must end before the load does")
        if not 1.0 <= self.rate * self.seconds <= self.max_requests:
            raise ValueError(f"{self.rate} per second for {self.seconds} s: not 1 to max_requests")


@dataclass
class Outcome:
    """The result of a load.

    Attributes:
        latencies_ms: Latencies of the answers after the warm-up, in no particular order.
        sent: Requests sent, warm-up included.
        late: Requests sent more than a millisecond after they were due: all connections were busy,
            or the driver did not get the CPU.
        failed: Requests without an answer of status 200, including those that were never sent.
        failures: The first of them in words.
        wall_s: From the start to the last answer.
    """

    latencies_ms: list[float] = field(default_factory=list)
    sent: int = 0
    late: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    wall_s: float = 0.0


def drive(load: Load) -> Outcome:
    """Run a load in a process of its own.

    Raises:
        subprocess.SubprocessError: The process failed, or did not end in time.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.open_loop"],
        input=json.dumps(asdict(load)),
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        text=True,
        check=True,
        timeout=_START_S + load.seconds + _GRACE_S + 2 * _ANSWER_S,
    )
    return Outcome(**json.loads(done.stdout))


def run(load: Load) -> Outcome:
    """Run a load in threads of this process."""
    tallies = [Outcome() for _ in range(load.connections)]
    turns = itertools.count()  # shared: next() is atomic
    start = time.perf_counter() + 0.05  # all threads wait by then
    threads = [
        threading.Thread(target=_work, args=(load, start, turns, tally)) for tally in tallies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = Outcome(
        latencies_ms=[ms for tally in tallies for ms in tally.latencies_ms],
        sent=sum(tally.sent for tally in tallies),
        late=sum(tally.late for tally in tallies),
        failed=sum(tally.failed for tally in tallies),
        failures=[text for tally in tallies for text in tally.failures][:_MOST_FAILURES],
        wall_s=time.perf_counter() - start,
    )
    if unsent := load.num_requests - whole.sent:
        whole.failed += unsent
        whole.failures.append(f"{unsent} requests were never sent")
    return whole


class Loop:
    """Calls `step` with 0, 1, ... in a thread until the context is left; a failure ends it."""

    def __init__(
        self, url: str, step: Callable[[BanditClient, int], object], pause_s: float
    ) -> None:
        self._url, self._step, self._pause_s = url, step, pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0
        self.failures: list[str] = []

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with BanditClient(self._url, retry=NO_RETRY, trust_env=False) as client:
                while not self._stop.wait(self._pause_s):
                    self._step(client, self.count)
                    self.count += 1
        except BanditError as error:
            self.failures.append(str(error))


def _due(load: Load, start: float, turns: Iterator[int]) -> Iterator[tuple[int, float]]:
    """Yield number and due time of each request when it is due, until the load ends."""
    end = start + load.seconds + _GRACE_S
    for number in turns:
        if number >= load.num_requests:
            return
        due = start + number / load.rate
        if (pause := due - time.perf_counter()) > 0.0:
            time.sleep(pause)
        if time.perf_counter() > end:
            return
        yield number, due


def _work(load: Load, start: float, turns: Iterator[int], tally: Outcome) -> None:
    """Send over one connection."""
    address = urlsplit(load.url)
    assert address.hostname is not None
    connection = HTTPConnection(address.hostname, address.port, timeout=_ANSWER_S)
    bodies = [body.encode() for body in load.bodies]
    headers = {"Content-Type": "application/json"}
    for number, due in _due(load, start, turns):
        tally.sent += 1
        tally.late += time.perf_counter() - due > _LATE_S
        try:
            connection.request("POST", load.path, bodies[number % len(bodies)], headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, HTTPException) as error:
            connection.close()
            status, content = 0, f"{type(error).__name__}: {error}".encode()
        else:
            status = response.status
        if status != 200:
            tally.failed += 1
            tally.failures.append(f"{status} {content[:200].decode(errors='replace')}")
            if tally.failed >= _MOST_FAILURES:
                break
        elif due - start > load.warmup_s - 1e-6:
            tally.latencies_ms.append(round(1e3 * (time.perf_counter() - due), 4))
    connection.close()


if __name__ == "__main__":
    json.dump(asdict(run(Load(**json.load(sys.stdin)))), sys.stdout)
