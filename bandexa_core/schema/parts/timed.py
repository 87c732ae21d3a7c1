"""A time: where it is in the day and in the week, as points on circles, and how long ago."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from bandexa_core.schema.observed import CONVERTED, OK, WRONG
from bandexa_core.schema.parts.part import BOUND, Part, Write, is_scale, require
from bandexa_core.schema.values import DAY_S, as_time, is_date

SIDES = ("day_sin", "day_cos", "week_sin", "week_cos", "weekend", "age")
_WEEK_S = 7 * DAY_S
_MONDAY_S = 3 * DAY_S  # 1 January 1970 was a Thursday
_DAY_TURN, _WEEK_TURN = 2.0 * math.pi / DAY_S, 2.0 * math.pi / _WEEK_S
AGE_UNIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class TimePart(Part):
    """A time by up to six columns, of which those that never varied are left out.

    Attributes:
        sides: The names of the columns, out of `SIDES`.
        newest: The newest time behind the encoding, in Unix seconds: age is relative to it.
        mean: Of the age's logarithm.
        std: Of the age's logarithm.
    """

    kind: ClassVar[str] = "time"

    sides: tuple[str, ...]
    newest: float
    mean: float
    std: float

    def __post_init__(self) -> None:
        require(self.sides == tuple(s for s in SIDES if s in self.sides), "sides in their order")
        require(math.isfinite(self.newest), "a finite newest time")
        require(is_scale(self.mean, self.std, 1.0), "a usable scale")

    def _names(self) -> Iterable[str]:
        return (f"@{side}" for side in self.sides)

    def writer(self, first: int) -> Write:
        """Return the function that writes values into columns from number `first` on."""
        kept = tuple(SIDES.index(side) for side in self.sides)
        newest, mean, std = self.newest, self.mean, self.std
        missing = first + len(kept) if self.missing else None

        def write(value: Any, out: array[float], base: int) -> int:
            time = as_time(value)
            if time is None:
                return WRONG
            instant, local = time
            scaled = (log_age(instant, newest) - mean) / std
            sides = (*cycles(local), min(max(scaled, -BOUND), BOUND))
            at = base + first
            for side in kept:
                out[at] = sides[side]
                at += 1
            if missing is not None:
                out[base + missing] = 0.0
            return CONVERTED if type(value) is str and not is_date(value) else OK

        return write


def cycles(local: float) -> tuple[float, float, float, float, float]:
    """Return sine and cosine of the time of day and of the week from Monday on, and the weekend.

    Args:
        local: Seconds of a local clock, as `as_time` returns them.
    """
    of_week = (local + _MONDAY_S) % _WEEK_S
    day, week = (local % DAY_S) * _DAY_TURN, of_week * _WEEK_TURN
    weekend = 1.0 if of_week >= 5 * DAY_S else 0.0
    return math.sin(day), math.cos(day), math.sin(week), math.cos(week), weekend


def log_age(instant: float, newest: float) -> float:
    """Return log(1 + age in hours), 0 for times after the newest one."""
    return math.log1p(max(newest - instant, 0.0) / AGE_UNIT_S)
