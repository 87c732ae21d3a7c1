"""Fixtures that several tests of the simulators share."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def idx() -> Callable[[np.ndarray], bytes]:
    """Encode uint8 values as an idx file: magic number, sizes big-endian, bytes."""

    def encode(values: np.ndarray) -> bytes:
        sizes = struct.pack(f">{values.ndim}I", *values.shape)
        return struct.pack(">HBB", 0, 8, values.ndim) + sizes + values.tobytes()

    return encode
