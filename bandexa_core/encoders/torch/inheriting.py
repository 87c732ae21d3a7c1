"""A network whose inputs have other columns than before goes on from what it knows.

When an encoding of named features is fitted anew, a network of other input sizes takes the place
of the present one. Its input layers have the weights of the columns that stay, wherever they stand
now, and new weights for new columns; everything behind them is as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bandexa_core.encoders.torch.module import EncoderModule

Places = Mapping[str, NDArray[np.intp]]
Sides = Sequence[tuple[str, int]]


def spread(module: EncoderModule, norms: Mapping[str, float]) -> None:
    """Widen the initial weights of the input layers, for inputs that are mostly zeros.

    Initial weights suit inputs that are all about 1 in size. Where few of many columns are not 0,
    sums of so few weights are small, and products of what is learned of both sides are smaller
    still: the prior would hardly expect any. Their variance is that of 1 / |inputs|^2 afterwards,
    where it was that of 1 / columns.

    Args:
        module: A new network.
        norms: For each side, the mean squared length of its rows.
    """
    parameters = dict(module.named_parameters())
    for name, sides in module.input_sides().items():
        columns = sum(size for _, size in sides)
        norm = sum(norms.get(side, float(size)) for side, size in sides)
        if 0.0 < norm < columns:
            with torch.no_grad():
                parameters[name].mul_(math.sqrt(columns / norm))


def inherit(new: EncoderModule, old: EncoderModule, places: Places) -> None:
    """Copy into `new` what `old` knows.

    Args:
        new: A network of the same configuration with other input columns.
        old: The network so far.
        places: For each side, "x" or "a", whose columns may have moved: which one each column was;
            -1: it is new.
    """
    known, inputs, before = old.state_dict(), new.input_sides(), old.input_sides()
    state = {}
    for name, start in new.state_dict().items():
        if name in inputs:
            state[name] = _moved(start, known[name], inputs[name], before[name], places)
        else:
            state[name] = known[name] if known[name].shape == start.shape else start
    new.load_state_dict(state)


def inherited_state(
    tensors: Mapping[str, NDArray[Any]], new: EncoderModule, old: EncoderModule, places: Places
) -> dict[str, NDArray[Any]]:
    """Return the training state of `old` as that of `new`; see `inherit`.

    The optimizer knows nothing of new columns: their moments are 0.
    """
    parameters = dict(new.named_parameters())
    inputs, before = new.input_sides(), old.input_sides()
    out = {}
    for name, tensor in tensors.items():
        owner = name.partition("/encoder/")[2]
        if tensor.ndim == 0 or owner not in parameters:  # a number of steps, or of a head
            out[name] = tensor
        elif owner in inputs:
            start = torch.zeros_like(parameters[owner])
            known = torch.from_numpy(np.array(tensor))
            moved = _moved(start, known, inputs[owner], before[owner], places)
            out[name] = moved.detach().numpy()
        elif tensor.shape == parameters[owner].shape:
            out[name] = tensor
    return out


def _moved(start: Tensor, known: Tensor, now: Sides, before: Sides, places: Places) -> Tensor:
    """Return the weights (H, inputs) of an input layer: `known`, with their columns moved."""
    out, first, first_known = start.detach().clone(), 0, 0
    for (side, size), (_, size_before) in zip(now, before, strict=True):
        was = places.get(side, np.arange(size))
        stay = np.flatnonzero(was >= 0)
        out[:, first + stay] = known[:, first_known + was[stay]]
        first, first_known = first + size, first_known + size_before
    return out
