"""Arrays as they arrive in requests, decoded with types before anything uses them.

On the wire an array is evenly nested lists of numbers, or an envelope `{dtype, shape, data}` whose
`data` is base64 text in JSON and bytes in msgpack. A list is decoded as a list of floats, so a
text or a map inside it is refused by the decoder and never becomes a numpy array of objects.
Nothing here knows a bandit: `serving.inputs.conform` checks shape, dtype and size.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from bandexa_core.wording import in_words

MAX_DIMENSIONS = 4  # of a context; a matrix of action features has two
LONG_BYTES = 1 << 14  # of lists that are counted before they are decoded
MSGPACK_BYTES = 9 + 5 * (MAX_DIMENSIONS - 1)  # most for a number: its own, and lists of one
_OPENING = re.compile(rb"[\[ \t\r\n]*")
DTYPES: dict[str, np.dtype[Any]] = {
    "uint8": np.dtype("u1"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
}
ARRAY_SCHEMA: dict[str, Any] = {
    "title": "Array",
    "description": "Nested lists of numbers, or an envelope (data: base64; bytes in msgpack);"
    " an object, where the bandit has named features.",
    "anyOf": [
        {"type": "array", "items": {}},
        {
            "type": "object",
            "required": ["dtype", "shape", "data"],
            "additionalProperties": False,
            "properties": {
                "dtype": {"enum": list(DTYPES)},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "data": {"type": "string", "contentEncoding": "base64"},
            },
        },
        {"type": "object"},
    ],
}

Size = Annotated[int, Meta(ge=0, le=2**31)]


class Envelope(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """An array as bytes: C order, little endian."""

    dtype: Literal["uint8", "int64", "float32", "float64"]
    shape: Annotated[list[Size], Meta(max_length=8)]
    data: bytes

    def array(self) -> NDArray[Any]:
        """Return the array, read-only, without a copy of its bytes.

        Raises:
            ValueError: The number of bytes does not match shape and dtype.
        """
        dtype = DTYPES[self.dtype]
        needed = math.prod(self.shape) * dtype.itemsize
        if len(self.data) != needed:
            raise ValueError(f"data has {len(self.data)} bytes, shape and dtype need {needed}")
        return np.frombuffer(self.data, dtype).reshape(self.shape)


# What one action's features are: numbers, an object with named features, or an envelope.
ActionFeatures = list[float] | dict[str, Any]
NO_ARRAY = "must be a list of numbers, or an envelope with dtype, shape and data"
_TYPES: tuple[Any, ...] = (
    list[float] | Envelope,
    list[list[float]] | Envelope,
    list[list[list[float]]] | Envelope,
    list[list[list[list[float]]]] | Envelope,
)
_JSON = [msgspec.json.Decoder(kind) for kind in _TYPES]
_MSGPACK = [msgspec.msgpack.Decoder(kind) for kind in _TYPES]


def decode_array(raw: msgspec.Raw, *, packed: bool, most: int) -> NDArray[Any]:
    """Return the array that a part of a body holds.

    Args:
        raw: The part.
        packed: Whether the body is msgpack.
        most: The most numbers that it may have. Where it is much longer than they would be, it is
            refused before it is decoded: a number on the wire is smaller than one in memory.

    Raises:
        ValueError: It is neither evenly nested lists of numbers nor a consistent envelope.
    """
    if len(memoryview(raw)) > LONG_BYTES and _has_more(raw, most, packed=packed):
        raise ValueError(f"has more than the {most} numbers it needs")
    decoders = _MSGPACK if packed else _JSON
    try:
        value = decoders[0].decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        depth = _msgpack_depth(raw) if packed else _json_depth(raw)
        if not 1 < depth <= MAX_DIMENSIONS:
            raise _refusal(error, depth) from error
        try:
            value = decoders[depth - 1].decode(raw)
        except msgspec.DecodeError as second:
            raise _refusal(second, depth) from second
    return array_of(value)


def _has_more(raw: msgspec.Raw, most: int, *, packed: bool) -> bool:
    """Whether lists hold more than `most` numbers, as far as their bytes show it."""
    view = memoryview(raw)
    if packed:
        return _msgpack_depth(raw) > 0 and len(view) > MSGPACK_BYTES * most
    return _json_depth(raw) > 0 and bytes(view).count(b",") >= most


def convert_array(value: Any) -> NDArray[Any]:
    """Return the array that a decoded value holds.

    Raises:
        ValueError: It is neither evenly nested lists of numbers nor a consistent envelope.
    """
    depth = _depth(value)
    try:
        found = msgspec.convert(value, _TYPES[min(max(depth, 1), MAX_DIMENSIONS) - 1])
    except (msgspec.ValidationError, OverflowError) as error:
        raise _refusal(error, depth) from error
    return array_of(found)


def array_of(value: Any) -> NDArray[Any]:
    """Return the array of a typed value: nested lists of floats, or an envelope.

    Raises:
        ValueError: The lists are uneven, the envelope contradicts itself, or it is an object.
    """
    if isinstance(value, dict):
        value = _envelope(value)
    if isinstance(value, Envelope):
        return value.array()
    try:
        return np.array(value, np.float64)
    except ValueError:
        raise ValueError("must be evenly nested lists of numbers") from None


def stacked(rows: list[Any]) -> NDArray[Any]:
    """Return rows of features, lists or envelopes, as one matrix (K, A).

    Raises:
        ValueError: A row is no vector, or the rows differ in length.
    """
    if not any(isinstance(row, dict) for row in rows):
        try:
            return np.array(rows, np.float64).reshape(len(rows), -1)
        except ValueError:
            raise ValueError("features must be numbers, as many for each action") from None
    arrays = [array_of(row) for row in rows]
    if len({array.shape for array in arrays}) > 1:
        raise ValueError("features must be numbers, as many for each action")
    return np.stack(arrays)


def is_envelope(value: Any) -> bool:
    """Whether a decoded value has the keys of an envelope, and a dtype of one."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data"}:
        return False
    dtype = value["dtype"]
    return isinstance(dtype, str) and dtype in DTYPES and isinstance(value["shape"], list)


def _envelope(value: dict[str, Any]) -> Envelope:
    try:
        return msgspec.convert(value, Envelope)
    except (msgspec.ValidationError, OverflowError) as error:
        raise ValueError(NO_ARRAY) from error


def _refusal(error: Exception, depth: int) -> ValueError:
    message, _, place = str(error).replace("`None`", "`null`").partition(" - at `$")
    place = place.removesuffix("`").removeprefix(".")
    text = "must be evenly nested lists of numbers" if depth else NO_ARRAY
    return ValueError(f"{text} ({place}: {in_words(message)})" if place else text)


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list | tuple) and depth <= MAX_DIMENSIONS:
        depth += 1
        if not value:
            break
        value = value[0]
    return depth


def _json_depth(raw: msgspec.Raw) -> int:
    """Return how many lists open before the first number."""
    opening = _OPENING.match(memoryview(raw))
    return 0 if opening is None else opening.group().count(b"[")


def _msgpack_depth(raw: msgspec.Raw) -> int:
    """Return how many arrays open before the first number."""
    view, depth, at = memoryview(raw), 0, 0
    while at < len(view) and depth <= MAX_DIMENSIONS:
        if 0x90 <= view[at] <= 0x9F:
            at += 1
        elif view[at] in (0xDC, 0xDD):
            at += 3 if view[at] == 0xDC else 5
        else:
            break
        depth += 1
    return depth
