"""The reward heads in the state of an encoder's training, when actions get other slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEAD = "head/"


def renumbered_heads(
    tensors: Mapping[str, NDArray[Any]], slots: Mapping[int, int], num: int
) -> dict[str, NDArray[Any]]:
    """Return the state of a training with one head per action, for other slots.

    Args:
        tensors: The state: `EncoderTrainer.tensors`.
        slots: The new slot of each old one; a head of any other is dropped.
        num: How many slots there are now. A new one starts from zeros.
    """
    out = dict(tensors)
    for name, tensor in tensors.items():
        if _HEAD not in name or tensor.ndim == 0:  # an optimizer's number of steps is a scalar
            continue
        heads = np.zeros((num, *tensor.shape[1:]), tensor.dtype)
        for old, new in slots.items():
            if old < len(tensor):
                heads[new] = tensor[old]
        out[name] = heads
    return out
