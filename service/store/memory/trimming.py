"""Removes old decisions and log rows; the caller decides up to where."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from bandexa_core.ids import DecisionKey, LogPosition
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.rows import CatalogueRow
from service.store.identity import is_older
from service.store.memory.contents import Contents, HeldDecision
from service.store.memory.evicted import joined, sampled
from service.store.memory.log import HeldVoid, LearnedRow
from service.store.protocol import Dropped, Trimmed
from service.store.records import BanditRecord, Trim


class Trimming:
    """The operations of retention; each is done at once."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._examined: dict[int, DecisionKey] = {}  # by `drop_decisions`, up to which key

    def trim_log(self, record: BanditRecord, up_to: LogPosition, sample_size: int) -> Trimmed:
        """Remove the learn rows up to the last group end there, but never the newest row."""
        self._contents.end_groups()
        bandit = self._contents.of(record.key)
        log, trim = bandit.log, bandit.trim
        ended = log.between(trim.position, min(up_to, log.head - 1))
        num = 0
        if ended:
            end = ended[-1]
            rows = list(log.learn_rows(trim.position, end.position))
            gone = bandit.erased | {held.row.origin for held in log.voids()}
            first = [
                held for held in rows if held.row.before is None and held.row.position not in gone
            ]
            bandit.erased = {each for each in bandit.erased if each > end.position}
            bandit.sample = joined(bandit, sampled(record, bandit, first), sample_size)
            bandit.trim = Trim(end.position, end.hash, trim.learned + len(first))
            log.remove(
                lambda held: (
                    isinstance(held, LearnedRow | HeldVoid) and held.row.position <= end.position
                )
            )
            examined = self._examined.get(record.key, DecisionKey(0))
            keys = {held.key for held in rows if held.key <= examined}
            num = self._remove(record, [bandit.decisions[key] for key in keys])
        return Trimmed(num, more=False)

    def trim_catalogue(
        self, record: BanditRecord, catalogue: Catalogue, position: LogPosition
    ) -> None:
        """Store the actions at a position, and remove the catalogue's changes up to it.

        A position before the one that is stored, or after the beginning of the log, does nothing.
        """
        self._contents.end_groups()
        bandit = self._contents.of(record.key)
        known = -1 if bandit.catalogue is None else bandit.catalogue[0]
        if known < position <= bandit.trim.position:
            bandit.catalogue = position, catalogue
            bandit.log.remove(
                lambda held: isinstance(held.row, CatalogueRow) and held.row.position <= position
            )

    def drop_decisions(
        self, record: BanditRecord, before: DecisionKey, after: DecisionKey
    ) -> Dropped:
        """Remove the decisions with smaller keys that no remaining log row refers to."""
        if record.key not in self._contents.live:
            return Dropped(0, after, more=False)
        self._contents.end_groups()
        examined = list(
            itertools.takewhile(
                lambda held: (
                    is_older(held.record.key, held.record.time, before)
                    and not self._is_open(record, held)
                ),
                self._contents.of(record.key).in_order(after),
            )
        )
        last = examined[-1].record.key if examined else after
        self._examined[record.key] = max(last, self._examined.get(record.key, last))
        return Dropped(self._remove(record, examined), last, more=False)

    def _remove(self, record: BanditRecord, decisions: Iterable[HeldDecision]) -> int:
        """Remove those that neither an open window nor the log needs; returns how many."""
        trim = self._contents.of(record.key).trim.position
        gone = [
            held.record.key
            for held in decisions
            if not self._is_open(record, held) and all(each.latest <= trim for each in held.learned)
        ]
        self._contents.remove_decisions(record.key, gone)
        return len(gone)

    def _is_open(self, record: BanditRecord, held: HeldDecision) -> bool:
        """Whether the reward window of a decision is open, if it has one."""
        known = self._contents.of(record.key).log.configurations(record.spec)
        has_window = known.rules(held.record.position).reward_window_s is not None
        return has_window and held.closed_at is None and not held.is_erased  # that never closes
