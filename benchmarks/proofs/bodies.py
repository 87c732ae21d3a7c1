"""Bodies that the limits allow: none holds the event loop, or takes more than a few times its size.

Every route that takes a body receives the worst ones that are known for it. The app runs in this
process, so that each callback of its event loop can be timed, by the CPU time of its thread. Memory
is the rise of the most that the process had resident, over the body, which exists before.

A score of more than 100,000 candidates, and a change of catalogues beyond that, take longer: each
is one step on the served model, in proportion to its candidates.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import msgpack

from benchmarks.report import arguments, report
from service.http.app import create_app
from service.settings import Settings

MOST_STALL_S = 0.05
MOST_TIMES = 32  # bytes of memory for a byte of a body
_SPEC = {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2, "seed": 1}
_JSON, _MSGPACK = "application/json", "application/msgpack"


class Body(NamedTuple):
    """A body of about a size, and where it is sent."""

    method: str
    path: str
    make: Callable[[int], bytes]
    kind: str = _JSON


def _filled(start: bytes, item: bytes, end: bytes, most: int = 3_900_000) -> Callable[[int], bytes]:
    """Return what makes a list of equal items; `most`: as many as `max_elements` allows."""
    return lambda size: start + b",".join([item] * min(most, size // (len(item) + 1))) + end


def _numbered(start: bytes, item: str, end: bytes, most: int) -> Callable[[int], bytes]:
    """Return what makes a list of items with a number each."""

    def make(size: int) -> bytes:
        num = min(most, size // (len(item) + 5))
        return start + ",".join(item.replace("#", str(n)) for n in range(num)).encode() + end

    return make


_SELECT, _BATCH, _ACTIONS = "/select", "/select/batch", "/bandits/b/actions"
_IN_CONTEXT, _END = b'{"bandit":"b","context":[', b"]}"
_OFFER = b'{"bandit":"b","context":[1,2],"candidates":['
_KEYS = b'{"bandit":"b","context":[1,2],'
_INLINE = '{"id":"a#","features":[1,2]}'


def _packed(item: object) -> Callable[[int], bytes]:
    one = len(msgpack.packb(item))
    return lambda size: bytes(
        msgpack.packb({"bandit": "b", "context": [item] * min(3_900_000, size // one)})
    )


def _items(item: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Return what makes a batch of 1000 items."""
    return lambda size: b'{"items":[' + b",".join([item(size // 1000)] * 1000) + b"]}"


BODIES: dict[str, Body] = {
    "context of numbers": Body("POST", _SELECT, _filled(_IN_CONTEXT, b"1", _END)),
    "context of texts": Body("POST", _SELECT, _filled(_IN_CONTEXT, b'"abcdefgh"', _END)),
    "context of one text": Body("POST", _SELECT, lambda n: _IN_CONTEXT + b'"' + b"a" * n + b'"]}'),
    "context of floats as texts": Body("POST", _SELECT, _filled(_IN_CONTEXT, b'"0.5"', _END)),
    "context of rows": Body("POST", _SELECT, _filled(_IN_CONTEXT, b"[1,2]", _END, 1_200_000)),
    "ragged context": Body("POST", _SELECT, _filled(_IN_CONTEXT, b"[1]", b",[1,2]]}", 1_900_000)),
    "context of nests": Body("POST", _SELECT, _filled(_IN_CONTEXT, b"[[[1]]]", _END, 900_000)),
    "integer of many digits": Body("POST", _SELECT, lambda n: _IN_CONTEXT + b"9" * n + _END),
    "fraction of many digits": Body("POST", _SELECT, lambda n: _IN_CONTEXT + b".9" * n + _END),
    "integers of 4000 digits": Body("POST", _SELECT, _filled(_IN_CONTEXT, b"9" * 4000, _END)),
    "msgpack numbers": Body("POST", _SELECT, _packed(1), _MSGPACK),
    "msgpack texts": Body("POST", _SELECT, _packed("abcdefgh"), _MSGPACK),
    "msgpack nests": Body("POST", _SELECT, _packed([1]), _MSGPACK),
    "msgpack extensions": Body("POST", _SELECT, _packed(msgpack.ExtType(5, b"x")), _MSGPACK),
    "unknown keys": Body("POST", _SELECT, _numbered(_KEYS, '"k#":1', b"}", 1_900_000)),
    "one key again and again": Body("POST", _SELECT, _filled(_KEYS, b'"candidates":["x"]', b"}")),
    "texts of brackets": Body("POST", _SELECT, _filled(_OFFER, b'"["', _END, 1_900_000)),
    "never closed": Body("POST", _SELECT, _filled(_OFFER, b"1", b"")),
    "many ids": Body("POST", _SELECT, _numbered(_OFFER, '"a#"', _END, 1_000_000)),
    "many malformed ids": Body("POST", _SELECT, _numbered(_OFFER, '"a #"', _END, 1_000_000)),
    "inline candidates": Body("POST", _SELECT, _numbered(_OFFER, _INLINE, _END, 900_000)),
    "inline candidates, own id": Body(
        "POST", _SELECT, _numbered(b'{"decision_id":"d",' + _OFFER[1:], _INLINE, _END, 900_000)
    ),
    "batch of small items": Body("POST", _BATCH, _items(lambda _: _IN_CONTEXT + b"1,2]}")),
    "batch of candidates": Body("POST", _BATCH, _items(_numbered(_OFFER, _INLINE, _END, 900))),
    "batch of mistakes": Body("POST", _BATCH, _items(_numbered(_KEYS, '"k#":1', b"}", 3000))),
    "batch of too many": Body("POST", _BATCH, _filled(b'{"items":[', b"1", _END)),
    "rewards": Body(
        "POST", "/reward/batch", _items(lambda _: b'{"decision_id":"nobody","reward":1}')
    ),
    "rewards with mistakes": Body(
        "POST", "/reward/batch",
        _items(_filled(b'{"decision_id":"d","reward":[', b"1", _END, 3000)),
    ),
    "reward with a long id": Body(
        "POST", "/reward", lambda n: b'{"reward":1,"decision_id":"' + b"a" * n + b'"}'
    ),
    "activation of many keys": Body(
        "POST", "/activate", _numbered(b'{"decision_id":"d",', '"k#":1', b"}", 1_900_000)
    ),
    "score of many": Body(
        "POST", "/bandits/b/score",
        _numbered(_OFFER.replace(b'"bandit":"b",', b""), _INLINE, _END, 100_000),
    ),
    "bandit of many keys": Body("PUT", "/bandits/c", _numbered(b"{", '"k#":1', b"}", 1_900_000)),
    "bandit of many keys, small": Body(
        "PUT", "/bandits/c", lambda _: _numbered(b"{", '"k#":1', b"}", 6000)(60_000)
    ),
    "rollback of many keys": Body(
        "POST", "/bandits/b/rollback", _numbered(b"{", '"k#":1', b"}", 1_900_000)
    ),
    "actions of wrong ids": Body("PUT", _ACTIONS, _filled(b'{"ids":[', b"1", _END, 1_000_000)),
    "actions of texts": Body("PUT", _ACTIONS, _filled(b'{"ids":["x"],"features":[', b'"a"', _END)),
    "action given twice": Body("PUT", _ACTIONS, _filled(b'{"ids":[', b'"x"', _END, 1_000_000)),
    "no snapshot": Body("PUT", "/bandits/b/snapshot", lambda n: b"\xff" * n),
    "actions": Body(
        "PUT", _ACTIONS, lambda n: _numbered(b'{"actions":[', _INLINE, _END, 50_000)(min(n, 2**21))
    ),
}  # fmt: skip


def costs_of(data_dir: Path, size: int) -> dict[str, tuple[float, float, int]]:
    """Send every body at about a size; returns CPU seconds of a callback, bytes, and status."""
    try:
        return asyncio.run(_costs(data_dir, size))
    finally:
        gc.unfreeze()


async def _costs(data_dir: Path, size: int) -> dict[str, tuple[float, float, int]]:
    app = create_app(Settings(data_dir=data_dir, durability="os", log_level="error"))
    found: dict[str, tuple[float, float, int]] = {}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://localhost",
        ) as http,
    ):
        (await http.put("/bandits/b", json=_SPEC)).raise_for_status()
        actions = {"ids": ["x", "y"], "features": [[1, 0], [0, 1]]}
        (await http.put("/bandits/b/actions", json=actions)).raise_for_status()
        (await http.post(_SELECT, json={"bandit": "b", "context": [1, 2]})).raise_for_status()
        for name, body in BODIES.items():
            content = body.make(size)
            headers = {"content-type": body.kind}
            gc.collect()
            gc.freeze()  # what this process has imported is not searched, as in a server
            with _timed() as longest, _risen() as rise:
                # As a task of its own: all its steps are callbacks, which are timed.
                request = http.request(body.method, body.path, content=content, headers=headers)
                answer = await asyncio.create_task(request)
            found[name] = (longest(), rise(), answer.status_code)
    return found


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    """Time the callbacks of asyncio's event loop; yields what returns the longest, in seconds."""
    run, longest = asyncio.Handle._run, 0.0

    def timed(handle: asyncio.Handle) -> None:
        nonlocal longest
        started = time.thread_time()
        try:
            run(handle)
        finally:
            longest = max(longest, time.thread_time() - started)

    with unittest.mock.patch.object(asyncio.Handle, "_run", timed):
        yield lambda: longest


@contextmanager
def _risen() -> Iterator[Callable[[], int]]:
    """Yield what returns how far this process' most resident memory rose above its present one."""
    Path("/proc/self/clear_refs").write_text("5")  # the most is the present from here on
    before = _resident("VmRSS")
    yield lambda: _resident("VmHWM") - before


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("bodies", __doc__)
    parser.add_argument("--size", type=int, default=16_000_000, help="bytes of a body, about")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bandexa-bodies-") as folder:
        costs = costs_of(Path(folder) / "data", given.size)
    results: dict[str, float] = {}
    wrong = []
    for name, (stall_s, rise, status) in costs.items():
        results[f"{name}: status"] = status
        results[f"{name}: ms of a callback"] = round(1e3 * stall_s, 1)
        results[f"{name}: memory over size"] = round(rise / given.size, 1)
        if status >= 500:
            wrong.append(f"{name}: {status}")
        if stall_s > MOST_STALL_S:
            wrong.append(f"{name}: a callback of {1e3 * stall_s:.0f} ms")
        if rise > MOST_TIMES * given.size:
            wrong.append(f"{name}: memory of {rise / given.size:.0f} times its size")
    claim = "no body holds the event loop for 50 ms, or takes 32 times its size in memory"
    return report("bodies", results, given.json, wrong=wrong, claim=claim)
