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
from numpy.typing import NDArray

from bandexa_core.spec import MAX_REWARD
from service.exceptions import InvalidRequest

DTYPES: dict[str, np.dtype[Any]] = {
    "uint8": np.dtype("u1"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
}

# Products of such numbers stay far below what a posterior refuses (rows.MAX_NORM): whatever is
# answered can be learned from.
MAX_SIZE = MAX_REWARD


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


def conform(value: Any, shape: tuple[int, ...], dtype: str, field: str) -> NDArray[Any]:
    """Return `value` as a finite, read-only array of exactly this shape and dtype.

    Raises:
        InvalidRequest: It cannot be one; names `field`.
    """
    if isinstance(value, np.ndarray):
        array = value
    else:
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError) as error:
            raise InvalidRequest(field, "must be evenly nested lists of numbers") from error
    if array.dtype.kind not in "iuf" and array.size:
        raise InvalidRequest(field, "must be evenly nested lists of numbers")
    if array.shape != shape:
        raise InvalidRequest(field, f"has shape {list(array.shape)}, needs {list(shape)}")
    # Before anything is cast, so that nothing overflows; the comparison is false for NaN, too.
    if dtype != "uint8" and array.size:
        size = np.maximum.reduce(np.abs(array), axis=None)
        if not size <= MAX_SIZE:
            raise InvalidRequest(field, f"must hold finite numbers, at most {MAX_SIZE:g} in size")
    if array.dtype == dtype:
        out = array if array.dtype.isnative and array.flags.c_contiguous else array.copy()
    elif dtype == "uint8":
        if not ((array >= 0) & (array <= 255) & (array == np.floor(array))).all():
            raise InvalidRequest(field, "must hold whole numbers from 0 to 255")
        out = array.astype(np.uint8)
    else:
        out = array.astype(dtype)
    out.setflags(write=False)
    return out
