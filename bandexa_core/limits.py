"""Limits of actions: when one is offered, and how probable its choice may be at least and at most.

Dates are compared with the wall time that a decision records, so that it can be decided again.

The probabilities p of the bandit's own choice are projected: q is as close to p (by the divergence
of Kullback and Leibler) as floors and caps allow, q(a) = clip(lambda p(a), floor, cap). The own
pick a stays with the probability min(1, q(a) / p(a)), and otherwise one is drawn by the rest of
q. So q is the law of what is chosen, exactly, and a decision whose probabilities are within the
limits is what it would be without them.

Of several places, each has the limits, as far as an action is not on the list at another place
already: see `projected_places`. A list is drawn with these probabilities by `rounding`.

Legend: K candidates, J places.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId

MAX_LIMITS = 1000  # actions with limits
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
Array64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSpec:
    """The limits of one action.

    Attributes:
        starts_at: From when on it is offered, a time such as 2026-12-24T00:00:00Z; None: at once.
        ends_at: Until when it is offered; None: for ever.
        floor: The least probability that the bandit chooses it where it is offered.
        max_share: The largest one.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    starts_at: str | None = None
    ends_at: str | None = None
    floor: float = 0.0
    max_share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("starts_at", "ends_at"):
            text = getattr(self, name)
            if text is not None:
                object.__setattr__(self, name, _canonical(name, text))
        begin, end = self.span
        if begin >= end:
            raise ValueError("ends_at: must be after starts_at")
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError("floor: must be 0 to 1")
        if not self.floor <= self.max_share <= 1.0:
            raise ValueError("max_share: must be floor to 1")

    @property
    def span(self) -> tuple[float, float]:
        """When it is offered, in seconds since the epoch; the end is not in it."""
        begin, end = self.starts_at, self.ends_at
        return (
            -math.inf if begin is None else datetime.fromisoformat(begin).timestamp(),
            math.inf if end is None else datetime.fromisoformat(end).timestamp(),
        )


def _canonical(name: str, text: str) -> str:
    """Return a time in UTC.

    Raises:
        ValueError: It is none, or has no offset; the message begins with the field.
    """
    problem = f"{name}: must be a time with an offset, such as 2026-12-24T00:00:00Z"
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(problem) from error
    if found.tzinfo is None:
        raise ValueError(problem)
    try:
        return found.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except OverflowError as error:
        raise ValueError(problem) from error


def check_limits(limits: Mapping[str, LimitSpec]) -> None:
    """Check the limits of several actions together.

    Raises:
        ValueError: The message begins with the field.
    """
    if len(limits) > MAX_LIMITS:
        raise ValueError(f"limits: at most {MAX_LIMITS} actions")
    for action in limits:
        if not _ID.fullmatch(action):
            raise ValueError(f"limits: {action!r} is not the id of an action")
    if sum(limit.floor for limit in limits.values()) > 1.0 + 1e-9:
        raise ValueError("limits: the sum of floors must be at most 1")


class Bounds(NamedTuple):
    """The least and the largest probability of each candidate, (K,) each."""

    low: Array64
    high: Array64


class Limits:
    """The limits of a configuration, as decisions need them."""

    def __init__(self, limits: Mapping[str, LimitSpec]) -> None:
        self._spans = {
            ActionId(name): limit.span
            for name, limit in limits.items()
            if limit.starts_at is not None or limit.ends_at is not None
        }
        self._shares = {
            ActionId(name): (limit.floor, limit.max_share)
            for name, limit in limits.items()
            if limit.floor > 0.0 or limit.max_share < 1.0
        }

    @property
    def has_dates(self) -> bool:
        """Whether some actions are not always offered."""
        return bool(self._spans)

    @property
    def has_shares(self) -> bool:
        """Whether some actions have a floor or a cap."""
        return bool(self._shares)

    @cached_property
    def _moments(self) -> tuple[list[float], list[frozenset[ActionId]]]:
        moments = sorted({t for span in self._spans.values() for t in span if math.isfinite(t)})
        spells = [-math.inf, *moments]
        absent = [
            frozenset(
                name for name, (begin, end) in self._spans.items() if not begin <= at < end
            )
            for at in spells
        ]  # fmt: skip
        return moments, absent

    def absent(self, at: float) -> frozenset[ActionId]:
        """Return the actions that are not offered at a time."""
        moments, absent = self._moments
        return absent[bisect_right(moments, at)]

    def bounds(self, place: Callable[[ActionId], int | None], num: int) -> Bounds | None:
        """Return the bounds of `num` candidates; None where none of them has a limit.

        `place`: returns the index of an action among them; None where it is not offered.
        """
        found = None
        for name, (floor, cap) in self._shares.items():
            index = place(name)
            if index is None:
                continue
            if found is None:
                found = Bounds(np.zeros(num), np.ones(num))
            found.low[index], found.high[index] = floor, cap
        return found


