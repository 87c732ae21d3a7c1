"""The catalogue: the actions of a bandit as an immutable value.

A catalogue is a pure function of the log, the fold of its catalogue rows in order, so every process
that reads the log up to a position has the same catalogue there. A snapshot contains the catalogue,
so that only the rows after it are folded. A change returns a new catalogue;
selects in flight go on with the old one. Actions are numbered by slot: the order of their first
upsert, never reused, so that posteriors and learn rows can refer to an action by its slot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.byte_rows import longest, resized
from bandexa_core.features.equal_rows import Groups, equal_rows
from bandexa_core.ids import ActionId, ActionSlot
from bandexa_core.replay.protocol import RowLayout


class CatalogueChange(NamedTuple):
    """N actions to add or overwrite, as columns, with A features each.

    Attributes:
        ids: The N action ids, each at most once.
        features: float32 (N, A), or the bytes of objects with named features, uint8 (N, A), where
            A may differ from the catalogue's; None leaves the features of known actions as they
            are.
        enabled: Whether each action can be selected, bool (N,).
    """

    ids: tuple[ActionId, ...]
    features: NDArray[Any] | None
    enabled: NDArray[np.bool_]


class Catalogue:
    """The actions of a bandit in slot order; immutable.

    Attributes:
        ids: The action ids.
        slots: The slot of each id.
        features: float32 (K, A), or the bytes of objects with named features, uint8 (K, A).
        enabled: Whether each action can be selected, bool (K,).
        enabled_slots: The slots of the enabled actions, int64, ascending.
    """

    __slots__ = ("_equal", "enabled", "enabled_slots", "features", "ids", "slots")

    def __init__(
        self,
        ids: tuple[ActionId, ...],
        slots: dict[ActionId, ActionSlot],
        features: NDArray[Any],
        enabled: NDArray[np.bool_],
    ) -> None:
        self._equal: NDArray[np.int64] | bool | None = False  # not known yet
        self.ids = ids
        self.slots = slots
        self.features = features
        self.enabled = enabled
        self.enabled_slots: NDArray[np.int64] = np.flatnonzero(enabled)
        for array in (features, enabled, self.enabled_slots):
            array.setflags(write=False)

    @classmethod
    def empty(cls, layout: RowLayout) -> Catalogue:
        """Return the catalogue of a new bandit."""
        features = np.zeros((0, layout.action_dim), layout.action_dtype)
        return cls((), {}, features, np.zeros(0, np.bool_))

    def __len__(self) -> int:
        return len(self.ids)

    def equal_actions(self) -> NDArray[np.int64] | None:
        """Return for each slot the first one with equal features, (K,); None: all differ."""
        if isinstance(self._equal, bool):
            self._equal = equal_rows(self.features)
        return self._equal

    def groups_at(self, slots: NDArray[np.int64]) -> Groups | None:
        """Return the groups of actions at slots (N,) with equal features; None: all differ."""
        equal = self.equal_actions()
        return None if equal is None else Groups.by(equal[slots])

    @property
    def action_dim(self) -> int:
        """A, the number of features of an action."""
        return int(self.features.shape[1])

    def changed(self, change: CatalogueChange) -> tuple[Catalogue, NDArray[np.int64]]:
        """Return the catalogue after `change`, and the slots of the change's actions, (N,).

        Raises:
            ValueError: A new action has no features, although the bandit's actions have some.
        """
        catalogue = folded(self, [change])
        return catalogue, catalogue.find(change.ids)

    def as_change(self) -> CatalogueChange:
        """Return the change that makes an empty catalogue this one."""
        return CatalogueChange(self.ids, self.features, self.enabled)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the catalogue as named arrays, for a snapshot."""
        ids = np.frombuffer("\n".join(self.ids).encode(), np.uint8)
        return {"ids": ids, "features": self.features, "enabled": self.enabled}

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]], layout: RowLayout) -> Catalogue:
        """Return the catalogue that `tensors` returned.

        Raises:
            ValueError: The arrays do not describe a catalogue of such actions.
        """
        if tensors.keys() != {"ids", "features", "enabled"}:
            raise ValueError("catalogue: tensors are missing")
        features, enabled = tensors["features"], tensors["enabled"]
        text = tensors["ids"].tobytes().decode()
        ids = tuple(ActionId(name) for name in text.split("\n")) if text else ()
        slots = {name: ActionSlot(slot) for slot, name in enumerate(ids)}
        # Rows of objects are as wide as the longest one once had to be.
        dim = features.shape[-1] if layout.action_dtype == "uint8" else layout.action_dim
        fits = features.shape == (len(ids), dim) and enabled.shape == (len(ids),)
        if not fits or features.dtype != layout.action_dtype or enabled.dtype != np.bool_:
            raise ValueError("catalogue: tensors of a wrong dtype or shape")
        if len(slots) != len(ids):
            raise ValueError("catalogue: an id occurs twice")
        return cls(ids, slots, features, enabled)

    def find(self, ids: Sequence[ActionId]) -> NDArray[np.int64]:
        """Return the slots of `ids`, (K,).

        Raises:
            KeyError: An id is not in the catalogue; its argument is the first such id.
        """
        return np.fromiter(map(self.slots.__getitem__, ids), np.int64, len(ids))


