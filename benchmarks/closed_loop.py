"""Keeps a number of clients busy, each of which sends as soon as it is answered, and counts.

The load comes from `wrk` where it is installed (Debian: wrk), else from asyncio protocols in a
process of their own, `python -m benchmarks.closed_loop`, which reads a `Plan` as JSON on its
standard input. Both send the same bodies in the same order, and a comparison uses one of them
throughout. A plan with a number of requests always uses asyncio, because `wrk` knows times only.
For latencies see `open_loop`: a closed loop hides stalls.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

_SCRIPT = Path(__file__).with_suffix(".lua")
_DECIDED = re.compile(rb'"decision_id":"([^"]+)"')
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_SPARE_S, _COUNTED_S = 30.0, 300.0


@dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
        url: Address of the server.
        path: Where the bodies are posted to.
        bodies: JSON bodies, sent in turn.
        seconds: For how long; without meaning where `requests` are counted.
        clients: Concurrent requests.
        rewards: Whether each decision is rewarded next, so that half of the requests are rewards.
        requests: How many requests to send, in place of a time.
        cores: CPU cores of the clients; None: all.
    """

    url: str
    path: str
    bodies: list[str]
    seconds: float = 0.0
    clients: int = 32
    rewards: bool = False
    requests: int | None = None
    cores: list[int] | None = None


class LoadFailed(Exception):
    """A request was not answered with status 200."""


def driver() -> str:
    """Return the name of the driver of timed plans."""
    return "wrk" if shutil.which("wrk") else "asyncio"


def rate(plan: Plan) -> float:
    """Run a plan and return answered requests per second.

    Raises:
        LoadFailed: A request failed.
        subprocess.SubprocessError: The driver failed.
    """
    by_wrk = plan.requests is None and driver() == "wrk"
    printed = _wrk(plan) if by_wrk else _own(plan)
    found = json.loads(printed.strip().splitlines()[-1])
    if found["failed"] or not found["requests"]:
        raise LoadFailed(f"{found['failed']} of {found['requests']} requests failed: {plan.path}")
    return float(found["requests"] / found["seconds"])


def _wrk(plan: Plan) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as bodies:
        bodies.write("\n".join(plan.bodies) + "\n")
        bodies.flush()
        command = [
            "wrk", "--threads", "1", "--connections", str(plan.clients),
            "--duration", f"{max(1, round(plan.seconds))}s", "--timeout", "10s",
            "--script", str(_SCRIPT), plan.url, "--",
            bodies.name, plan.path, "pairs" if plan.rewards else "plain",
        ]  # fmt: skip
        return subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, timeout=plan.seconds + _SPARE_S
        ).stdout


def _own(plan: Plan) -> str:
    limit_s = (plan.seconds if plan.requests is None else _COUNTED_S) + _SPARE_S
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.closed_loop"],
        input=json.dumps(asdict(plan)),
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        text=True,
        check=True,
        timeout=limit_s,
    ).stdout


class _Tally:
    """What all clients together have sent and received.

    `done` is set when the number of requests that a plan states has been answered.
    """

    def __init__(self, plan: Plan, done: asyncio.Event) -> None:
        bodies = [_request(plan.path, body.encode()) for body in plan.bodies]
        self._turns: Iterator[bytes] = itertools.cycle(bodies)
        self._left = plan.requests
        self._open = 0
        self._done = done
        self.requests = self.failed = 0

    def next_request(self, reward: bytes | None) -> bytes | None:
        """Return what a client sends next; None: nothing more."""
        if self._left is not None:
            if self._left == 0:
                return None
            self._left -= 1
        self._open += 1
        return next(self._turns) if reward is None else reward

    def answered(self, *, failed: bool) -> None:
        """Count an answer."""
        self.requests += 1
        self.failed += failed
        self._open -= 1
        if self._left == 0 and self._open == 0:
            self._done.set()

    def lost(self) -> None:
        """Count a connection that broke; the plan cannot be completed any more."""
        self.failed += 1
        self._done.set()


class _Client(asyncio.Protocol):
    """One connection that always has a request under way."""

    def __init__(self, plan: Plan, tally: _Tally) -> None:
        self._rewards, self._tally = plan.rewards, tally
        self._answer = b""
        self._waits = False
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._send(None)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, content = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(content) < int(length[1]):
            return
        self._answer, self._waits = b"", False
        self._tally.answered(failed=b" 200 " not in head[:16])
        decided = _DECIDED.search(content) if self._rewards else None
        self._send(decided[1] if decided else None)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or self._waits:
            self._tally.lost()

    def _send(self, decided: bytes | None) -> None:
        reward = None
        if decided is not None:
            reward = _request("/reward", b'{"decision_id": "%b", "reward": 0.5}' % decided)
        content = self._tally.next_request(reward)
        if content is not None:
            assert self._transport is not None
            self._waits = True
            self._transport.write(content)


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _run(plan: Plan) -> None:
    if plan.cores is not None:
        os.sched_setaffinity(0, plan.cores)
    address = urlsplit(plan.url)
    done = asyncio.Event()
    tally = _Tally(plan, done)
    loop, started = asyncio.get_running_loop(), time.perf_counter()
    for _ in range(plan.clients):
        await loop.create_connection(
            lambda: _Client(plan, tally), address.hostname or "", address.port or 80
        )
    if plan.requests is None:
        await asyncio.sleep(plan.seconds)
    else:
        await done.wait()
    seconds = time.perf_counter() - started
    print(json.dumps({"requests": tally.requests, "failed": tally.failed, "seconds": seconds}))


if __name__ == "__main__":
    uvloop.run(_run(Plan(**json.load(sys.stdin))))
