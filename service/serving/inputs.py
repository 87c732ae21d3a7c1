"""Arrays of a request, checked against the bandit's configuration before anything uses them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.spec import MAX_REWARD
from service.store.errors import InvalidRequest

# Products of such numbers stay far below what a posterior refuses (rows.MAX_NORM): whatever is
# answered can be learned from.
MAX_SIZE = MAX_REWARD


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
    # Checked before any cast, so that nothing overflows; the comparison is false for NaN, too.
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
