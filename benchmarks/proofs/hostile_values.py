"""Values that stand where an object with named features belongs, as bytes of JSON and of msgpack.

They are written by hand, not by an encoder: an encoder has no duplicate keys, no lone surrogates,
no lengths that lie. Everything follows from the seed of the generator.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

_KEYS = (
    "age", "device", "at", "tags", "x", "v", "on", "id", "user", "a", "b", "a.b", "user.age", "",
    ".", "..", "a..b", "*", "__proto__", "type", "k" * 256, "k" * 300, "\u00e9", "e\u0301", "\x00",
    "\u202e", "\U0001f600", "shape", "data", "dtype",
)  # fmt: skip
_TEXTS = (
    "phone", "7", " 7 ", "1e999", "-0", "nan", "NaN", "Infinity", "true", "0x10", "1_0",
    "2024-02-30", "2024-01-01T25:61", "0000-00-00", "9999-12-31T23:59:59+14:00", "1700000000",
    "2024-01-01T00:00:00Z",
    "", " ", "\x00", "\u00df", "\u0130", "\u202e", "\U0001f600" * 9, "x" * 1024, "x" * 1025,
    "w " * 400, "9" * 70, "\uffff", "a b c d e f", "\u0661\u0662", "' OR 1=1 --", "{}", "null",
)  # fmt: skip
_NUMBERS = (
    "0", "-0", "-0.0", "1", "1.0", "2", "1e0", "1E+2", "5e-324", "1e-400", "1e308", "-1e308",
    "1e30",
    "1e31", "1e999", "-1e999", "9223372036854775807", "9223372036854775808", "18446744073709551615",
    "18446744073709551616", "-9223372036854775809", "1" * 400, "1700000000", "1700000000000",
    "0.1", "3.141592653589793238462643", "1e5", "99999999999999999999.5",
)  # fmt: skip
_BROKEN = (
    "NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "1e", "tru", "'a'", '"\\ud800"',
    '"\\udc00\\ud800"', '"\\x41"', '"a\nb"', "[1,]", '{"a":1,}', '{"a"}', '{1:2}', "[", "{", '"',
    "/*c*/1", "\ufeff1", "undefined",
)  # fmt: skip
_TYPES = (
    "bool", "number", "category", "categories", "text", "hash", "time", "vector", "image", "ignore",
)  # fmt: skip
_OPTIONS: dict[str, tuple[Any, ...]] = {
    "log": ("keep", "hash", "drop", "hide", None, 1, []),
    "scale": ("auto", "linear", "log", "quantile", "cube", 0),
    "bins": (0, 1, 8, 64, 65, -1, 1.5, "8", None, 10**30),
    "values": ([], ["a"], ["a", "a"], [1, 1.0], ["\x00"], "ab", [None], [["a"]], {}, None),
    "max_values": (0, 1, 200, 5000, 5001, 1e3, "9"),
    "buckets": (0, 4, 256, 257, -1, True),
    "width": (0, 1, 64, 4096, 4097, 10**20),
    "size": (0, 1, 2, 9_999, 10_000, -3, 2.0, "2"),
    "shape": ([4, 4], [1, 4, 4], [8], [0, 2], [80, 80], [2, "2"], [1.5, 2], "4", {}, None),
    "type": (*_TYPES, "auto", "", None, 3, {}),
    "other": (1, {}, "x"),
}
_PATHS = ("age", "device", "at", "tags", "x", "v", "on", "id", "user", "k" * 256, "a.b.c", "a.d")
_GOOD: dict[str, dict[str, tuple[Any, ...]]] = {
    "number": {"scale": ("log", "quantile"), "bins": (0, 1, 64)},
    "category": {"buckets": (0, 256), "max_values": (1, 5000)},
    "categories": {"buckets": (0, 256)},
    "text": {"width": (1, 4096)},
    "hash": {"width": (1, 64)},
    "vector": {"size": (1, 2, 5000)},
    "image": {"shape": ([4, 4], [3, 4, 5])},
}


class HostileValues:
    """Makes hostile values.

    Args:
        rng: Makes every choice.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def _one(self, of: Sequence[Any]) -> Any:
        return of[int(self._rng.integers(len(of)))]

    def _chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    # -- JSON -------------------------------------------------------------------------------------

    def json_object(self) -> bytes:
        """Return an object as JSON, which may be none."""
        kind = self._rng.random()
        if kind < 0.04:
            return self._deep_json()
        if kind < 0.07:
            num = int(self._one((255, 256, 257, 2000)))
            return b"{%s}" % b",".join(b'"f%d":%d' % (n, n) for n in range(num))
        if kind < 0.10:
            return b'{"v":[%s]}' % b",".join([b"1"] * int(self._one((100, 101, 10_000, 10_001))))
        found = self._json_dict(0).encode("utf-8", "surrogatepass")
        if kind < 0.14:  # damaged: cut, or a byte that is no UTF-8
            at = int(self._rng.integers(1, len(found) + 1))
            return found[:at] if kind < 0.12 else found[:at] + b"\xff\xfe" + found[at:]
        return found

    def _deep_json(self) -> bytes:
        depth = int(self._one((3, 4, 5, 64, 500, 5_000)))
        opening, closing = self._one((('{"a":', "}"), ("[", "]"), ('{"a":[', "]}")))
        deep = f"{opening * depth}1{closing * depth}"
        return b'{"a":%s}' % deep.encode()

    def _json_dict(self, depth: int) -> str:
        num = int(self._rng.integers(0, 7))
        pairs = [(self._one(_KEYS), self._json_value(depth + 1)) for _ in range(num)]
        if pairs and self._chance(0.1):
            pairs.append((pairs[0][0], self._json_value(depth + 1)))  # a key that is given twice
        inner = ",".join(f"{self._json_text(key)}:{value}" for key, value in pairs)
        return f"{{{inner}}}"

    def _json_text(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=self._chance(0.5))

    def _json_value(self, depth: int) -> str:
        kind = self._rng.random()
        if kind < 0.30:
            return str(self._one(_NUMBERS))
        if kind < 0.60:
            return self._json_text(self._one(_TEXTS))
        if kind < 0.72:
            return str(self._one(("true", "false", "null")))
        if kind < 0.76:
            return str(self._one(_BROKEN))
        if depth > 3:
            return "1"
        if kind < 0.88:
            return f"[{','.join(self._json_value(depth + 1) for _ in range(self._few()))}]"
        return self._json_dict(depth)

    def _few(self) -> int:
        return int(self._rng.integers(0, 5))

    # -- msgpack ----------------------------------------------------------------------------------

    def packed_object(self) -> bytes:
        """Return an object as msgpack, which may be none."""
        kind = self._rng.random()
        if kind < 0.04:
            depth = int(self._one((4, 5, 100, 600, 5_000)))
            return b"\x81\xa1a" + bytes(self._one((b"\x81\xa1a", b"\x91"))) * depth + b"\x01"
        if kind < 0.08:  # lengths that lie
            return bytes(self._one((
                b"\xdf\xff\xff\xff\xff", b"\x81\xa1a\xdd\xff\xff\xff\xff",
                b"\x81\xa1a\xdb\xff\xff\xff\xff", b"\x81\xa1a\xc6\xff\xff\xff\xffab",
                b"\x81\xd9", b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
            )))  # fmt: skip
        found = self._packed_dict(0)
        if kind < 0.12:
            at = int(self._rng.integers(1, len(found) + 1))
            return found[:at] if kind < 0.10 else found[:at] + b"\xc1" + found[at:]
        return found

    def _packed_dict(self, depth: int) -> bytes:
        num = int(self._rng.integers(0, 7))
        keys = [self._packed_key() for _ in range(num)]
        if keys and self._chance(0.1):
            keys.append(keys[0])
        parts = [key + self._packed_value(depth + 1) for key in keys]
        return b"\xdf" + struct.pack(">I", len(parts)) + b"".join(parts)

    def _packed_key(self) -> bytes:
        if self._chance(0.9):
            return _packed_text(self._one(_KEYS).encode())
        return bytes(self._one((
            b"\x01", b"\xc0", b"\xc3", b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\xc4\x01a", b"\x91\x01",
            b"\x80", b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80",
        )))  # fmt: skip

    def _packed_value(self, depth: int) -> bytes:
        kind = self._rng.random()
        if kind < 0.2:
            return b"\xcb" + struct.pack(">d", self._one((
                0.0, -0.0, 1.0, 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), 1e30, 1e31,
            )))  # fmt: skip
        if kind < 0.4:
            return bytes(self._one((
                b"\0", b"\xff", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\0" * 7,
                b"\xce" + b"\xff" * 4, b"\xca\x7f\xc0\0\0", b"\xca\x3f\x80\0\0",
            )))  # fmt: skip
        if kind < 0.62:
            return _packed_text(self._one(_TEXTS).encode())
        if kind < 0.72:
            return bytes(self._one((b"\xc0", b"\xc2", b"\xc3")))
        if kind < 0.80:  # bytes, extensions, times, text that is no UTF-8
            return bytes(self._one((
                b"\xc4\x03abc", b"\xc4\0", b"\xd4\x05a", b"\xc7\x03\x7fabc", b"\xd6\xff\x65\0\0\0",
                b"\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\xc7\x0c\xff" + b"\xff" * 12,
                b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80", b"\xc1",
            )))  # fmt: skip
        if depth > 3:
            return b"\x01"
        if kind < 0.90:
            num = self._few()
            return (
                b"\xdc"
                + struct.pack(">H", num)
                + b"".join(self._packed_value(depth + 1) for _ in range(num))
            )
        return self._packed_dict(depth)

    # -- declarations -----------------------------------------------------------------------------

    def declaration(self) -> bytes:
        """Return the features of a bandit as JSON, which may declare none."""
        kind = self._rng.random()
        if kind < 0.15:
            return self.json_object()
        if kind < 0.20:
            num = int(self._one((255, 256, 257, 3000)))
            width = int(self._one((1, 38, 40, 4096)))
            fields = (b'"f%d":{"type":"hash","width":%d}' % (n, width) for n in range(num))
            return b"{%s}" % b",".join(fields)
        if kind < 0.60:
            return self._good_declaration()
        found: dict[str, Any] = {}
        for _ in range(int(self._rng.integers(1, 6))):
            found[self._one(_KEYS)] = self._field()
        if self._chance(0.5):
            found["*"] = self._one(("auto", "number", 1))
        text = json.dumps(found)
        if self._chance(0.1):
            text = text[:-1] + ', "age": "number", "age": "text"}'
        return text.encode()

    def _good_declaration(self) -> bytes:
        """Return features that are most likely accepted, at the ends of what is."""
        found: dict[str, Any] = {"*": "auto"} if self._chance(0.5) else {}
        for _ in range(int(self._rng.integers(1, 5))):
            kind = str(self._one(_TYPES))
            field: dict[str, Any] = {"type": kind, "log": self._one(("keep", "hash", "drop"))}
            field |= {name: self._one(of) for name, of in _GOOD.get(kind, {}).items()}
            found[str(self._one(_PATHS))] = field
        return json.dumps(found).encode()

    def _field(self) -> Any:
        if self._chance(0.3):
            return self._one((*_TYPES, "nmber", None, 7, [], "auto"))
        field: dict[str, Any] = {"type": self._one(_TYPES)}
        for _ in range(self._few()):
            name = str(self._one(tuple(_OPTIONS)))
            field[name] = self._one(_OPTIONS[name])
        return field


def _packed_text(data: bytes) -> bytes:
    return b"\xdb" + struct.pack(">I", len(data)) + data
