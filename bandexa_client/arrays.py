"""Arrays in requests: nested lists, numpy arrays, or the envelope {dtype, shape, data}.

Numpy is never imported: an array is recognised by its attributes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

_SENT = ("uint8", "int64", "float32", "float64")


class NumericArray(Protocol):
    """The part of `numpy.ndarray` that is sent."""

    @property
    def dtype(self) -> Any:
        """Element type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    def astype(self, dtype: Any, /) -> Any:
        """Return the array with another element type."""

    def tobytes(self) -> bytes:
        """Return the elements in C order."""


Array = Sequence[object] | Mapping[str, object] | NumericArray
"""An array in a request: nested lists, a numpy array, or what `array_body` returns."""

Features = Array | Mapping[str, object]
"""A context, or the features of an action: an array, or a dict with named features.

A dict holds what JSON has, None for a missing value, and dicts in it; see the page on features.
"""


def array_body(dtype: str, shape: Sequence[int], data: bytes) -> dict[str, object]:
    """Return an array in its compact form: `data` is its bytes in C order, little endian.

    Nothing needs it for numpy arrays, which are sent in this form. It serves other sources of
    bytes.
    """
    return {"dtype": dtype, "shape": list(shape), "data": base64.b64encode(data).decode("ascii")}


def sendable(array: Features) -> Sequence[object] | Mapping[str, object]:
    """Return what stands for an array in a JSON body: an envelope for a numpy array.

    A dict with named features is returned as it is. Element types that the service does not take
    are converted: integers and booleans to int64, everything else to float64.
    """
    if isinstance(array, Sequence | Mapping):
        return array
    sent: NumericArray = array
    if str(sent.dtype) not in _SENT:
        exact = sent.dtype.kind in "bi" or (sent.dtype.kind == "u" and sent.dtype.itemsize < 8)
        sent = sent.astype("<i8" if exact else "<f8")
    return array_body(str(sent.dtype), sent.shape, sent.tobytes())


def rows(array: Array | Sequence[Mapping[str, object]], num_rows: int) -> list[object]:
    """Return the rows of an array, each as it is sent; of a list of dicts, each of them.

    Raises:
        ValueError: The array does not have `num_rows` rows.
    """
    sent = sendable(array)
    if not isinstance(sent, Mapping):
        if len(sent) != num_rows:
            raise ValueError(f"features: {len(sent)} rows for {num_rows} actions")
        return list(sent)
    shape: Any = sent.get("shape")
    if not shape or shape[0] != num_rows:
        raise ValueError(f"features: an array of shape {shape} for {num_rows} actions")
    data = base64.b64decode(str(sent.get("data")))
    size = len(data) // num_rows
    return [
        array_body(str(sent.get("dtype")), shape[1:], data[row * size : (row + 1) * size])
        for row in range(num_rows)
    ]
