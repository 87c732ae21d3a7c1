"""What contexts and actions of a bandit are, and how values of other logs become such.

Other logs have objects: names and values. A bandit with named features takes these as they are. One
with numbers takes objects whose keys are the places 0, 1, ..., and what its own export wrote.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

NUMBERS, FEATURES = "x", "f"  # the keys under which `dsjson` exports a context, and features


class Unfit(ValueError):
    """A row that the bandit cannot take; the message says why."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The form of a bandit's contexts and actions.

    Attributes:
        context_shape: That of contexts; None: they are objects.
        has_objects: Whether features of actions are objects.
        action_dim: How many numbers they are otherwise.
        has_metrics: Whether it learns of metrics.
    """

    context_shape: tuple[int, ...] | None
    has_objects: bool
    action_dim: int
    has_metrics: bool = False

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """Return that of a configuration."""
        context, actions = spec["context"], spec.get("actions") or {}
        shape = None if context.get("features") else tuple(context["shape"])
        return cls(
            shape, bool(actions.get("features")), int(spec.get("action_dim") or 0),
            has_metrics=bool((spec.get("rewards") or {}).get("learn")),
        )  # fmt: skip

    @property
    def has_action_features(self) -> bool:
        """Whether actions have features."""
        return self.has_objects or self.action_dim > 0

    def context(self, value: Any) -> Any:
        """Return a context for this bandit.

        Raises:
            Unfit: It cannot be one.
        """
        if self.context_shape is None:
            if not isinstance(value, dict):
                raise Unfit("context: has no names, and the bandit has named features")
            return value
        if isinstance(value, dict) and value.keys() == {NUMBERS}:
            value = value[NUMBERS]
        if not isinstance(value, dict) or value.keys() == {"dtype", "shape", "data"}:
            return value
        if len(self.context_shape) != 1:
            raise Unfit(f"context: has names, and the bandit takes arrays of {self.context_shape}")
        return _numbers(value, self.context_shape[0], "context")

    def features(self, value: Any) -> Any:
        """Return the features of an action for this bandit; None: it has none.

        Raises:
            Unfit: They cannot be such.
        """
        if not self.has_action_features or value is None:
            return None
        if self.has_objects:
            if not isinstance(value, dict):
                raise Unfit("features: have no names, and the bandit has named features of actions")
            return value
        if isinstance(value, dict) and value.keys() == {FEATURES}:
            value = value[FEATURES]
        if isinstance(value, dict):
            return _numbers(value, self.action_dim, "features") if value else None
        return value


def _numbers(value: Mapping[str, Any], size: int, what: str) -> list[float]:
    """Return the numbers whose places are the keys of an object; those that are missing are 0."""
    found = [0.0] * size
    for name, number in value.items():
        place = int(name) if name.isascii() and name.isdigit() else -1
        if not 0 <= place < size:
            raise Unfit(f"{what}: {name!r} is none of the places 0 to {size - 1} of the bandit")
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise Unfit(f"{what}.{name}: {number!r} is no number")
        found[place] = float(number)
    return found


def finite(value: Any, what: str) -> float:
    """Return a number of a file.

    Raises:
        Unfit: It is no finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise Unfit(f"{what}: {value!r} is no finite number")
    return number
