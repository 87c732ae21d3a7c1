"""Whether the inputs of a model still suit the scale in use: its contexts and its actions.

A function of the snapshot and of the rows after it, so every process comes to the same answer.
Legend: K actions, A action features.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.scaling import InputScaling
from bandexa_core.features.watch import BLOCK, Extremes, InputWatch
from bandexa_core.ids import ActionId
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.policies import LinearHead
from bandexa_core.policies.protocol import Policy
from bandexa_core.policies.schedule import ROWS_PER_RENEWAL
from bandexa_core.policies.standardizing import catalogue_scale, spaced


class Inputs:
    """The contexts since the last scale, and the actions of now, under the scale of a policy.

    Args:
        policy: Has the scale; `reset` follows a change of it.
        objects: Whether actions are objects, which are encoded and have no scale.
    """

    def __init__(self, policy: Policy, *, objects: bool) -> None:
        self._policy, self._objects = policy, objects
        self._start(Extremes())

    def _start(self, extremes: Extremes) -> None:
        self._watch = InputWatch(self._scaling, extremes)
        # Whether these actions fit the scale, and one that does not.
        self._judged: tuple[Catalogue, bool] | None = None
        self._extreme: tuple[Catalogue, tuple[ActionId, int, float] | None] | None = None

    def reset(self) -> None:
        """Judge by the scale that the policy has now; extreme values are counted on."""
        self._start(self.extremes)

    def copy(self, policy: Policy) -> Self:
        """Return the same counts for a copy of the policy; both go on by themselves."""
        other = copy.copy(self)
        other._policy, other._watch = policy, self._watch.copy()
        return other

    @property
    def _scaling(self) -> InputScaling | None:
        return self._policy.scaling if isinstance(self._policy, LinearHead) else None

    # -- contexts -----------------------------------------------------------------------------

    def see(self, contexts: Sequence[NDArray[Any]]) -> None:
        """Count contexts that were learned from."""
        self._watch.see(contexts)

    @property
    def extremes(self) -> Extremes:
        """The extreme values of contexts since the server's start."""
        return self._watch.extremes

    def follow_on(self, other: Inputs) -> None:
        """Continue the counts of extreme values of the model that this one replaces."""
        self._watch.extremes = other._watch.extremes

    def changed(self, num_learned: int, catalogue: Catalogue) -> bool:
        """Whether contexts or actions have left the scale in use, and rows since it have grown."""
        watch = self._watch
        if watch.num_rows < max(BLOCK, num_learned // ROWS_PER_RENEWAL):
            return False
        return watch.changed or self._actions_changed(catalogue)

    # -- actions ------------------------------------------------------------------------------

    def _actions_changed(self, catalogue: Catalogue) -> bool:
        policy = self._policy
        if self._judged is not None and self._judged[0] is catalogue:
            return self._judged[1]
        if not isinstance(policy, LinearHead) or not policy.encoder.uses_action:
            return False
        if policy.scaling is None or not policy.scaling.num_rows or self._objects:
            return False
        scale = catalogue_scale(catalogue.features[spaced(catalogue.enabled_slots)])
        changed = scale is not None and policy.scaling.a.outdated_by(scale).any()
        self._judged = catalogue, bool(changed)
        return self._judged[1]

    def extreme_action(self, catalogue: Catalogue) -> tuple[ActionId, int, float] | None:
        """Return an enabled action with an extreme feature, its index and value; None without."""
        scaling = self._scaling
        if scaling is None or not scaling.num_rows or self._objects:
            return None
        if self._extreme is None or self._extreme[0] is not catalogue:
            found, features = None, catalogue.features[catalogue.enabled_slots]
            places = np.argwhere(scaling.a.is_extreme(features))
            if len(places):
                action, feature = (int(place) for place in places[0])
                name = catalogue.ids[catalogue.enabled_slots[action]]
                found = name, feature, float(features[action, feature])
            self._extreme = catalogue, found
        return self._extreme[1]
