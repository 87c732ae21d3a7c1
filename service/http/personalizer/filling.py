"""Which actions a slot may take, so that every later slot can be filled, too."""

from __future__ import annotations

from collections.abc import Sequence


def fillable(place: int, allowed: Sequence[frozenset[int]], taken: frozenset[int]) -> list[int]:
    """Return the actions that a slot may take, in order.

    An action is left out where later slots could not all get one of their own any more: each of
    them needs one that it allows, and no two the same (a matching, found by augmenting paths).

    Args:
        place: The slot.
        allowed: The actions that each slot may take.
        taken: Those that earlier slots have.
    """
    later = [each - taken for each in allowed[place + 1 :]]
    matching = _Matching(later)
    return [each for each in sorted(allowed[place] - taken) if matching.is_spared(each)]


def can_be_filled(allowed: Sequence[frozenset[int]]) -> bool:
    """Whether all slots can get an action of their own of those that each may take."""
    return _Matching(allowed).is_whole


class _Matching:
    """An action for each of some slots, no two the same.

    Args:
        allowed: The actions that each slot may take.

    Attributes:
        is_whole: Whether each slot has one.
    """

    def __init__(self, allowed: Sequence[frozenset[int]]) -> None:
        self._allowed = allowed
        self._owner: dict[int, int] = {}
        self.is_whole = all(self._place(self._owner, slot, set()) for slot in range(len(allowed)))

    def is_spared(self, action: int) -> bool:
        """Whether the slots can be filled without an action."""
        if action not in self._owner:
            return True
        owner = dict(self._owner)
        slot = owner.pop(action)
        return self._place(owner, slot, {action})

    def _place(self, owner: dict[int, int], slot: int, seen: set[int]) -> bool:
        """Give a slot an action that is none of `seen`, moving other slots to others if needed."""
        free = next((each for each in self._allowed[slot] - seen if each not in owner), None)
        if free is not None:
            owner[free] = slot
            return True
        for action in self._allowed[slot] - seen:
            if action in seen:
                continue
            seen.add(action)
            if self._place(owner, owner[action], seen):
                owner[action] = slot
                return True
        return False
