"""What answers show of contexts and action features: numbers, or objects with their names."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.schema import from_bytes
from bandexa_core.spec.inputs import ContextSpec
from service.http.schemas.explained import ContextArray
from service.store.objects import trimmed

MAX_VALUES = 1024  # of a context that are shown as numbers


def shown_object(data: NDArray[Any]) -> dict[str, Any]:
    """Return the object of some bytes, with or without zeros behind them."""
    return from_bytes(trimmed(data).tobytes() or b"{}")


def shown_features(rows: NDArray[Any]) -> list[Any]:
    """Return the features of actions, (N, A): a list of numbers or an object each."""
    if rows.dtype == np.uint8:
        return [shown_object(row) for row in rows]
    found: list[Any] = rows.tolist()
    return found


def shown_context(spec: ContextSpec, context: NDArray[Any]) -> ContextArray:
    """Return a recorded context."""
    data = base64.b64encode(context.tobytes()).decode()
    if spec.features is not None:
        return ContextArray(
            dtype="json", shape=[], data=data, values=None, object=shown_object(context)
        )
    return ContextArray(
        dtype=str(context.dtype),
        shape=list(context.shape),
        data=data,
        values=context.ravel().tolist() if context.size <= MAX_VALUES else None,
    )
