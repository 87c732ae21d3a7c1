"""Objects with named features: as they are stored, and as rows of one size.

A model and its log rows have an object as its JSON, with zeros behind it: as many as make it as
long as the bandit allowed when it was created. The store has the JSON alone, and so do the
records of decisions. A limit that changes thus changes nothing that is stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.policies.named_inputs import object_of, padded
from bandexa_core.schema.personal import identity
from bandexa_core.spec.inputs import ActionsSpec, ContextSpec


def trimmed(row: NDArray[Any]) -> NDArray[Any]:
    """Return an object's bytes, uint8 (R,), without the zeros behind them; JSON has no zero."""
    return row[: np.count_nonzero(row)]


def row_identity(row: NDArray[Any]) -> bytes:
    """Return the same bytes for all objects, uint8 (R,), that say the same: see `identity`."""
    return identity(object_of(row))


def recorded_context(spec: ContextSpec, data: bytes) -> NDArray[Any]:
    """Return a stored context as the record of a decision has it.

    Raises:
        ValueError: The bytes have another size than an array of the bandit.
    """
    if spec.shape is None:
        return np.frombuffer(data, np.uint8)
    return np.frombuffer(data, spec.dtype).reshape(spec.shape)


def context_row(spec: ContextSpec, context: NDArray[Any]) -> NDArray[Any]:
    """Return a recorded context as it is learned from: of one size, see `_row`."""
    return context if spec.shape is not None else _row(context, spec.max_bytes)


def learned_context(spec: ContextSpec, data: bytes) -> NDArray[Any]:
    """Return a stored context as it is learned from; see `recorded_context` and `context_row`."""
    if spec.shape is None:
        return context_row(spec, recorded_context(spec, data))
    return np.frombuffer(data, spec.dtype).reshape(spec.shape)


def learned_action(spec: ActionsSpec, data: bytes | str) -> NDArray[Any]:
    """Return stored features as they are learned from; see `recorded_action` and `action_row`."""
    if spec.features is None and not isinstance(data, str):
        return np.frombuffer(data, np.float32)
    return action_row(spec, recorded_action(data))


def packed_action(features: NDArray[Any]) -> bytes | str:
    """Return recorded features of an action for msgpack: JSON as text, numbers as bytes."""
    data = features.tobytes()
    return data.decode() if features.dtype == np.uint8 else data


def recorded_action(data: bytes | str) -> NDArray[Any]:
    """Return what `packed_action` wrote."""
    if isinstance(data, str):
        return np.frombuffer(data.encode(), np.uint8)
    return np.frombuffer(data, np.float32)


def action_row(spec: ActionsSpec, features: NDArray[Any]) -> NDArray[Any]:
    """Return recorded features of an action as they are learned from: of one size, see `_row`."""
    return features if spec.features is None else _row(features, spec.max_bytes)


def _row(array: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Return an object as a row of `size` bytes, or of more where it is longer.

    The limit may have been another one when it was accepted.
    """
    data = array.tobytes().rstrip(b"\0")
    return padded(data, max(size, len(data)))


def packed_rows(rows: NDArray[Any]) -> bytes | list[bytes]:
    """Return the features of several actions, (N, A), for msgpack: each object, or all numbers."""
    if rows.dtype == np.uint8:
        return [trimmed(row).tobytes() for row in rows]
    return rows.astype("<f4").tobytes()


def unpacked_rows(data: bytes | list[bytes], num: int, size: int) -> NDArray[Any]:
    """Return the features of `num` actions that `packed_rows` wrote, (num, size).

    Rows of objects are wider where one of them is longer.

    Raises:
        ValueError: They are of another number or size.
    """
    if isinstance(data, bytes):
        return np.frombuffer(data, np.dtype("<f4")).reshape(num, size)
    if len(data) != num:
        raise ValueError(f"{len(data)} objects of {num} actions")
    rows = np.zeros((num, max(size, max(map(len, data), default=0))), np.uint8)
    for row, each in zip(rows, data, strict=True):
        row[: len(each)] = np.frombuffer(each, np.uint8)
    rows.setflags(write=False)
    return rows


def stored_bytes(rows: NDArray[Any]) -> int:
    """Return how many bytes the store takes for the features of actions, about."""
    return int(np.count_nonzero(rows)) if rows.dtype == np.uint8 else rows.nbytes
