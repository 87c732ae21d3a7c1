"""The operations of the store that change its contents; each is done as a whole or not at all."""

from __future__ import annotations

from typing import Any

from bandexa_core.ids import BanditUid, DecisionId, DecisionKey, SnapshotVersion
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.contract import can_mature
from bandexa_core.log.rows import CatalogueRow, ConfigRow, ImportRow
from bandexa_core.spec import BanditSpec
from service.store.clock import ServiceClock
from service.store.errors import Conflict
from service.store.hashing import (
    KIND_CATALOGUE,
    KIND_CONFIG,
    KIND_IMPORT,
    pack_change,
    pack_json,
    unpack_change,
)
from service.store.identity import AHEAD_S, MAX_BANDITS, made_at
from service.store.memory.contents import Contents
from service.store.memory.decisions import Decisions
from service.store.memory.erasing import Erasing
from service.store.memory.log import ChangeRow, HeldLog
from service.store.memory.trimming import Trimming
from service.store.protocol import MAX_AUDIT, Due, Reportable
from service.store.records import AuditEntry, BanditRecord, Erasure, RoundRecord

MAX_DUE = 500  # windows in one answer


class Operations:
    """The operations.

    Args:
        contents: What they change; its lock is held meanwhile.
        clock: Service time.

    Attributes:
        decisions: Those on decisions.
        trimming: Those of retention.
        erasing: Those of erasures.
    """

    def __init__(self, contents: Contents, clock: ServiceClock) -> None:
        self._contents = contents
        self._clock = clock
        self.decisions = Decisions(contents, clock)
        self.trimming = Trimming(contents)
        self.erasing = Erasing(contents)

    def due_windows(self) -> Due:
        """Find the windows that are over."""
        self._clock.note()
        now, contents = self._clock(), self._contents
        made = [contents.decision(key) for key in contents.windows.closes]
        times = [made_at(held.record.key, held.record.time) for held in made if held is not None]
        contents.windows.watch(now, max(times, default=None))
        windows, due, mature = contents.windows, contents.windows.due(now), []
        for matures, key in windows.mature(now):
            decision = self._reportable(key)
            if can_mature(decision.state):
                mature.append((matures, decision))
            else:
                windows.matured(key)
        found = tuple((closes, self._reportable(key)) for closes, key in due[:MAX_DUE])
        more = max(len(due), len(mature)) > MAX_DUE
        return Due(found, more, tuple(mature[:MAX_DUE]), self.decisions.new_ages())

    def _reportable(self, key: DecisionKey) -> Reportable:
        held = self._contents.decision(key)
        assert held is not None, "a decision goes with its window"
        return self.decisions.reportable(held)

    # -- the log ------------------------------------------------------------------------------

    def change(self, bandit: BanditRecord, change: CatalogueChange) -> CatalogueRow:
        """Log a change of the catalogue."""
        log, payload = self._log(bandit), pack_change(change)
        owned = unpack_change(payload, bandit.spec.row_layout)  # not the caller's arrays
        row = CatalogueRow(log.next(), self._clock(), owned)
        log.changed(KIND_CATALOGUE, ChangeRow(row, payload))
        return row

    def config(self, bandit: BanditRecord, payload: dict[str, Any]) -> ConfigRow:
        """Log a change of the configuration, or a switch."""
        log = self._log(bandit)
        row = ConfigRow(log.next(), self._clock(), payload)
        log.changed(KIND_CONFIG, ChangeRow(row, pack_json(payload)))
        self.decisions.reconfigured(bandit.key)
        return row

    def import_snapshot(self, bandit: BanditRecord, version: SnapshotVersion) -> ImportRow:
        """Log an import."""
        log = self._log(bandit)
        row = ImportRow(log.next(), self._clock(), version)
        log.changed(KIND_IMPORT, ChangeRow(row, pack_json({"version": version})))
        return row

    def _log(self, bandit: BanditRecord) -> HeldLog:
        if bandit.key not in self._contents.live:
            raise Conflict("the bandit was deleted while the request was on its way")
        return self._contents.of(bandit.key).log

    def round(self, bandit: BanditRecord, record: RoundRecord) -> None:
        """Store a training round; the oldest ones go."""
        self._contents.of(bandit.key).rounds.append(record)

    def audit(self, entry: AuditEntry) -> None:
        """Store what was done to a bandit; the oldest entries of its name go."""
        audit = self._contents.audit
        audit.append(entry._replace(row=audit[-1].row + 1 if audit else 1))
        mine = [each for each in audit if each.bandit == entry.bandit]
        if len(mine) > MAX_AUDIT:
            audit.remove(mine[0])

    def challenger(self, bandit: BanditRecord, name: str, state: str | None) -> None:
        """Store, or remove, what is noted of a challenger."""
        self._log(bandit)  # of a bandit that is deleted there are none
        challengers = self._contents.of(bandit.key).challengers
        challengers.pop(name, None)
        if state is not None:
            challengers[name] = state

    def begin_erasure(
        self, bandit: int | None, unit: str | None, ids: tuple[DecisionId, ...]
    ) -> Erasure:
        """Store what is to be erased; it concerns what was decided before."""
        return self.erasing.begin(bandit, unit, ids, self._clock() + AHEAD_S)

    # -- bandits ------------------------------------------------------------------------------

    def create(self, uid: BanditUid, name: str, spec: BanditSpec) -> BanditRecord:
        """Create a bandit."""
        contents = self._contents
        if any(record.name == name for record in contents.live.values()):
            raise Conflict(f"there is a bandit {name!r} already")
        if uid != contents.next_uid(name):
            raise Conflict(f"a bandit {name!r} was created and deleted meanwhile")
        if len(contents.created) + 1 >= MAX_BANDITS:
            raise Conflict(f"this store has had {len(contents.created)} bandits, the most")
        record = BanditRecord(len(contents.created) + 1, uid, name, spec, self._clock.wall())
        contents.add_bandit(record)
        return record

    def delete(self, bandit: BanditRecord) -> None:
        """Delete a bandit with all that is stored of it."""
        self._contents.end_groups()
        self._contents.remove_bandit(bandit.key)
        self.decisions.forget(bandit.key)
