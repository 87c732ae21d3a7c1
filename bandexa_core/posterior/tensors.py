"""Reads a state out of a mapping of named tensors, with every check on it.

Pure functions. They return copies that share no memory with the mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bandexa_core.posterior.rows import FloatArray


def read_tensor(
    tensors: Mapping[str, npt.ArrayLike], name: str, shape: tuple[int, ...] | None
) -> FloatArray:
    """Return the named tensor as a float64 copy; `shape` None leaves its shape to the caller.

    Raises:
        ValueError: it is missing, has another shape or holds a number that is not finite.
    """
    if name not in tensors:
        raise ValueError(f"tensor {name!r} is missing")
    # C order, as the posterior wrote it: BLAS sums in another order over another layout.
    tensor = np.array(tensors[name], dtype=np.float64, order="C")
    if shape is not None and tensor.shape != shape:
        raise ValueError(f"tensor {name!r} must have shape {shape}, got {tensor.shape}")
    if not np.isfinite(tensor).all():
        raise ValueError(f"tensor {name!r} contains numbers that are not finite")
    return tensor


def read_scalar(tensors: Mapping[str, npt.ArrayLike], name: str, least: float) -> float:
    """Return the named tensor of one element as a float.

    Raises:
        ValueError: it is missing, not one finite number, or below `least`.
    """
    tensor = read_tensor(tensors, name, None)
    if tensor.size != 1 or tensor.item() < least:
        raise ValueError(f"tensor {name!r} must be one number of at least {least:g}")
    return float(tensor.item())


def take_prefix(
    tensors: Mapping[str, npt.NDArray[Any]], prefix: str
) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors whose name starts with `prefix`, without it."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