class Fold:
    """Changes that are applied to a catalogue one after the other, with one copy of its arrays.

    Iterating applies the next change and yields the index of its actions: their slots, (N,), or a
    slice where they are one or all new, which numpy reads and writes several times faster.

    Args:
        start: The catalogue to start from; it does not change.
        changes: The changes, in order.

    Attributes:
        features: (K, A), after the changes so far; of objects, as wide as the longest one needs.
    """

    def __init__(self, start: Catalogue, changes: Sequence[CatalogueChange]) -> None:
        self._changes = changes
        new = set[ActionId]().union(*(change.ids for change in changes)).difference(start.slots)
        self._ids, self._added = start.ids, list[ActionId]()
        self._slots = dict(start.slots) if new else start.slots
        size, dim = len(start) + len(new), _width(start, changes)
        self.features: NDArray[Any] = np.zeros((size, dim), start.features.dtype)
        self.features[: len(start), : start.action_dim] = start.features
        self._enabled = np.zeros(size, np.bool_)
        self._enabled[: len(start)] = start.enabled

    def __iter__(self) -> Iterator[NDArray[np.int64] | slice]:
        """Apply the changes.

        Raises:
            ValueError: A new action has no features, although the bandit's actions have some.
        """
        slots, dim = self._slots, self.features.shape[1]
        for change in self._changes:
            new: Sequence[ActionId] = change.ids
            if not slots.keys().isdisjoint(new):
                new = [action_id for action_id in new if action_id not in slots]
            if new and change.features is None and dim:
                what = f"{dim} features" if self.features.dtype == np.float32 else "features"
                raise ValueError(f"actions: {new[0]!r} is new and needs {what}")
            first = len(slots)
            slots.update(zip(new, _slots(first, len(new)), strict=True))
            self._added += new
            touched: NDArray[np.int64] | slice
            if len(new) == len(change.ids):
                touched = slice(first, first + len(new))
            elif len(change.ids) == 1:
                slot = slots[change.ids[0]]
                touched = slice(slot, slot + 1)
            else:
                touched = np.array([slots[a] for a in change.ids], np.int64)
            if change.features is not None and dim:
                self.features[touched] = resized(change.features, dim)
            self._enabled[touched] = change.enabled
            yield touched

    def catalogue(self) -> Catalogue:
        """Return the catalogue after all changes; the fold cannot be used afterwards."""
        ids = (*self._ids, *self._added) if self._added else self._ids
        return Catalogue(ids, self._slots, self.features, self._enabled)


def _slots(first: int, num: int) -> Sequence[ActionSlot]:
    return cast("Sequence[ActionSlot]", range(first, first + num))


def _width(start: Catalogue, changes: Sequence[CatalogueChange]) -> int:
    """Return how wide rows of features have to be for the catalogue and for its changes."""
    dim = start.action_dim
    if start.features.dtype != np.uint8:
        return dim
    wider = (c.features for c in changes if c.features is not None and c.features.shape[1] > dim)
    return max(dim, max(map(longest, wider), default=0))


def folded(start: Catalogue, changes: Sequence[CatalogueChange]) -> Catalogue:
    """Return a catalogue after changes."""
    if not changes:
        return start
    fold = Fold(start, changes)
    for _ in fold:
        pass
    return fold.catalogue()
