"""Erases decisions: what could identify somebody goes; numbers and known actions stay."""

from __future__ import annotations

import dataclasses

import numpy as np
from msgspec.structs import replace

from bandexa_core.ids import INLINE_SLOT, ActionId, DecisionId, LogPosition
from service.store.identity import bandit_of, key_at, pack_own_id, place_of
from service.store.memory.contents import Contents, HeldBandit, HeldDecision
from service.store.memory.evicted import leave_sample
from service.store.records import Blanked, ErasedPart, Erasure, Relearning

_ERASED_ACTION = ActionId("erased")  # in place of an action that no catalogue has
_EMPTY = np.empty(0, np.float32)


class Erasing:
    """The operations of an erasure; one call erases all."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def begin(
        self, bandit: int | None, unit: str | None, ids: tuple[DecisionId, ...], until: float
    ) -> Erasure:
        """Store what is to be erased."""
        contents = self._contents
        contents.num_erasures += 1
        erasure = Erasure(contents.num_erasures, bandit, unit, ids, until)
        contents.erasures[erasure.number] = erasure
        return erasure

    def part(self, erasure: Erasure) -> ErasedPart:
        """Erase all of it."""
        contents = self._contents
        contents.end_groups()
        decisions: dict[int, list[DecisionId]] = {}
        blanked: dict[int, list[LogPosition]] = {}
        for held in self._concerned(erasure):
            key = held.record.bandit
            decisions.setdefault(key, []).append(contents.name(held))
            blanked.setdefault(key, []).extend(self._blank(contents.of(key), held))
        samples = 0
        for key in list(contents.live):
            for position in _samples(contents, contents.of(key), erasure):
                leave_sample(contents.of(key), position)
                blanked.setdefault(key, []).append(position)
                samples += 1
        contents.erasures.pop(erasure.number, None)
        marks = tuple(
            self._relearn(key, min(positions), max(positions))
            for key, positions in blanked.items()
            if positions
        )
        return ErasedPart(decisions, samples, marks, len(erasure.ids), more=False)

    def _concerned(self, erasure: Erasure) -> list[HeldDecision]:
        contents = self._contents
        if erasure.unit is None:
            named = [contents.find(decision_id) for decision_id in erasure.ids]
            found = [held for held in named if held is not None]
        else:
            found = [
                held
                for key in contents.live
                for held in contents.of(key).in_order()
                if held.record.unit == erasure.unit
                and place_of(held.record.key) <= place_of(key_at(0, erasure.until))
            ]
        return [
            held
            for held in found
            if not held.is_erased and erasure.bandit in (None, held.record.bandit)
        ]

    def _blank(self, bandit: HeldBandit, held: HeldDecision) -> list[LogPosition]:
        """Blank a decision; returns the positions of the first and latest rows that it taught."""
        record = held.record
        held.record = replace(
            record,
            decision_id=self._contents.ids.text(record.key), body_hash=None, context=_EMPTY,
            candidates=None, features=None, unit=None, retrieval=None,
            propensities=None, imported=None if record.imported is None else "", served=None,
            chosen=tuple(
                replace(
                    picked,
                    id=_ERASED_ACTION if picked.slot == INLINE_SLOT else picked.id, features=_EMPTY
                )
                for picked in record.chosen
            ),
        )  # fmt: skip
        self._contents.forget_own_id(held)
        self._contents.windows.forget([record.key])
        held.rewards = [dataclasses.replace(reward, reward_id=None) for reward in held.rewards]
        bandit.log.erase(record.key, held.record.decision_id)
        void = {each.row.origin for each in bandit.log.voids() if each.key == record.key}
        known = {learned.origin for learned in held.learned if learned.origin}
        for position in known - void:
            leave_sample(bandit, position)
        positions = sorted(known | void)  # older snapshots have learned void ones
        bandit.erased.update(each for each in positions if each > bandit.trim.position)
        return [*positions, *(learned.latest for learned in held.learned if learned.origin)]

    def _relearn(self, bandit: int, first: LogPosition, last: LogPosition) -> Relearning:
        held, relearning = self._contents.of(bandit), self._contents.relearning
        number = 1 + (held.blanked[-1].number if held.blanked else 0)
        others = [each for each in held.blanked if each.first < first or each.last > last]
        held.blanked = [*others, Blanked(bandit, number, first, last)]
        known = relearning.get(bandit, Relearning(bandit, first, 0))
        mark = Relearning(bandit, min(first, known.first), number)
        relearning[bandit] = mark
        return mark

    def relearned(self, mark: Relearning) -> None:
        """Note that the model was rebuilt; nothing where more was erased since it was begun."""
        known = self._contents.relearning.get(mark.bandit)
        if known is not None and known.changes == mark.changes:
            del self._contents.relearning[mark.bandit]


def _samples(contents: Contents, bandit: HeldBandit, erasure: Erasure) -> list[LogPosition]:
    """Return the sampled rows of an erasure."""
    keys = {contents.ids.key(decision_id) for decision_id in erasure.ids}
    own_ids = {pack_own_id(decision_id) for decision_id in erasure.ids}
    return [
        position
        for position, row in bandit.sample.items()
        if erasure.bandit in (None, bandit_of(row.key))
        and (row.unit == erasure.unit if erasure.unit else row.key in keys or row.own_id in own_ids)
    ]
