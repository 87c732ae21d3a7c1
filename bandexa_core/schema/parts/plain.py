"""Truth values, and fields that never varied."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from bandexa_core.schema.observed import CONVERTED, OK, WRONG
from bandexa_core.schema.parts.part import Part, Write
from bandexa_core.schema.values import as_truth


@dataclass(frozen=True, slots=True)
class BoolPart(Part):
    """1 where the value is true, else 0."""

    kind: ClassVar[str] = "bool"

    def _names(self) -> Iterable[str]:
        return ("",)

    def writer(self, first: int) -> Write:
        """Return the function that writes values into columns from number `first` on."""
        missing = first + 1 if self.missing else None

        def write(value: Any, out: array[float], base: int) -> int:
            truth = value if value is True or value is False else as_truth(value)
            if truth is None:
                return WRONG
            if truth:
                out[base + first] = 1.0
            if missing is not None:
                out[base + missing] = 0.0
            return OK if truth is value else CONVERTED

        return write


@dataclass(frozen=True, slots=True)
class ConstantPart(Part):
    """A field that is known but says nothing: its value was the same in all rows that had one."""

    kind: ClassVar[str] = "constant"

    def _names(self) -> Iterable[str]:
        return ()

    def writer(self, first: int) -> Write:
        """Return the function that writes values into columns from number `first` on."""

        def pass_by(value: Any, out: array[float], base: int) -> int:
            return OK

        def write(value: Any, out: array[float], base: int) -> int:
            out[base + first] = 0.0
            return OK

        return write if self.missing else pass_by
