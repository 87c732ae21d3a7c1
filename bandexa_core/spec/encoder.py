"""Which encoder turns inputs into features, and its parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

AUTO = "auto"
CROSSES = "crosses"  # the encoder of linear policies with named features
MAX_PARAMS_DEPTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """An encoder by its registered name, with that encoder's parameters.

    Attributes:
        name: A fixed map, a built-in learned encoder, or one that the server registers; "auto" is
            chosen by policy and shape at creation, and is named from then on.
        params: The keyword parameters of a learned encoder; fixed maps take none.
        standardize: Subtract the mean of every float input and divide by its standard deviation.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    name: str = AUTO
    params: dict[str, Any] = field(default_factory=dict)
    standardize: bool = True

    def __post_init__(self) -> None:
        _check_json("params", self.params, MAX_PARAMS_DEPTH)


def _check_json(field_name: str, value: Any, depth: int) -> None:
    """Refuse a value that JSON cannot represent, or that nests deeper than `depth` (ValueError)."""
    if depth < 0:
        raise ValueError(f"{field_name}: nested too deeply")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_json(field_name, str(key), depth)
            _check_json(field_name, item, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_json(field_name, item, depth - 1)
    elif isinstance(value, str):
        if any(0xD800 <= ord(character) < 0xE000 for character in value):
            raise ValueError(f"{field_name}: must hold valid text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{field_name}: must hold finite numbers")
    elif value is not None and not isinstance(value, bool | int):
        raise ValueError(f"{field_name}: must hold JSON values, not {type(value).__name__}")
