"""What plays a stream: a policy of ours or of another library, behind two calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Context = NDArray[np.float32]
Features = NDArray[np.float32] | None


class UnavailableError(Exception):
    """A player cannot play here; the message says why, and the table shows it."""


class Choice(NamedTuple):
    """The chosen id, and its probability where the player knows it."""

    action_id: str
    propensity: float | None


class Outcome(NamedTuple):
    """A reward that is reported: the step of its decision, and what was chosen there.

    Attributes:
        step: The step at which the action was chosen.
        context: float32 (d,).
        action_id: The chosen action.
        features: Its features, float32 (A,), or None.
        reward: The observed reward.
        propensity: As `select` returned it.
    """

    step: int
    context: Context
    action_id: str
    features: Features
    reward: float
    propensity: float | None


class Player(Protocol):
    """One policy in one run."""

    def select(self, step: int, context: Context, ids: Sequence[str], features: Features) -> Choice:
        """Choose among the offered ids (K) with their features, float32 (K, A), or None."""

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Learn rewards that arrive together, in the order of their steps."""

    def retire(self, action_id: str) -> None:
        """Take an action out of the catalogue: it is not offered again."""
