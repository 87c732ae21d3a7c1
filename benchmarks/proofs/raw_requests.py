"""Requests that no client library would send: bytes for a socket, each kind by name.

Everything follows from a generator of random numbers. Some kinds take valid requests apart, cut
them or change bits of them; others are broken from the start.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

JSON, MSGPACK, BINARY = "application/json", "application/msgpack", "application/octet-stream"
_NUMBERS = (
    "1e999", "-1e999", "1e-999", "9" * 5000, "-" + "9" * 400, "1" + "0" * 309, "0.1e1000000000",
    "18446744073709551616", "-0.0", "-0", "NaN", "Infinity", "-Infinity", "0x10", "1.", ".5", "+1",
    "1e", "--1", "01", "1_000",
)  # fmt: skip
_TEXTS = (
    b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x00", b"\\ud800", b"\\udfff",
    b"\\u0000", b"\\x41", b"\\", b"\n", b"\x7f", b"\xe2\x80\xae", b"a" * 200, b"",
)  # fmt: skip
_BROKEN = (
    b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET /\r\n\r\n", b"\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT x:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01", b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"get / http/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
    b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"G\x00T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n folded: y\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n",
    b"GET  /healthz  HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\n\r\n",
    b"GET http://[::1/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 2000,
    b"GET /healthz HTTP/1.1\r\nA: " + b"b" * 200_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
)  # fmt: skip
_PATHS = (
    "/bandits/%00", "/bandits/%ff%fe", "/bandits/../bandits", "/docs/../../etc/passwd", "//select",
    "/docs/%2e%2e%2fsettings.py", "/bandits/" + "a" * 5000, "/bandits/a/actions/%0d%0aX:1",
    "/bandits/x/train?wait=perhaps", "/bandits/x/train?wait=true&wait=false", "/metrics?x=%ff",
    "/bandits/x/snapshot/..", "/openapi.json%00", "/bandits/%F0%9F%98%80", "/?" + "a=b&" * 5000,
    "/select?", "/bandits/\u00e9", "/%2e%2e/",
)  # fmt: skip


@dataclass(frozen=True)
class Valid:
    """A request that a server accepts."""

    method: str
    path: str
    body: Any


class RawRequests:
    """Makes raw requests.

    Args:
        valid: Requests with decoded bodies; those of bytes are snapshots.

    Attributes:
        kinds: The makers of requests, by name.
        unfinished: The kinds after which a server may wait for more bytes.
    """

    def __init__(self, valid: list[Valid], rng: np.random.Generator) -> None:
        self._valid = valid
        self._rng = rng
        self.unfinished = (
            "broken HTTP", "wrong length", "broken chunks", "cut off", "changed bits, head",
        )  # fmt: skip
        self.kinds: dict[str, Callable[[], bytes]] = {
            "broken HTTP": self._broken_http,
            "odd path": self._odd_path,
            "wrong length": self._wrong_length,
            "broken chunks": self._broken_chunks,
            "cut off": self._cut_off,
            "changed bits, head": self._changed_head,
            "changed bits, JSON": lambda: self._changed_body(JSON),
            "changed bits, msgpack": lambda: self._changed_body(MSGPACK),
            "changed bits, snapshot": self._changed_snapshot,
            "deep nesting": self._deep,
            "odd numbers": self._odd_number,
            "odd texts": self._odd_text,
            "random bytes": self._random_bytes,
            "another encoding": self._another_encoding,
        }

    def of(self, kind: str) -> bytes:
        """Return the bytes of one request of a kind."""
        return self.kinds[kind]()

    # -- kinds ----------------------------------------------------------------------------------

    def _broken_http(self) -> bytes:
        return _BROKEN[self._below(len(_BROKEN))]

    def _odd_path(self) -> bytes:
        path = _PATHS[self._below(len(_PATHS))]
        method = ("GET", "PUT", "POST", "DELETE", "PATCH", "HEAD")[self._below(6)]
        return _request(method, path, b"{}", JSON)

    def _wrong_length(self) -> bytes:
        one = self._any()
        body = _encoded(one.body, JSON)
        near = (len(body) + 1 + self._below(1000), self._below(len(body)))
        stated = (*near, -1, 10**30, "x", "")[self._below(6)]
        return _request(one.method, one.path, body, JSON, length=str(stated))

    def _broken_chunks(self) -> bytes:
        one = self._any()
        body = _encoded(one.body, JSON)
        size = (b"%x" % (len(body) + self._below(3)), b"-1", b"zz", b"f" * 30, b"")[self._below(5)]
        head = _head(one.method, one.path, JSON, "Transfer-Encoding: chunked")
        both = b"Content-Length: 5\r\n" if self._below(4) == 0 else b""
        return head[:-2] + both + b"\r\n" + size + b"\r\n" + body + b"\r\n0\r\n\r\n"

    def _cut_off(self) -> bytes:
        kind = (JSON, MSGPACK)[self._below(2)]
        one = self._any()
        raw = _request(one.method, one.path, _encoded(one.body, kind), kind)
        return raw[: self._below(len(raw))]

    def _changed_head(self) -> bytes:
        one = self._any()
        body = _encoded(one.body, JSON)
        raw = _request(one.method, one.path, body, JSON)
        return self._changed(raw[: len(raw) - len(body)]) + body

    def _changed_body(self, kind: str) -> bytes:
        one = self._any()
        return _request(one.method, one.path, self._changed(_encoded(one.body, kind)), kind)

    def _changed_snapshot(self) -> bytes:
        found = [one for one in self._valid if isinstance(one.body, bytes)]
        one = found[self._below(len(found))]
        # Most of a snapshot is numbers: half of the changes aim at its header.
        near = self._rng.random() < 0.5
        body = self._changed(one.body[:1500]) + one.body[1500:] if near else self._changed(one.body)
        if self._below(5) == 0:
            body = body[: self._below(len(body))]
        return _request(one.method, one.path, body, BINARY)

    def _deep(self) -> bytes:
        depth = int(2 ** self._rng.uniform(4, 17))
        one = self._any()
        opening = ((b"[", b"]"), (b'{"a":', b"}"), (b'{"items":[', b"]}"))[self._below(3)]
        if self._below(2):
            return _request(one.method, one.path, opening[0] * depth + opening[1] * depth, JSON)
        opening = ((b"\x91", b"\x90"), (b"\x81\xa1a", b"\x01"))[self._below(2)]
        return _request(one.method, one.path, opening[0] * depth + opening[1], MSGPACK)

    def _odd_number(self) -> bytes:
        one = self._any()
        text = _encoded(one.body, JSON).decode("latin-1")
        return _request(one.method, one.path, self._replaced(text, ":,[", _NUMBERS).encode(), JSON)

    def _odd_text(self) -> bytes:
        one = self._any()
        body = _encoded(one.body, JSON)
        places = [at for at in range(len(body)) if body[at : at + 1] == b'"'] or [0]
        at = places[self._below(len(places))] + 1
        return _request(
            one.method, one.path, body[:at] + _TEXTS[self._below(len(_TEXTS))] + body[at:], JSON
        )

    def _random_bytes(self) -> bytes:
        one = self._any()
        body = self._rng.bytes(self._below(400))
        return _request(one.method, one.path, body, (JSON, MSGPACK, BINARY)[self._below(3)])

    def _another_encoding(self) -> bytes:
        one = self._any()
        body = _encoded(one.body, JSON)
        codec = ("utf-16", "utf-32", "utf-8-sig", "utf-16-be", "utf-7")[self._below(5)]
        kinds = (
            JSON,
            f"{JSON}; charset={codec}",
            "text/plain",
            "",
            "multipart/form-data",
        )
        text = body.decode("latin-1").encode(codec)
        return _request(one.method, one.path, text, kinds[self._below(len(kinds))])

    # -- parts ----------------------------------------------------------------------------------

    def _below(self, bound: int) -> int:
        return int(self._rng.integers(bound))

    def _any(self) -> Valid:
        found = [one for one in self._valid if not isinstance(one.body, bytes)]
        return found[self._below(len(found))]

    def _changed(self, raw: bytes) -> bytes:
        data = bytearray(raw)
        for _ in range(1 + self._below(3)):
            if data:
                data[self._below(len(data))] ^= 1 << self._below(8)
        return bytes(data)

    def _replaced(self, text: str, before: str, by: tuple[str, ...]) -> str:
        """Replace one value of a JSON text."""
        places = [at + 1 for at, mark in enumerate(text) if mark in before] or [0]
        start = places[self._below(len(places))]
        end = next((at for at in range(start, len(text)) if text[at] in ",]}"), len(text))
        return text[:start] + by[self._below(len(by))] + text[end:]


def _encoded(body: Any, kind: str) -> bytes:
    return json.dumps(body).encode() if kind == JSON else bytes(msgpack.packb(body))


def _head(method: str, path: str, kind: str, length: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}"]
    lines += ["Connection: close", length]
    return "\r\n".join([*lines, "", ""]).encode()


def _request(method: str, path: str, body: bytes, kind: str, *, length: str | None = None) -> bytes:
    stated = len(body) if length is None else length
    return _head(method, path, kind, f"Content-Length: {stated}") + body
