"""msgpack, as the store writes and hashes it.

msgspec writes the bytes that the msgpack package writes, in a tenth of the time: both use the
shortest form of a number, a text, bytes, a list and a map. So hashes of logs that were written
before are the same.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
UNPACKING_ERRORS = msgspec.DecodeError, ValueError, TypeError


def _plain(value: Any) -> Any:
    """Return a number or text of numpy as one of Python."""
    for kind in (float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{type(value).__name__} cannot be stored")


pack = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def unpacker(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    """Return what decodes values of one type; it raises `msgspec.DecodeError`."""
    return msgspec.msgpack.Decoder(kind)
