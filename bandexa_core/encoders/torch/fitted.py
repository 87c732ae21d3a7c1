"""Encoders that a round fits to rows at once: nothing in them is trained by steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bandexa_core.encoders.protocol import Array64
from bandexa_core.encoders.torch.module import SplitModule
from bandexa_core.schema.shared import SharedColumns

GROWTH = 1.25  # of the rows behind a fit, before the next one


class Side(NamedTuple):
    """The columns of contexts or of actions.

    Attributes:
        rows: Those of learned rows, as the encoder takes them, (N, columns).
        fields: For each column, the number of its field.
        names: The name of each field.
    """

    rows: Array64
    fields: NDArray[np.intp]
    names: Sequence[str]


class Sample(NamedTuple):
    """Learned rows that an encoder is fitted to.

    Attributes:
        x, a: Contexts and actions.
        rewards: Their rewards, (N,).
        offered: The actions that may be chosen, (K, columns).
        shared: Columns of both sides that stand for the same values.
        num_rows: Learned values so far.
        seed: Draws rows.
    """

    x: Side
    a: Side
    rewards: Array64
    offered: Array64
    shared: Sequence[SharedColumns]
    num_rows: int
    seed: int


class FittedModule(SplitModule):
    """An encoder that is fitted anew when the rows have grown by a quarter.

    Attributes:
        num_rows: The learned values behind it, a buffer.
    """

    num_rows: Tensor

    def is_due(self, num_rows: int) -> bool:
        """Whether it is to be fitted anew at `num_rows` learned values."""
        return num_rows >= GROWTH * float(self.num_rows)

    def fit(self, sample: Sample) -> dict[str, float]:
        """Fit it; return what was found, as metrics of the round."""
        raise NotImplementedError  # pragma: no cover - abstract

    def _hold(self, **starts: Tensor) -> None:
        """Register what is fitted as buffers in float64."""
        for name, start in (starts | {"num_rows": torch.zeros(())}).items():
            self.register_buffer(name, start.to(torch.float64))

    def _fill(self, **found: Array64 | NDArray[np.intp]) -> None:
        """Take what was found into buffers that may have room for more."""
        for name, value in found.items():
            buffer = getattr(self, name)
            buffer.zero_()
            buffer[: len(value)] = torch.from_numpy(np.asarray(value, np.float64))
