"""How fast old rewards lose weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

# The number of forgetting steps per half-life (2.2 % each).
FORGETTING_CELLS = 32
LEAST_HALF_LIFE = {"count": 32.0, "time": 60.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgettingSpec:
    """How fast old rewards lose weight, for rewards that drift.

    Attributes:
        by: "count": the half-life is in log rows (one per learned value); "time": in seconds.
        half_life: A reward of this age has half its initial weight; None: nothing is forgotten.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    by: Literal["count", "time"] = "count"
    half_life: float | None = None

    def __post_init__(self) -> None:
        if self.by not in LEAST_HALF_LIFE:
            raise ValueError("by: must be count or time")
        least = LEAST_HALF_LIFE[self.by]
        if self.half_life is not None and not least <= self.half_life <= 1e12:
            raise ValueError(f"half_life: must be {least:g} to 1e12 where by is {self.by}")
