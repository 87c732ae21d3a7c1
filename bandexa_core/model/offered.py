"""The actions that a model offers, with what its policy computes of each of them beforehand.

Changes of the catalogue wait until they are needed: a replay of many copies a large one once.
Single-threaded. Legend: K candidates, A action features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.equal_rows import Groups
from bandexa_core.ids import INLINE_SLOT, ActionId
from bandexa_core.limits import Limits
from bandexa_core.log.catalogue import Catalogue, CatalogueChange, Fold
from bandexa_core.policies import Candidates
from bandexa_core.policies.protocol import Policy


class Offered:
    """A catalogue, and the parts of its actions under the encoder of a policy.

    Args:
        policy: Computes the parts; `reset` follows a change of its encoder or scale.
        catalogue: The actions.
    """

    def __init__(self, policy: Policy, catalogue: Catalogue) -> None:
        self._policy = policy
        self._dated: tuple[Candidates, frozenset[ActionId], Candidates] | None = None
        self._start(catalogue)

    def _start(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._changes: list[CatalogueChange] = []
        self._parts = self._policy.action_parts(catalogue.features)
        self._parts_are_shared = False  # with candidates, or with another model
        self._enabled: Candidates | None = None

    def reset(self) -> None:
        """Compute all parts anew: the policy has another encoder or scale."""
        self._start(self.catalogue)

    def copy(self, policy: Policy) -> Self:
        """Return the same actions for a copy of the policy; both go on by themselves."""
        self._parts_are_shared = True
        other = copy.copy(self)
        other._policy = policy
        other._changes = list(self._changes)
        return other

    # -- the catalogue ------------------------------------------------------------------------

    @property
    def catalogue(self) -> Catalogue:
        """The actions, with all changes."""
        if self._changes:
            self._fold_changes()
        return self._catalogue

    def change(self, change: CatalogueChange) -> None:
        """Take a change, which is folded once the actions are needed."""
        self._changes.append(change)

    def _fold_changes(self) -> None:
        """Fold the waiting changes.

        The encoder gets the actions of one change at a time, so that their parts do not depend on
        how many changes waited.
        """
        fold = Fold(self._catalogue, self._changes)
        self._make_parts_writable(len(fold.features))
        for touched in fold:
            if self._parts is not None:
                self._parts[touched] = self._policy.action_parts(fold.features[touched])
        self._catalogue = fold.catalogue()
        self._changes = []
        self._enabled = None

    def _make_parts_writable(self, num: int) -> None:
        """Make the action parts those of `num` actions, in an array that nobody else reads.

        A model that is just loaded has such an array already: its pages are in memory, where a copy
        of 100,000 actions takes a tenth of a second.
        """
        old = self._parts
        if old is None or (len(old) == num and old.flags.owndata and not self._parts_are_shared):
            return
        self._parts = np.zeros((num, old.shape[1]))
        self._parts[: len(old)] = old
        self._parts_are_shared = False

    # -- candidates ---------------------------------------------------------------------------

    def enabled(self, limits: Limits, at: float | None = None) -> Candidates:
        """Return every enabled action, in slot order.

        Args:
            limits: The limits of actions.
            at: Only those that are offered at this time, in seconds since the epoch.
        """
        catalogue = self.catalogue
        if self._enabled is None:
            self._enabled = self._at_slots(catalogue.enabled_slots)
        whole = self._enabled
        absent = limits.absent(at) if at is not None and limits.has_dates else frozenset()
        if not absent:
            return whole
        known = self._dated
        if known is None or known[0] is not whole or known[1] != absent:
            gone = [catalogue.slots[name] for name in absent if name in catalogue.slots]
            slots = np.setdiff1d(catalogue.enabled_slots, gone, assume_unique=True)
            self._dated = known = whole, absent, self._at_slots(slots)
        return known[2]

    def at(self, ids: Sequence[ActionId]) -> Candidates:
        """Return actions by id; KeyError names the first unknown one."""
        return self._at_slots(self.catalogue.find(ids))

    def _at_slots(self, slots: NDArray[np.int64]) -> Candidates:
        catalogue = self.catalogue  # folds the changes that wait, and their parts
        features, groups = catalogue.features, partial(catalogue.groups_at, slots)
        if len(slots) == len(catalogue) and np.array_equal(slots, np.arange(len(slots))):
            self._parts_are_shared = True
            return Candidates(slots, features, self._parts, groups=groups)
        parts = None if self._parts is None else self._parts[slots]
        return Candidates(slots, features, parts, by_slot=True, groups=groups)

    def inline(
        self,
        ids: Sequence[ActionId],
        features: NDArray[np.float32],
        groups: Callable[[], Groups | None] | None = None,
        places: Mapping[ActionId, int] | None = None,
        parts: NDArray[np.float64] | None = None,
    ) -> Candidates:
        """Return candidates that bring their own features.

        Args:
            ids: Their ids, K.
            features: Their features, (K, A).
            groups: See `Candidates`.
            places: The place of each id among them. With it, many of them cost no more time than
                the actions of a smaller catalogue.
            parts: Their parts under the encoder in use, where they were computed beforehand.
        """
        known = self.catalogue.slots
        if places is not None and len(known) < len(ids):
            slots = np.full(len(ids), INLINE_SLOT, np.int64)
            for name in known.keys() & places.keys():
                slots[places[name]] = known[name]
        else:
            slots = np.fromiter(map(known.get, ids, repeat(INLINE_SLOT)), np.int64, len(ids))
        return Candidates(slots, features, parts, groups=groups)
