"""A stream: everything that a problem shows and pays, fixed before the first step.

T steps, K offered actions of N, d numbers of a context, A features of an action. Context, offer and
reward of a step are the same for every policy, because they are arrays that a seed determines. The
rewards of all offered actions are drawn in advance; a policy sees that of its choice alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One problem with one seed.

    Attributes:
        contexts: What is sent, float32 (T, d).
        action_ids: The N ids in the order of the catalogue.
        action_features: float32 (N, A); None where actions are known by their ids alone.
        means: Expected rewards of the offered actions, float64 (T, K).
        rewards: What each of them would pay, float64 (T, K).
        offered: The offered actions of each step, int64 (T, K); None offers the whole catalogue.
        retired: For an action, the first step at which it is no longer in the catalogue.
        delay: Rewards are reported together after so many steps; 1 reports each at once.
        objects: The contexts as objects with named features, T; None where there are none. They say
            what `contexts` say, and are not in the digest.
    """

    contexts: NDArray[np.float32]
    action_ids: tuple[str, ...]
    action_features: NDArray[np.float32] | None = None
    means: NDArray[np.float64]
    rewards: NDArray[np.float64]
    offered: NDArray[np.int64] | None = None
    retired: Mapping[int, int] = field(default_factory=dict)
    delay: int = 1
    objects: tuple[Mapping[str, Any], ...] | None = None

    def __post_init__(self) -> None:
        steps, num = len(self.contexts), len(self.action_ids)
        width = num if self.offered is None else self.offered.shape[1]
        for name in ("means", "rewards"):
            if getattr(self, name).shape != (steps, width):
                raise ValueError(f"{name}: must have the shape {(steps, width)}")
        if self.action_features is not None and len(self.action_features) != num:
            raise ValueError(f"action_features: must have {num} rows")
        if self.retired and self.offered is not None:
            raise ValueError("retired: goes with an offer of the whole catalogue")

    @property
    def horizon(self) -> int:
        """T, the number of steps."""
        return len(self.contexts)

    @property
    def rewards_are_binary(self) -> bool:
        """Whether every reward is 0 or 1."""
        return bool(np.isin(self.rewards, (0.0, 1.0)).all())

    def on_offer(self, t: int) -> NDArray[np.int64]:
        """Return the actions that can be chosen at step t, in ascending order."""
        if self.offered is not None:
            offered: NDArray[np.int64] = self.offered[t]
            return offered
        alive = [a for a in range(len(self.action_ids)) if t < self.retired.get(a, self.horizon)]
        return np.array(alive, np.int64)

    def column(self, t: int, action: int) -> int:
        """Return the column of an action in the row t of `means` and `rewards`."""
        if self.offered is None:
            return action
        return int(np.flatnonzero(self.offered[t] == action)[0])

    def digest(self) -> str:
        """Return a digest of all arrays, by which two runs show that they met the same stream."""
        found = hashlib.blake2b(digest_size=8)
        for array in (self.contexts, self.action_features, self.means, self.rewards, self.offered):
            found.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        found.update(repr((self.action_ids, sorted(self.retired.items()), self.delay)).encode())
        return found.hexdigest()
