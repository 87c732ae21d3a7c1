"""Keeps a number of clients busy, each sending as soon as it was answered, and counts.

Driven by `wrk` where it is installed (Debian: wrk), else by asyncio protocols in a process of its
own, `python -m benchmarks.closed_loop`, which reads a `Plan` as JSON on its standard input. Both
send the same bodies in the same way, and a comparison uses one of them throughout. For latencies
see `open_loop`: a closed loop hides stalls. Nothing here outlives its caller.
"""

from __future__ import annotations

import asyncio
import itertools
import json
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
_SPARE_S = 30.0


@dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
        url: Address of the server.
        path: Where the bodies are posted to.
        bodies: JSON bodies, sent in turn.
        seconds: For how long.
        clients: Requests under way at once.
        rewards: Whether each decision is rewarded next, so that half the requests are rewards.
    """

    url: str
    path: str
    bodies: list[str]
    seconds: float
    clients: int = 32
    rewards: bool = False


class LoadFailed(Exception):
    """A request was not answered with status 200."""


def driver() -> str:
    """Return the name of the driver in use."""
    return "wrk" if shutil.which("wrk") else "asyncio"


def rate(plan: Plan) -> float:
    """Run a plan and return answered requests per second.

    Raises:
        LoadFailed: A request failed.
        subprocess.SubprocessError: The driver failed.
    """
    told = _wrk(plan) if driver() == "wrk" else _own(plan)
    found = json.loads(told.strip().splitlines()[-1])
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
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.closed_loop"],
        input=json.dumps(asdict(plan)),
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        text=True,
        check=True,
        timeout=plan.seconds + _SPARE_S,
    ).stdout


class _Client(asyncio.Protocol):
    """One connection that always has a request under way."""

    def __init__(self, plan: Plan, turns: Iterator[bytes], tally: dict[str, int]) -> None:
        self._plan, self._turns, self._tally = plan, turns, tally
        self._answer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.write(next(self._turns))

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, content = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(content) < int(length[1]):
            return
        self._answer = b""
        self._tally["requests"] += 1
        self._tally["failed"] += b" 200 " not in head[:16]
        decided = _DECIDED.search(content) if self._plan.rewards else None
        assert self._transport is not None
        if decided:
            reward = b'{"decision_id": "%b", "reward": 0.5}' % decided[1]
            self._transport.write(_request("/reward", reward))
        else:
            self._transport.write(next(self._turns))

    def connection_lost(self, exc: Exception | None) -> None:
        self._tally["failed"] += exc is not None


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _run(plan: Plan) -> None:
    address = urlsplit(plan.url)
    turns = itertools.cycle([_request(plan.path, body.encode()) for body in plan.bodies])
    tally = {"requests": 0, "failed": 0}
    loop, started = asyncio.get_running_loop(), time.perf_counter()
    for _ in range(plan.clients):
        await loop.create_connection(
            lambda: _Client(plan, turns, tally), address.hostname or "", address.port or 80
        )
    await asyncio.sleep(plan.seconds)
    print(json.dumps(tally | {"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    uvloop.run(_run(Plan(**json.load(sys.stdin))))
