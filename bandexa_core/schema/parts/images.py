"""An image beside other fields: a column per pixel, for an encoder that looks at them together."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from bandexa_core.schema.observed import OK, WRONG
from bandexa_core.schema.parts.part import Part, Write, require
from bandexa_core.schema.values import as_image

_SHARES = tuple(value / 255.0 for value in range(256))


@dataclass(frozen=True, slots=True)
class ImagePart(Part):
    """The pixels, row by row, as fractions of 255; all are 0 where the image is missing.

    Unlike other fields, it has all of its columns whether they vary or not.

    Attributes:
        shape: (H, W) or (C, H, W).
    """

    kind: ClassVar[str] = "image"

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        require(len(self.shape) in (2, 3) and min(self.shape) >= 1, "two or three sizes")

    @property
    def size(self) -> int:
        """How many pixels there are, those of all channels counted."""
        return math.prod(self.shape)

    def _names(self) -> Iterable[str]:
        return (f"[{place}]" for place in range(self.size))

    def writer(self, first: int) -> Write:
        """Return the function that writes values into columns from number `first` on."""
        shape, size = self.shape, self.size
        missing = first + size if self.missing else None

        def write(value: Any, out: array[float], base: int) -> int:
            pixels = as_image(value, shape)
            if pixels is None:
                return WRONG
            start = base + first
            out[start : start + size] = array("f", [_SHARES[pixel] for pixel in pixels])
            if missing is not None:
                out[base + missing] = 0.0
            return OK

        return write
