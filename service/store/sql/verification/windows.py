"""Checks the reward windows: each decision of a bandit with windows has an open or a closed one.

A server opens and closes windows meanwhile. What looks wrong is therefore read again, all of it in
one transaction.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import DecisionKey
from bandexa_core.log.configurations import Configurations
from service.store.findings import Check, Report, Say
from service.store.identity import bandit_of
from service.store.records import BanditRecord
from service.store.sql.verification.tables import Tables

CHUNK = 5000


class WindowAudit:
    """Checks the windows of all bandits."""

    def __init__(
        self, tables: Tables, records: list[BanditRecord], report: Report, say: Say
    ) -> None:
        self._tables = tables
        self._say = say
        self._checks: dict[int, Check | None] = {record.key: None for record in records}
        self._records = {record.key: record for record in records}
        self._known: dict[int, Configurations] = {}
        self._everything = report.check(None, "windows")
        for record in records:
            known = tables.configurations(record)
            if known.ever_had_windows:
                self._known[record.key] = known
                self._checks[record.key] = report.check(record.name, "windows")

    def audit(self) -> None:
        """Check everything."""
        for wrong in self._tables.wrongly_maturing():
            if (check := self._checks.get(bandit_of(wrong))) is not None:
                check.problem(f"windows: the decision at key {wrong} waits to be mature, in vain")
        self._everything.compared = f"{self._check_open()} open windows have their decision"
        for key, check in self._checks.items():
            if check is not None:
                check.compared = f"{self._check_decisions(key, check)} decisions wait for their end"

    def _check_open(self) -> int:
        """Check each open window; returns how many there are."""
        last, num, more = (-math.inf, 0), 0, True
        while more:
            rows = self._tables.windows(last, CHUNK)
            for row in rows:
                bandit = bandit_of(row.key)
                if bandit not in self._checks:
                    continue  # it is deleted, or was created meanwhile
                check = self._checks[bandit]
                if check is None and self._has_windows_now(bandit):
                    continue  # its rules were changed meanwhile
                if check is None:
                    self._everything.problem(f"the window at key {row.key}: its bandit has none")
                elif not row.has_decision:
                    check.problem(f"windows: the one at key {row.key} has no decision")
                elif row.closed is not None:
                    check.problem(f"windows: the one at key {row.key} is open, and was closed")
            num, more = num + len(rows), len(rows) == CHUNK
            if more:
                last = rows[-1].closes, rows[-1].key
                self._say(f"{num} windows")
        return num

    def _has_windows_now(self, bandit: int) -> bool:
        return self._tables.configurations(self._records[bandit]).ever_had_windows

    def _check_decisions(self, bandit: int, check: Check) -> int:
        """Check each decision that was not closed; returns how many there are."""
        last, num, more = DecisionKey(0), 0, True
        known = self._tables.open_windows(bandit)
        while more:
            keys, more, end = self._waiting(bandit, last)
            if not np.isin(keys, known).all():
                with self._tables.moment():
                    keys, more, end = self._waiting(bandit, last)
                    known = self._tables.open_windows(bandit)
                for key in keys[~np.isin(keys, known)].tolist():
                    check.problem(
                        f"windows: that of the decision at key {key} is neither open nor closed"
                    )
            num, last = num + len(keys), end
        return num

    def _waiting(
        self, bandit: int, after: DecisionKey
    ) -> tuple[NDArray[np.int64], bool, DecisionKey]:
        """Return the next decisions that have a window and were not closed, by their keys.

        Also whether there are more, and where they begin.
        """
        found = self._tables.not_closed(bandit, after, CHUNK)
        rules = self._known[bandit].rules
        waits = [rules(position).reward_window_s is not None for position in found[:, 1].tolist()]
        end = DecisionKey(int(found[-1, 0])) if len(found) else after
        return found[np.array(waits, np.bool_), 0], len(found) == CHUNK, end
