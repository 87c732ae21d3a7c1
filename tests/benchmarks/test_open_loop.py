"""The open-loop driver: times kept, stalls seen, wrong answers counted, everything bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.open_loop import Load, drive, run

BODIES = ['{"n": 0}', '{"n": 1}']


@contextmanager
def serving(answer: Callable[[int, bytes], int]) -> Iterator[str]:
    """Serve; `answer` is told the request's number and body and returns the status."""
    counter = iter(range(1_000_000))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave together, or delayed acknowledgements slow it down

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                number = next(counter)
            status = answer(number, body)
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_it_sends_at_the_rate_and_discards_the_warm_up_in_a_process_of_its_own():
    seen: list[bytes] = []

    def answer(number: int, body: bytes) -> int:
        seen.append(body)
        return 200

    with serving(answer) as url:
        outcome = drive(Load(url, "/any", BODIES, seconds=0.5, rate=100.0, warmup_s=0.2))
    assert outcome.sent == len(seen) == 50
    assert len(outcome.latencies_ms) == 30
    assert outcome.failed == 0
    assert outcome.wall_s >= 0.49
    assert sorted(seen) == [b'{"n": 0}'] * 25 + [b'{"n": 1}'] * 25


def test_a_stall_is_seen_by_all_that_were_due_meanwhile():
    """One connection, and the server stands still for 0.3 s once: a closed loop sees it once."""

    def answer(number: int, body: bytes) -> int:
        if number == 10:
            time.sleep(0.3)
        return 200

    def slow(rate: float | None) -> int:
        with serving(answer) as url:
            outcome = run(Load(url, "/", BODIES, seconds=1.0, connections=1, rate=rate))
        assert outcome.failed == 0
        return sum(ms > 100.0 for ms in outcome.latencies_ms)

    assert slow(100.0) >= 15  # about 20 were due in its first 0.2 s
    assert slow(None) < 5


def test_other_statuses_are_failures_and_not_latencies():
    with serving(lambda number, body: 503 if number % 5 == 0 else 200) as url:
        outcome = run(Load(url, "/", BODIES, seconds=0.5, rate=100.0))
    assert outcome.failed == 10
    assert len(outcome.latencies_ms) == 40
    assert outcome.failures[0] == "503 {}"


def test_a_server_that_is_not_there_ends_it_at_once():
    with serving(lambda number, body: 200) as url:
        pass
    for rate in (None, 1000.0):
        started = time.perf_counter()
        load = Load(url, "/", BODIES, seconds=30.0, rate=rate, connections=2)
        outcome = run(load)
        assert time.perf_counter() - started < 20.0
        assert outcome.latencies_ms == []
        assert outcome.failed >= 2
        assert "refused" in outcome.failures[0]
        if rate is not None:
            assert outcome.failed == 30_000


def test_a_closed_loop_is_bounded_in_count():
    with serving(lambda number, body: 200) as url:
        outcome = run(Load(url, "/", BODIES, seconds=30.0, connections=2, max_requests=40))
    assert outcome.sent == 40


@pytest.mark.parametrize(
    "wrong",
    [
        {"bodies": []},
        {"connections": 0},
        {"warmup_s": 1.0},
        {"rate": 0.5},
        {"rate": 1e6},
    ],
)
def test_a_load_that_makes_no_sense_is_refused(wrong):
    fields = {"url": "http://127.0.0.1:1", "path": "/", "bodies": BODIES, "seconds": 1.0}
    with pytest.raises(ValueError, match=r"bodies|warm-up|per second"):
        Load(**(fields | wrong))
