"""Limits on a choice: its picks are drawn anew where their probabilities are beyond the limits.

Which random numbers that takes follows from bandit and decision, so a decision repeats; one that is
within the limits is what it would be without them, bit for bit.

Legend: K candidates, J places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bandexa_core.ids import BanditUid, DecisionId
from bandexa_core.limits import Bounds, kept_or_drawn, projected, projected_places
from bandexa_core.policies.protocol import Choice
from bandexa_core.randomness import drawing_rng, keyed_number
from bandexa_core.rounding import drawn_list

LIMITED_PLACES = 20  # of more, the time to draw a list grows with the cube
Indexes = NDArray[np.int64]
Again = Callable[[Indexes], Choice]


class Decided(NamedTuple):
    """What the random numbers of a decision are keyed by; `version`: that of the draws."""

    uid: BanditUid
    seed: int
    version: int
    decision_id: DecisionId


def limited(
    decided: Decided, choice: Choice, bounds: Bounds, again: Again, *, is_forced: bool
) -> Choice:
    """Return a choice within the bounds; where others are drawn, made `again` with them.

    `is_forced`: what is served is not the bandit's own choice, and stays as it is.
    """
    assert choice.all_propensities is not None, "a decision of its own has them"
    if choice.retrieved is not None:  # the others cannot be chosen
        others = np.ones(len(bounds.low), np.bool_)
        others[choice.retrieved] = False
        bounds = Bounds(np.where(others, 0.0, bounds.low), np.where(others, 0.0, bounds.high))
    if len(choice.chosen) > 1:
        return _limited_list(decided, choice, bounds, again, is_forced=is_forced)
    shares = choice.all_propensities()
    wanted = projected(shares, bounds)
    if wanted is shares:
        return choice
    if not is_forced:
        own = int(choice.chosen[0])
        keeps, draws = (
            keyed_number(decided.uid, decided.seed, purpose, str(decided.decision_id))
            for purpose in ("limit", "limit, another")
        )
        first = kept_or_drawn(own, shares, wanted, keeps, draws)
        if first != own:
            choice = again(np.array([first], np.int64))
    return replace(
        choice,
        propensity=float(wanted[choice.chosen[0]]), late_propensity=None, propensities=None,
        all_propensities=lambda: wanted,
    )  # fmt: skip


def _limited_list(
    decided: Decided, choice: Choice, bounds: Bounds, again: Again, *, is_forced: bool
) -> Choice:
    """Return several picks whose probabilities at each of the first places are within the bounds.

    Where they are not without limits, all of these places are drawn anew.
    """
    assert choice.all_places is not None, "several picks have them"
    num = len(choice.chosen)
    is_whole = num <= LIMITED_PLACES
    places = choice.all_places(min(num, LIMITED_PLACES))
    wanted = projected_places(places, bounds)
    if wanted is places and is_whole:
        return choice
    if not is_forced:
        uid, seed, version, decision_id = decided
        rng = drawing_rng(version, uid, seed, "limits", decision_id)
        picks = choice.chosen[:LIMITED_PLACES] if wanted is places else drawn_list(wanted, rng)
        choice = again(picks if is_whole else _continued(picks, choice, bounds))
    chances = wanted[np.arange(len(wanted)), choice.chosen[: len(wanted)]]
    return replace(
        choice,
        propensity=float(chances[0]), late_propensity=None,
        propensities=tuple(chances.tolist()) if is_whole else None,
        all_propensities=lambda: wanted[0],
    )  # fmt: skip


def _continued(picks: Indexes, choice: Choice, bounds: Bounds) -> Indexes:
    """Return a longer list: behind `picks` what was chosen, then others; what is capped at 0 last.

    `picks` are the first ones, `choice` has as many as there are places.
    """
    num = len(choice.chosen)
    offered = np.arange(len(bounds.high)) if choice.retrieved is None else choice.retrieved
    known = np.concatenate([choice.chosen, np.setdiff1d(offered, choice.chosen)])
    left = known[~np.isin(known, picks)]
    is_last = bounds.high[left] <= 0.0
    found: Indexes = np.concatenate([picks, left[~is_last], left[is_last]])[:num]
    return found
