"""Clients that are slow, or never go on, lock nobody out of a server with few descriptors.

A server with a limit of 1,024 open files meets waves of 1,200 connections each, of six kinds:
silent ones, half request heads, heads that go on for ever by a header at a time, bodies that do,
endless bodies of a request that is answered already, and answers that nobody reads. All stay open
for as long as the server lets them. Meanwhile a good client selects and rewards over connections
of its own, new ones and one that it keeps, and another one asks for health. Every request of both
must be answered well, as the project's clients ask: a connection that breaks before an answer is
tried once more. (The good client's own connection is a half request until its head is read, and
where its process is not run in time, the flood pushes it out.) One request in a hundred may be
repeated. After each wave the server must be left with no socket but its listener's.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.processes import cpu_s
from benchmarks.report import arguments, report
from benchmarks.server import Server

FILES = 1024
NUM_PEERS = 1200
HOLD_S = 30.0  # how long a wave is kept up
BACK_WITHIN_S = 60.0
DRIP_S = 1.0
MOST_REPEATED = 0.01  # of the good client's requests
LISTENERS = 1
HEAD = b"POST /select HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
KINDS: dict[str, tuple[bytes, bytes]] = {  # what is sent first, and again and again
    "silent": (b"", b""),
    "half heads": (HEAD + b"X-Slow: ", b""),
    "endless heads": (HEAD, b"X-Slow: yes\r\n"),
    "slow bodies": (CHUNKED + b"1\r\n{\r\n", b"1\r\n \r\n"),
    "endless bodies": (
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"400\r\n" + b" " * 1024 + b"\r\n",
    ),
    "unread answers": (b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
}
SPEC: dict[str, Any] = {
    "policy": "linear_ts",
    "context": {"shape": [2]},
    "encoder": {"name": "per_action"},
}


class Wave:
    """Many connections of one kind, opened and kept up by a process of their own.

    Args:
        url: The server.
        kind: What they do.
        number: How many there are.
        hold_s: How long they are kept up. One that the server closes is opened again.
    """

    def __init__(self, url: str, kind: str, number: int, hold_s: float) -> None:
        split = urlsplit(url)
        self._address = (split.hostname or "", split.port or 0)
        self._first, self._more = KINDS[kind]
        self._number, self._hold_s = number, hold_s
        self._peers: list[socket.socket] = []
        self.opened = 0

    def run(self) -> None:
        """Open all, keep them up for the time, and close them."""
        ends = time.monotonic() + self._hold_s
        try:
            while time.monotonic() < ends:
                turn = time.monotonic()
                self._drop_closed()
                while len(self._peers) < self._number and time.monotonic() < ends:
                    self._open()
                time.sleep(max(0.0, DRIP_S - (time.monotonic() - turn)))
        finally:
            for peer in self._peers:
                peer.close()

    def _open(self) -> None:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(5.0)
        try:
            peer.connect(self._address)
            peer.sendall(self._first)
        except OSError:  # refused, or closed at once: the next turn tries again
            peer.close()
            return
        peer.setblocking(False)
        self._peers.append(peer)
        self.opened += 1

    def _drop_closed(self) -> None:
        kept = []
        for peer in self._peers:
            try:
                if self._more:
                    peer.send(self._more)
                if not self._reads() or peer.recv(1 << 16) != b"":
                    kept.append(peer)
                    continue
                peer.close()
            except BlockingIOError:
                kept.append(peer)
            except OSError:
                peer.close()
        self._peers = kept

    def _reads(self) -> bool:
        return not self._first.startswith(b"GET /docs")


class GoodClient:
    """Selects and rewards, and asks for health, until it is stopped."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.wrong: list[str] = []
        self.times_s: list[float] = []
        self.repeated = 0
        self._threads = [threading.Thread(target=run) for run in (self._work, self._probe)]

    def __enter__(self) -> GoodClient:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._url, timeout=10.0, trust_env=False, verify=False)

    def _ask(self, http: httpx.Client, method: str, path: str, body: Any = None) -> Any:
        started = time.perf_counter()
        try:
            try:
                answer = http.request(method, path, json=body)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                self.repeated += 1
                answer = http.request(method, path, json=body)
        except httpx.HTTPError as error:
            self.wrong.append(f"{method} {path}: {error!r}")
            return None
        self.times_s.append(time.perf_counter() - started)
        if not answer.is_success:
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
            return None
        return answer.json()

    def _work(self) -> None:
        with self._client() as kept:
            number = 0
            while not self._stop.wait(0.02):
                number += 1
                once = self._client() if number % 2 else contextlib.nullcontext(kept)
                with once as http:
                    body = {"bandit": "b", "context": [number % 7, 1.0]}
                    decision = self._ask(http, "POST", "/select", body)
                    if decision is not None:
                        outcome = {"decision_id": decision["decision_id"], "reward": 1.0}
                        self._ask(http, "POST", "/reward", outcome)

    def _probe(self) -> None:
        while not self._stop.wait(0.1):
            with self._client() as http:
                self._ask(http, "GET", "/readyz")


