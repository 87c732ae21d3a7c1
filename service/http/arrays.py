"""Arrays as they come in requests, checked before anything uses them.

An array is nested lists of numbers or an envelope {dtype, shape, data} (data: base64 text, or
bytes in msgpack). `decode_envelope` needs no knowledge of the bandit; `conform` gives the array
the shape and dtype the bandit's configuration asks for.
"""

from __future__ import annotations

import binascii
import math
from base64 import b64decode
from typing import Any

import numpy as np

DTYPES: dict[str, np.dtype[Any]] = {
    "uint8": np.dtype("u1"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
}


def decode_envelope(value: Any) -> Any:
    """Return the array of an envelope, or `value` itself where it is none.

    Raises:
        ValueError: The envelope contradicts itself.
    """
    if not isinstance(value, dict):
        return value
    if set(value) != {"dtype", "shape", "data"}:
        raise ValueError("must be a list of numbers, or an envelope with dtype, shape and data")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}")
    shape, data = value["shape"], value["data"]
    if not isinstance(shape, list | tuple) or len(shape) > 8:
        raise ValueError("shape must be a list of sizes")
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in shape):
        raise ValueError("shape must be a list of sizes")
    if isinstance(data, str):
        try:
            data = b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"data is not base64: {error}") from error
    if not isinstance(data, bytes):
        raise ValueError("data must be bytes, or base64 text")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"data has {len(data)} bytes, shape and dtype need "
                         f"{math.prod(shape) * dtype.itemsize}")  # fmt: skip
    return np.frombuffer(data, dtype).reshape(shape)