def projected(shares: Array64, bounds: Bounds) -> Array64:
    """Return the probabilities within bounds that are closest to `shares`, (K,).

    Where the other candidates may not take what is above a cap, caps give way in proportion.
    """
    low, high = bounds
    if high.sum() <= 1.0:
        whole = float(high.sum())
        return shares if whole == 0.0 else np.asarray(high / whole)
    if (shares >= low).all() and (shares <= high).all():
        return shares
    out = np.clip(shares, low, high)
    free = shares > 0.0
    least = low.sum() if free.all() else low[~free].sum() + high[free].sum()
    if not free.all() and least < 1.0:  # what has no probability at all has to take a part
        out = np.where(free, high, low)
        room = np.where(free, 0.0, high - low)
        return np.asarray(out + (1.0 - out.sum()) * room / room.sum())
    out[~free] = low[~free]
    for _ in range(len(shares)):
        rest = 1.0 - out[~free].sum()
        scaled = shares * (rest / shares[free].sum())
        above = np.where(free, np.maximum(scaled - high, 0.0), 0.0)
        below = np.where(free, np.maximum(low - scaled, 0.0), 0.0)
        out[free] = scaled[free]
        fixed = (above > 0.0) if above.sum() >= below.sum() else (below > 0.0)
        if not fixed.any():
            break
        out[fixed] = high[fixed] if above.sum() >= below.sum() else low[fixed]
        free = free & ~fixed
        if not free.any():
            break
    return out


def projected_places(places_JK: Array64, bounds: Bounds) -> Array64:
    """Return the probabilities at each place within bounds, (J, K), given those without limits.

    An action is on a list once. So its probability at a place is at most what is left of 1 after
    the places before, less its least one for each place behind: no place loses it altogether.
    Floors and caps give way to that. `places_JK` itself is returned where nothing is beyond them.
    """
    low, high = bounds
    least, left = places_JK.min(axis=0), np.ones(places_JK.shape[1])
    out, num = places_JK, len(places_JK)
    for place, shares in enumerate(places_JK):
        room = np.maximum(left - (num - 1 - place) * least, 0.0)
        most = np.minimum(high, room)
        if most.sum() > 1.0:
            wanted = projected(shares, Bounds(np.minimum(low, most), most))
        else:  # caps give way, but no action is on a list twice
            whole = float(most.sum())
            given = shares if whole == 0.0 else most / whole
            wanted = projected(given, Bounds(np.zeros(len(left)), room))
        if wanted is not shares:
            out = out.copy() if out is places_JK else out
            out[place] = wanted
        left = np.maximum(left - wanted, 0.0)
    return out


def kept_or_drawn(
    own: int, shares: Array64, wanted: Array64, keeps: float, draws: float
) -> int:  # fmt: skip
    """Return the own pick, or another, so that `wanted` is the law of what is returned.

    Args:
        own: The pick, drawn by `shares`.
        shares: The probabilities of the picks, (K,).
        wanted: Those that are wanted, (K,).
        keeps: A number drawn uniformly from 0 to 1.
        draws: Another one.
    """
    if keeps * shares[own] < wanted[own]:
        return own
    rest = np.cumsum(np.maximum(wanted - shares, 0.0))
    if rest[-1] <= 0.0:
        return own
    return int(np.searchsorted(rest, draws * rest[-1], side="right").clip(max=len(rest) - 1))
