"""Reads bandits and logs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from bandexa_core.ids import BanditUid, DecisionId, DecisionKey, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue, folded
from bandexa_core.log.configurations import Configurations, changed_spec
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.log.metrics import Totals, Weights
from bandexa_core.log.rows import (
    CatalogueRow,
    ConfigRow,
    Group,
    ImportRow,
    LearnRow,
    VoidRow,
    without,
)
from bandexa_core.replay import Evicted
from bandexa_core.spec import BanditSpec
from service.store.errors import LogTrimmed
from service.store.identity import DecisionIds, first_key, is_older, key_at, time_of
from service.store.memory.contents import HeldBandit
from service.store.memory.evicted import evicted_rows
from service.store.memory.log import LearnedRow
from service.store.memory.view import EPOCH, View
from service.store.objects import action_row, context_row
from service.store.reading import BEGINNING, NOTHING_EXAMINED
from service.store.records import BanditRecord, Blanked, Erasure, Relearning, StoredAnswer, Trim


class MemoryReader(View):
    """See `LogReader`."""

    @property
    def ids(self) -> DecisionIds:
        """See `LogReader.ids`."""
        return self._contents.ids

    def epoch(self) -> int:
        """See `LogReader.epoch`."""
        return EPOCH

    def used_bytes(self) -> int:
        """See `LogReader.used_bytes`: about what the contents take."""
        with self._reading() as contents:
            bandits = [contents.of(key) for key in contents.live]
            decided = [held.num_bytes() for each in bandits for held in each.decisions.values()]
            changed = [len(row.payload) for each in bandits for row in each.log.changes()]
            return sum(decided) + sum(changed)

    def bandits(self) -> list[BanditRecord]:
        """See `LogReader.bandits`."""
        with self._reading() as contents:
            return sorted(contents.live.values(), key=lambda record: record.name)

    def next_uid(self, name: str) -> BanditUid:
        """See `LogReader.next_uid`."""
        with self._reading() as contents:
            return contents.next_uid(name)

    def deleted(self) -> list[BanditUid]:
        """See `LogReader.deleted`."""
        with self._reading() as contents:
            return [record.uid for record in contents.created if record.key not in contents.live]

    def answer(self, decision_id: DecisionId) -> StoredAnswer | None:
        """See `LogReader.answer`."""
        with self._reading() as contents:
            held = contents.find(decision_id)
            return None if held is None else held.answer()

    # -- the log ------------------------------------------------------------------------------

    def head(self, bandit: int) -> LogPosition:
        """See `LogReader.head`."""
        with self._reading() as contents:
            return contents.of(bandit).log.head

    def newest_key(self, bandit: int) -> DecisionKey:
        """See `LogReader.newest_key`."""
        with self._reading() as contents:
            return max(contents.of(bandit).decisions, default=first_key(bandit))

    def num_imported(self, bandit: int) -> int:
        """See `LogReader.num_imported`."""
        with self._reading() as contents:
            return contents.of(bandit).num_imported

    def challengers(self, bandit: int) -> dict[str, str]:
        """See `LogReader.challengers`."""
        with self._reading() as contents:
            return dict(sorted(contents.of(bandit).challengers.items()))

    def trim(self, bandit: int) -> Trim:
        """See `LogReader.trim`."""
        with self._reading() as contents:
            return contents.of(bandit).trim

    def hash_at(self, bandit: int, position: LogPosition) -> bytes | None:
        """See `LogReader.hash_at`."""
        with self._reading() as contents:
            held = contents.of(bandit)
            if position <= held.trim.position:
                return held.trim.hash if position == held.trim.position else None
            return held.log.hash_at(position)

    def follow(
        self,
        record: BanditRecord,
        after: LogPosition,
        up_to: LogPosition,
        chunk: int = 512,
        voids: LogPosition = BEGINNING,
        previous: bytes | None = None,
    ) -> Iterator[Group]:
        """See `LogReader.follow`: all groups are taken at once; memory loses no rows."""
        with self._reading() as contents:
            held = contents.of(record.key)
            groups = held.log.between(after, up_to)
            num_rows = sum(len(group.rows) for group in groups)
            is_whole = num_rows >= min(up_to, held.log.head) - after
            if not is_whole and held.trim.position > after:
                raise LogTrimmed(f"{record.name}: the log after row {after} was removed meanwhile")
            void = {each.row.origin for each in held.log.voids(after, voids)}
        yield from (without(group.group(), void) for group in groups)

    def configurations(
        self, record: BanditRecord, up_to: LogPosition | None = None
    ) -> Configurations:
        """See `LogReader.configurations`."""
        with self._reading() as contents:
            return contents.of(record.key).log.configurations(record.spec, up_to)

    def spec_at(
        self, record: BanditRecord, position: LogPosition, generation: int | None = None
    ) -> BanditSpec:
        """See `LogReader.spec_at`."""
        up_to = LogPosition(max(position, generation or 0))
        return self.configurations(record, up_to).spec(position, generation)

    def catalogue_at(
        self,
        record: BanditRecord,
        position: LogPosition,
        start: Catalogue | None = None,
        after: LogPosition = BEGINNING,
    ) -> Catalogue:
        """See `LogReader.catalogue_at`."""
        with self._reading() as contents:
            held = contents.of(record.key)
            if start is None:
                after, start = held.catalogue or (BEGINNING, _no_actions(record))
                if position < after:
                    raise LogTrimmed(f"{record.name}: the catalogue before row {after} was removed")
            rows = [each.row for each in held.log.changes(after, position)]
            return folded(start, [row.change for row in rows if isinstance(row, CatalogueRow)])

    def removable_changes(self, bandit: int) -> tuple[LogPosition, int]:
        """See `LogReader.removable_changes`."""
        with self._reading() as contents:
            held = contents.of(bandit)
            needed = [held.trim.position, *(origin - 1 for origin in held.sample)]
            needed += [decision.record.position for decision in held.in_order()[:1]]
            up_to = LogPosition(min(needed))
            changes = held.log.changes(0, up_to)
            sizes = [len(each.payload) for each in changes if isinstance(each.row, CatalogueRow)]
            return up_to, sum(sizes)

    def forgetting_at(
        self,
        record: BanditRecord,
        start: Forgetting,
        after: LogPosition,
        up_to: LogPosition,
        generation: int | None = None,
    ) -> Forgetting:
        """See `LogReader.forgetting_at`."""
        with self._reading() as contents:
            log = contents.of(record.key).log
            known = log.configurations(record.spec, LogPosition(max(after, generation or 0)))
            spec, state = known.spec(after, generation), start
            for row in (held.row for held in log.rows(after, up_to)):
                state = state.after(spec.forgetting, row.position, row.time)
                if isinstance(row, ConfigRow) and row.position > (generation or 0):
                    changed = changed_spec(spec, row.spec)
                    if changed.forgetting != spec.forgetting:
                        state = state.restarted()
                    spec = changed
            return state

    def count_learned(self, bandit: int, after: LogPosition, up_to: LogPosition) -> int:
        """See `LogReader.count_learned`."""
        with self._reading() as contents:
            held = contents.of(bandit)
            gone = held.trim.learned if after == 0 else 0
            num = sum(row.before is None for row, _, _ in held.log.learn_rows(after, up_to))
            void = {each.row.origin for each in held.log.voids(up_to=up_to)}
            lost = {each for each in held.erased if each <= up_to} | void
            return gone + num - sum(each > max(after, held.trim.position) for each in lost)

    def metrics(self, bandit: int) -> dict[str, Totals]:
        """See `LogReader.metrics`."""
        with self._reading() as contents:
            return dict(sorted(contents.of(bandit).metrics.items()))

    def evicted(
        self,
        record: BanditRecord,
        through: LogPosition,
        position: LogPosition,
        most: int,
        weights: Weights | None = None,
    ) -> Evicted | None:
        """See `LogReader.evicted`."""
        with self._reading() as contents:
            held = contents.of(record.key)
            if held.trim.position > through:
                raise LogTrimmed(f"{record.name}: the log begins after row {through}")
            return evicted_rows(record, held, through, position, most, weights)

    def imports(self, bandit: int) -> dict[SnapshotVersion, LogPosition]:
        """See `LogReader.imports`: no stored snapshot is older than the log's beginning."""
        with self._reading() as contents:
            held = contents.of(bandit)
            rows = [each.row for each in held.log.changes(held.trim.position)]
            return {row.version: row.position for row in rows if isinstance(row, ImportRow)}

    def void_rows(self, bandit: int, after: LogPosition, up_to: LogPosition) -> list[VoidRow]:
        """See `LogReader.void_rows`."""
        with self._reading() as contents:
            return [each.row for each in contents.of(bandit).log.voids(after, up_to)]

    def void_values(
        self, record: BanditRecord, voids: Sequence[VoidRow]
    ) -> Iterator[tuple[VoidRow, LearnRow]]:
        """See `LogReader.void_values`."""
        with self._reading() as contents:
            bandit, wanted, spec = contents.of(record.key), set(voids), record.spec
            found = []
            for row, key, item in bandit.log.voids():
                held = bandit.decisions.get(key)
                if row not in wanted or held is None or held.is_erased:
                    continue
                picked = held.record.chosen[item]
                value = LearnRow(
                    row.origin, row.time, contents.name(held), row.origin, None, row.before,
                    context_row(spec.context, held.record.context),
                    action_row(spec.actions, picked.features), picked.slot, row.low, row.high,
                    row.metrics,
                )  # fmt: skip
                found.append((row, value))
        yield from found

    def last_import(self, bandit: int, up_to: LogPosition) -> LogPosition:
        """See `LogReader.last_import`."""
        with self._reading() as contents:
            rows = [each.row for each in contents.of(bandit).log.changes(0, up_to)]
            positions = [row.position for row in rows if isinstance(row, ImportRow)]
            return positions[-1] if positions else BEGINNING

    def erasures(self) -> list[Erasure]:
        """See `LogReader.erasures`."""
        with self._reading() as contents:
            return list(contents.erasures.values())

    def relearning(self) -> list[Relearning]:
        """See `LogReader.relearning`."""
        with self._reading() as contents:
            return [contents.relearning[key] for key in sorted(contents.relearning)]

    def blanked(self, bandit: int | None = None) -> list[Blanked]:
        """See `LogReader.blanked`."""
        with self._reading() as contents:
            keys = sorted(contents.live) if bandit is None else [bandit]
            return [each for key in keys for each in contents.of(key).blanked]

    # -- for retention and verification -------------------------------------------------------

    def first_learned(self, bandit: int, number: int, up_to: LogPosition) -> LogPosition:
        """See `LogReader.first_learned`."""
        with self._reading() as contents:
            held = contents.of(bandit)
            rows = (row for row, _, _ in held.log.learn_rows())
            first = [row.position for row in rows if row.before is None]
            lost = held.erased | {each.row.origin for each in held.log.voids(up_to=up_to)}
            return [each for each in first if each not in lost][number - 1]

    def last_before(self, bandit: int, time: float) -> LogPosition:
        """See `LogReader.last_before`."""
        with self._reading() as contents:
            log, trim = contents.of(bandit).log, contents.of(bandit).trim.position
            behind = (each for each in log.rows() if each.row.position > trim)
            newer = next((each for each in behind if each.row.time >= time), None)
            if newer is None:
                return log.head if log.head > trim else BEGINNING
            ended = log.between(trim, newer.row.position - 1)
            return ended[-1].position if ended else BEGINNING

    def with_old_rows(self, before: float, change_bytes: int) -> set[int]:
        """See `LogReader.with_old_rows`."""
        with self._reading() as contents:
            return {
                key
                for key in contents.live
                if _has_old_rows(contents.of(key), key_at(key, before), before, change_bytes)
            }

    def decision_time(
        self,
        number: int,
        after: Mapping[int, DecisionKey] = NOTHING_EXAMINED,
        behind: float = -math.inf,
    ) -> float | None:
        """See `LogReader.decision_time`."""
        with self._reading() as contents:
            times = sorted(
                time_of(held.record.key)
                for key in contents.live
                for held in contents.of(key).in_order(after.get(key, -1))
                if time_of(held.record.key) > behind
            )
            return times[number] if number < len(times) else None

    def may_drop(self, record: BanditRecord, before: DecisionKey, after: DecisionKey) -> bool:
        """See `LogReader.may_drop`."""
        with self._reading() as contents:
            held = contents.of(record.key)
            found = held.in_order(after)
            if not found or not is_older(found[0].record.key, found[0].record.time, before):
                return False
            rules = held.log.configurations(record.spec).rules(found[0].record.position)
            is_open = found[0].closed_at is None and not found[0].is_erased
            return not (rules.reward_window_s is not None and is_open)

    def may_trim(self, bandit: int, up_to: LogPosition) -> bool:
        """See `LogReader.may_trim`."""
        with self._reading() as contents:
            held = contents.of(bandit)
            return bool(held.log.between(held.trim.position, min(up_to, held.log.head - 1)))

    def ends_learned(self, bandit: int, position: LogPosition) -> bool:
        """See `LogReader.ends_learned`."""
        with self._reading() as contents:
            log = contents.of(bandit).log
            return log.head == position and isinstance(log.at(position), LearnedRow)


def _has_old_rows(
    held: HeldBandit, before_key: DecisionKey, before: float, change_bytes: int
) -> bool:
    changes = [each for each in held.log.changes() if isinstance(each.row, CatalogueRow)]
    return (
        any(decision.record.key < before_key for decision in held.in_order()[:1])
        or any(row.time < before for row, _, _ in itertools.islice(held.log.learn_rows(), 1))
        or sum(len(each.payload) for each in changes) > change_bytes
    )


def _no_actions(record: BanditRecord) -> Catalogue:
    return Catalogue.empty(record.spec.row_layout)
