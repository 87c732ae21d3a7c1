"""Sums of what actions and arms earn, and of the lift over an arm, as the aggregates store them.

Each has a fixed size and is text for the file. Intervals hold whenever one looks (see
`bandexa_core.evaluation`): those of a declared `reward_range` at any number of values; without one
they are asymptotic, and there is none before 100 values.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.evaluation import (
    Asymptotic,
    Interval,
    LiftSequence,
    MeanSequence,
    Mixture,
    mixture_bound,
)
from service.serving.standing import EarnedByAction, Estimated

Kind = Literal["action", "arm", "lift"]
Range = tuple[float, float]
Values = NDArray[np.float64]
SEPARATOR = "\x1f"
METRIC, SEGMENT = "metric:", "segment:"
# Of an arm that follows a rule, and of a shadow: whether it agrees, what was earned where it does,
# and what was earned at all.
AGREES, MATCHED, WHOLE = "agrees", "matched", "whole"


class Key(NamedTuple):
    """Which sum: of an action, of an arm, or of the lift over an arm.

    Attributes:
        kind: What it is of.
        name: The action or arm.
        of: "": of all values; or of a metric or a segment alone (`METRIC` or `SEGMENT` before it).
    """

    kind: Kind
    name: str
    of: str = ""

    @property
    def stored(self) -> str:
        """The name under which it is stored."""
        return self.name + (SEPARATOR + self.of if self.of else "")

    @classmethod
    def of_stored(cls, kind: Kind, name: str) -> Key:
        """Return the key that is stored under a name."""
        return cls(kind, *name.split(SEPARATOR, 1))


@dataclass(frozen=True, slots=True)
class Sums:
    """The values of an action or an arm.

    Attributes:
        since: The log position from which its definition holds.
        state: The values.
    """

    since: int
    state: MeanSequence | Asymptotic

    @classmethod
    def new(cls, since: int, bounds: Range | None) -> Sums:
        """Return those of no value."""
        return cls(since, Asymptotic() if bounds is None else MeanSequence.new(*bounds))

    def add(self, values: Values) -> Sums:
        """Return those with more values, (N,)."""
        return replace(self, state=self.state.add(_inside(self.state, values)))

    def without(self, value: float) -> Sums:
        """Return those without one of the values."""
        inside = _inside(self.state, np.array([value]))
        return replace(self, state=self.state.without(float(inside[0])))

    def estimated(self) -> Estimated:
        """Return the mean and its interval."""
        return estimated_of(self.state)


@dataclass(frozen=True, slots=True)
class Lift:
    """The values of the bandit and of an arm, in the order they were learned.

    Attributes:
        since: The log position from which the definition of the arm holds.
        share: The arm's share among the two.
        state: The lift; of an asymptotic one the values D (see `LiftSequence`).
        num_centred, centre: Of an asymptotic one: how many rewards there were, and their mean.
    """

    since: int
    share: float
    state: LiftSequence | Asymptotic
    num_centred: int = 0
    centre: float = 0.0

    @classmethod
    def new(cls, since: int, bounds: Range | None, share: float) -> Lift:
        """Return that of no value."""
        if bounds is None:
            return cls(since, share, Asymptotic())
        return cls(since, share, LiftSequence.new(min(share, 1.0 - share), *bounds))

    def add(self, values: Values, is_bandit: NDArray[np.bool_]) -> Lift:
        """Return that with more values, (N,)."""
        if isinstance(self.state, LiftSequence):
            inside = _inside(self.state, values)
            return replace(self, state=self.state.add(inside, is_bandit, self.share))
        num = self.num_centred + np.arange(len(values) + 1)
        sums = self.num_centred * self.centre + np.concatenate(([0.0], np.cumsum(values)))
        centres = np.where(num > 0, sums / np.maximum(num, 1), values[0])
        weights = np.where(is_bandit, 1.0 / (1.0 - self.share), -1.0 / self.share)
        state = self.state.add(weights * (values - centres[:-1]))
        return replace(self, state=state, num_centred=int(num[-1]), centre=float(centres[-1]))

    def without(self, value: float, *, is_bandit: bool) -> Lift:
        """Return that without one of the values."""
        if isinstance(self.state, LiftSequence):
            (inside,) = _inside(self.state, np.array([value])).tolist()
            return replace(
                self, state=self.state.without(inside, is_arm=is_bandit, share=self.share)
            )
        num = self.num_centred - 1
        centre = (self.num_centred * self.centre - value) / num if num else 0.0
        weight = 1.0 / (1.0 - self.share) if is_bandit else -1.0 / self.share
        state = self.state.without(weight * (value - centre))
        return replace(self, state=state, num_centred=num, centre=centre)

    def estimated(self) -> Estimated:
        """Return the lift and its interval."""
        return estimated_of(self.state)


def _inside(state: MeanSequence | LiftSequence | Asymptotic, values: Values) -> Values:
    """Return values as they count: at the end of the range, where they are beyond that."""
    if isinstance(state, Asymptotic):
        return values
    return np.minimum(np.maximum(values, state.low), state.high)  # as `clip`, which takes longer


def estimated_of(state: MeanSequence | LiftSequence | Asymptotic) -> Estimated:
    """Return the mean of a state, and its interval."""
    if not state.num:
        return Estimated(0, None, None)
    if isinstance(state, Asymptotic):
        reach = state.reach()
        interval = Interval(state.mean - reach, state.mean + reach) if np.isfinite(reach) else None
        return Estimated(state.num, state.mean, interval)
    mean = state.lift if isinstance(state, LiftSequence) else state.mean
    return Estimated(state.num, mean, state.interval())


def estimated_together(found: Sequence[Sums]) -> list[Estimated]:
    """Return what `Sums.estimated` does for each; bounds of many take about as long as of one."""
    done: dict[int, Estimated] = {}
    states = [(n, s.state) for n, s in enumerate(found) if isinstance(s.state, MeanSequence)]
    counted = [(n, state) for n, state in states if state.num]
    if counted:
        sides = [side for _, state in counted for side in (state.lower, state.upper)]
        ends = mixture_bound(
            np.array([side.num for side in sides]), np.array([side.total for side in sides]),
            np.array([_spread(side) for side in sides]), 0.5 * counted[0][1].alpha, 0.0, 1.0,
        ).reshape(-1, 2)  # fmt: skip
        for (n, state), (lower, upper) in zip(counted, ends.tolist(), strict=True):
            span = state.high - state.low
            interval = Interval(state.low + span * lower, state.high - span * upper)
            done[n] = Estimated(state.num, state.mean, interval)
    return [done.get(n) or sums.estimated() for n, sums in enumerate(found)]


def top_actions(
    found: Iterable[tuple[str, Kind, str, str]], limit: int
) -> tuple[int, list[EarnedByAction]]:
    """Return how many actions have values, and what those with the most of them earned.

    `found`: Stored rows of one bandit: it, kind, name, sums.
    """
    actions: list[tuple[str, Sums]] = []
    metrics: dict[str, dict[str, str]] = defaultdict(dict)
    for _, kind, name, text in found:
        if kind != "action":
            continue
        key = Key.of_stored(kind, name)
        if key.of:
            metrics[key.name][key.of.removeprefix(METRIC)] = text
        elif isinstance(sums := unpacked(kind, text), Sums):
            actions.append((name, sums))
    actions.sort(key=lambda pair: (-pair[1].state.num, pair[0]))
    shown = actions[:limit]
    values = estimated_together([sums for _, sums in shown])
    earned = [
        EarnedByAction(
            name, value,
            {each: unpacked("action", text).estimated() for each, text in metrics[name].items()},
        )
        for (name, _), value in zip(shown, values, strict=True)
    ]  # fmt: skip
    return len(actions), earned


def _spread(side: object) -> float:
    assert isinstance(side, Mixture), "sums are made by that method"
    return side.spread


def packed(sums: Sums | Lift) -> str:
    """Return sums as text, for the aggregates' file."""
    state = sums.state
    whole: dict[str, Any] = {
        name: getattr(sums, name) for name in sums.__dataclass_fields__ if name != "state"
    }
    if isinstance(state, Asymptotic):
        whole["asymptotic"] = asdict(state)
    else:
        whole["state"] = state.to_json()
    return json.dumps(whole)


def unpacked(kind: Kind, text: str) -> Sums | Lift:
    """Return what `packed` was of."""
    whole = json.loads(text)
    if (found := whole.pop("asymptotic", None)) is not None:
        state: Any = Asymptotic(**found)
    else:
        sequence = LiftSequence if kind == "lift" else MeanSequence
        state = sequence.from_json(whole.pop("state"))
    return (Lift if kind == "lift" else Sums)(state=state, **whole)
