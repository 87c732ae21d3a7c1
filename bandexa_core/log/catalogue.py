"""The catalogue: the actions of a bandit as an immutable value.

A catalogue is a pure function of the log, the fold of its catalogue rows in order, so every process
that reads the log up to a position has the same catalogue there. A snapshot contains the catalogue,
so that only the rows after it are folded. A change returns a new catalogue;
selects in flight go on with the old one. Actions are numbered by slot: the order of their first
upsert, never reused, so that posteriors and learn rows can refer to an action by its slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, ActionSlot


@dataclass(frozen=True, slots=True)
class CatalogueChange:
    """N actions to add or overwrite, as columns, with A features each.

    Attributes:
        ids: The N action ids, each at most once.
        features: float32 (N, A); None leaves the features of known actions as they are.
        enabled: Whether each action can be selected, bool (N,).
    """

    ids: tuple[ActionId, ...]
    features: NDArray[np.float32] | None
    enabled: NDArray[np.bool_]


class Catalogue:
    """The actions of a bandit in slot order; immutable.

    Attributes:
        ids: The action ids.
        slots: The slot of each id.
        features: float32 (K, A).
        enabled: Whether each action can be selected, bool (K,).
        enabled_slots: The slots of the enabled actions, int64, ascending.
    """

    __slots__ = ("enabled", "enabled_slots", "features", "ids", "slots")

    def __init__(
        self,
        ids: tuple[ActionId, ...],
        slots: dict[ActionId, ActionSlot],
        features: NDArray[np.float32],
        enabled: NDArray[np.bool_],
    ) -> None:
        self.ids = ids
        self.slots = slots
        self.features = features
        self.enabled = enabled
        self.enabled_slots: NDArray[np.int64] = np.flatnonzero(enabled)
        for array in (features, enabled, self.enabled_slots):
            array.setflags(write=False)

    @classmethod
    def empty(cls, action_dim: int) -> Catalogue:
        """Return the catalogue of a new bandit."""
        return cls((), {}, np.zeros((0, action_dim), np.float32), np.zeros(0, np.bool_))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def action_dim(self) -> int:
        """A, the number of features of an action."""
        return int(self.features.shape[1])

    def changed(self, change: CatalogueChange) -> tuple[Catalogue, NDArray[np.int64]]:
        """Return the catalogue after `change`, and the slots of the change's actions, (N,).

        Raises:
            ValueError: A new action has no features, although the bandit's actions have some.
        """
        slots = self.slots
        new = [action_id for action_id in change.ids if action_id not in slots]
        if new and change.features is None and self.action_dim:
            raise ValueError(f"actions: {new[0]!r} is new and needs {self.action_dim} features")
        ids = self.ids
        features = np.concatenate(
            [self.features, np.zeros((len(new), self.action_dim), np.float32)]
        )
        enabled = np.concatenate([self.enabled, np.zeros(len(new), np.bool_)])
        if new:
            first = len(ids)
            ids = (*ids, *new)
            slots = {**slots, **{a: ActionSlot(first + i) for i, a in enumerate(new)}}
        touched = np.fromiter((slots[a] for a in change.ids), np.int64, len(change.ids))
        if change.features is not None and self.action_dim:
            features[touched] = change.features
        enabled[touched] = change.enabled
        return Catalogue(ids, slots, features, enabled), touched

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the catalogue as named arrays, for a snapshot."""
        ids = np.frombuffer("\n".join(self.ids).encode(), np.uint8)
        return {"ids": ids, "features": self.features, "enabled": self.enabled}

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]], action_dim: int) -> Catalogue:
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
        fits = features.shape == (len(ids), action_dim) and enabled.shape == (len(ids),)
        if not fits or features.dtype != np.float32 or enabled.dtype != np.bool_:
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
