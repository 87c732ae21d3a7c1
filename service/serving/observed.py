"""Counts what the objects of requests have: missing, unseen and wrong values, unknown keys.

Runs on the event loop. Counting a select takes as long as encoding its objects twice, so that after
the first ones under an encoding only one in sixteen is counted. An encoding that is new, after a
round, starts all counts again: they say how the fields that are served suit the requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bandexa_core.policies import LinearHead
from bandexa_core.policies.named_inputs import NamedInputs, object_of
from bandexa_core.policies.protocol import Policy
from bandexa_core.schema import Encoding, Observed
from bandexa_core.schema.drift import RecentBins
from bandexa_core.schema.objects import JsonObject

ALL_OF = 256  # selects that are counted one by one under an encoding
EVERY = 16  # and of the later ones, one in so many


def named_inputs(policy: Policy) -> NamedInputs | None:
    """Return the encodings of a policy; None where it has none."""
    return policy.named if isinstance(policy, LinearHead) else None


@dataclass(slots=True)
class SideCounts:
    """The counts of contexts, or those of chosen actions, under the encoding in use.

    Attributes:
        encoding: The encoding; None before the first count.
        observed: What its objects had, of 256 fields at most.
        recent: The bins of the recent ones of these objects.
    """

    encoding: Encoding | None = None
    observed: Observed = field(default_factory=Observed)
    recent: RecentBins | None = None

    def follow(self, encoding: Encoding | None) -> bool:
        """Start again where another encoding is served; returns whether it is another one."""
        is_new = not _are_equal(encoding, self.encoding)
        self.encoding = encoding
        if is_new:
            self.observed, self.recent = Observed(), None
        return is_new

    def under(self, encoding: Encoding) -> Observed:
        """Return the counts under an encoding: none where another one was counted last."""
        return self.observed if _are_equal(encoding, self.encoding) else Observed()

    def add(self, encoding: Encoding, value: JsonObject) -> None:
        """Count an object."""
        if self.recent is None:
            self.recent = RecentBins(encoding.bins, encoding.num_rows, encoding.sets)
        encoding.encode([value], self.observed)
        self.recent.add(value)

    def drift_under(self, encoding: Encoding) -> dict[str, float]:
        """Return the drift of each field under an encoding; none where another one was counted."""
        is_counted = self.recent is not None and _are_equal(encoding, self.encoding)
        return self.recent.drift() if self.recent is not None and is_counted else {}


class InputCounts:
    """The counts of one bandit since its encodings are served.

    Attributes:
        contexts, actions: Those of either side.
    """

    def __init__(self) -> None:
        self.contexts = SideCounts()
        self.actions = SideCounts()
        self._named: NamedInputs | None = None
        self._num_selects = 0

    def selected(
        self, named: NamedInputs | None, context: NDArray[np.uint8], action: NDArray[np.uint8]
    ) -> None:
        """Count a new decision, where it is its turn.

        Args:
            named: The encodings in use.
            context: Its context, and
            action: its first action, as they are recorded; read where these have named features.
        """
        if named is None:
            return
        if named is not self._named:
            is_new = self.contexts.follow(named.x) | self.actions.follow(named.a)
            self._num_selects *= not is_new
            self._named = named
        self._num_selects += 1
        if self._num_selects > ALL_OF and self._num_selects % EVERY:
            return
        for side, encoding, row in (
            (self.contexts, named.x, context), (self.actions, named.a, action),
        ):  # fmt: skip
            if encoding is not None:
                side.add(encoding, object_of(row))


def _are_equal(one: Encoding | None, other: Encoding | None) -> bool:
    if one is None or other is None:
        return one is other
    return one is other or one.to_bytes() == other.to_bytes()
