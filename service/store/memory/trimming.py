"""Removes old decisions and log rows; the caller decides up to where."""

from __future__ import annotations

from bandexa_core.ids import DecisionKey, LogPosition
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.rows import CatalogueRow
from service.store.memory.contents import Contents
from service.store.memory.evicted import joined, sampled
from service.store.memory.log import LearnedRow
from service.store.protocol import Dropped
from service.store.records import BanditRecord, Trim


class Trimming:
    """The operations of retention; each is done at once."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def trim_log(self, record: BanditRecord, up_to: LogPosition, sample_size: int) -> bool:
        """Remove the learn rows up to the last group end there, but never the newest row."""
        self._contents.end_groups()
        bandit = self._contents.of(record.key)
        log, trim = bandit.log, bandit.trim
        ended = log.between(trim.position, min(up_to, log.head - 1))
        if ended:
            end = ended[-1]
            rows = log.learn_rows(trim.position, end.position)
            first = [
                held
                for held in rows
                if held.row.before is None and held.row.position not in bandit.erased
            ]
            bandit.erased = {each for each in bandit.erased if each > end.position}
            bandit.sample = joined(bandit, sampled(record, bandit, first), sample_size)
            bandit.trim = Trim(end.position, end.hash, trim.learned + len(first))
            log.remove(
                lambda held: isinstance(held, LearnedRow) and held.row.position <= end.position
            )
        return False

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

    def drop_decisions(self, record: BanditRecord, before: float, after: DecisionKey) -> Dropped:
        """Remove the decisions made before a time that no remaining log row refers to."""
        if record.key not in self._contents.live:
            return Dropped(0, after, more=False)
        self._contents.end_groups()
        decisions = self._contents.of(record.key).in_order(after)
        gone = self._contents.removable_decisions(record, before, after)
        self._contents.remove_decisions(record.key, gone)
        last = decisions[-1].record.key if decisions else after
        return Dropped(len(gone), last, more=False)