@contextlib.contextmanager
def _file_limit(number: int) -> Iterator[None]:
    """Limit the open files of processes that are started here."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _num_sockets(pid: int) -> int:
    """Return how many TCP sockets a process has: its listener and its connections."""
    tcp = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
    num = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            num += os.readlink(f"/proc/{pid}/fd/{name}")[8:-1] in tcp
    return num


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _level_again(pid: int) -> int:
    """Return the number of sockets once only the listener is left, or after a while."""
    ends = time.monotonic() + BACK_WITHIN_S
    while (found := _num_sockets(pid)) > LISTENERS and time.monotonic() < ends:
        time.sleep(0.1)
    return found


def _run(
    folder: Path, num: int, files: int, hold_s: float, kinds: Sequence[str]
) -> tuple[Any, list[str]]:
    server = Server(folder / "data")
    wrong: list[str] = []
    repeated = 0
    opened: dict[str, int] = {}
    results: dict[str, Any] = {}
    try:
        with _file_limit(files):
            server.spawn()
        server.wait_ready()
        with httpx.Client(base_url=server.address, trust_env=False) as http:
            http.put("/bandits/b", json=SPEC).raise_for_status()
            actions = {"actions": [{"id": "x"}, {"id": "y"}]}
            http.put("/bandits/b/actions", json=actions).raise_for_status()
        times: list[float] = []
        used_s = cpu_s(server.pid)
        started = time.perf_counter()
        for kind in kinds:
            with GoodClient(server.address) as client:
                command = [sys.executable, "-m", __name__, server.address, kind, f"{num}"]
                done = subprocess.run(
                    [*command, f"{hold_s}"], check=True, capture_output=True, text=True
                )
            opened[kind] = int(done.stdout)
            times += client.times_s
            wrong += [f"{kind}: {one}" for one in client.wrong]
            repeated += client.repeated
            results[f"{kind}: p99_ms"] = round(1e3 * _high(client.times_s), 1)
            after = _level_again(server.pid)
            if after > LISTENERS:
                wrong.append(f"{kind}: {after} TCP sockets")
            results[f"{kind}: rss_mb"] = round(_rss_mb(server.pid), 1)
        wall_s = time.perf_counter() - started
        used_s = cpu_s(server.pid) - used_s
        if (status := server.stop()) != 0:
            wrong.append(f"the server ended with status {status}")
    finally:
        server.close()
    if repeated > MOST_REPEATED * len(times):
        wrong.append(f"{repeated} of {len(times)} requests were repeated")
    lines = server.log.read_text().splitlines()
    wrong += [line[:500] for line in lines if '"level":"error"' in line or "Traceback" in line]
    results |= {f"opened: {kind}": number for kind, number in opened.items()}
    results |= {
        "answered": len(times),
        "median_ms": round(1e3 * statistics.median(times or [0.0]), 2),
        "cpu_share": round(used_s / wall_s, 3),
        "repeated": repeated,
        "wrong": len(wrong),
    }
    return results, wrong


def _high(times_s: Sequence[float]) -> float:
    ordered = sorted(times_s)
    return ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("slow_peers", __doc__)
    parser.add_argument("--peers", type=int, default=NUM_PEERS, help="connections of a wave")
    parser.add_argument("--files", type=int, default=FILES, help="open files of the server")
    parser.add_argument("--hold-s", type=float, default=HOLD_S, help="duration of a wave")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bandexa-slow-peers-") as name:
        results, wrong = _run(Path(name), given.peers, given.files, given.hold_s, given.kinds)
    claim = "a good client is served all the time, and every connection is given back"
    return report("slow_peers", results, given.json, wrong=wrong, claim=claim)


def _peers(url: str, kind: str, number: str, hold_s: str) -> None:
    """Be the peers of a wave: `python -m benchmarks.proofs.slow_peers URL KIND NUMBER SECONDS`."""
    needed = int(number) + 100
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(needed, hard)))
    wave = Wave(url, kind, int(number), float(hold_s))
    wave.run()
    print(wave.opened)


if __name__ == "__main__":
    _peers(*sys.argv[1:])
