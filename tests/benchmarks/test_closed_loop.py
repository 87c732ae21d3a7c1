"""The closed-loop drivers: every client busy, decisions rewarded in turn, failures told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import closed_loop
from benchmarks.closed_loop import LoadFailed, Plan, rate


@contextmanager
def serving(status: int, seen: Counter[str]) -> Iterator[str]:
    """Answer selects with an id of their own and rewards with nothing; counts both."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].split()[0])
                body = json.loads(await reader.readexactly(length))
                path = head.split()[1]
                seen[path] += 1
                if path == "/reward":
                    seen[f"rewarded {body['decision_id']}"] += 1
                content = b'{"decision_id":"d%d"}' % seen[path] if path == "/select" else b"{}"
                writer.write(
                    b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(content))
                    + content
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def stop() -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(closed_loop, "driver", lambda: "asyncio")


@pytest.mark.usefixtures("own")
def test_each_decision_is_rewarded_once_between_selects():
    seen: Counter[str] = Counter()
    with serving(200, seen) as url:
        found = rate(Plan(url, "/select", ["{}"], seconds=1.0, clients=3, rewards=True))
    assert found > 10
    assert abs(seen["/select"] - seen["/reward"]) <= 3
    rewarded = [count for name, count in seen.items() if name.startswith("rewarded")]
    assert set(rewarded) == {1}


@pytest.mark.usefixtures("own")
def test_a_status_other_than_200_fails_the_load():
    with serving(503, Counter()) as url, pytest.raises(LoadFailed, match="requests failed"):
        rate(Plan(url, "/select", ["{}"], seconds=1.0, clients=1))
