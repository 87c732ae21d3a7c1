"""Reads decisions and learned values in small pieces, to be counted for the dashboard.

Used by one thread at a time. Every call is a short transaction that returns a few hundred rows.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Self

from msgspec.structs import replace

from bandexa_core.log.configurations import Configurations
from service.store.errors import StoreDamaged
from service.store.hashing import KIND_CONFIG, unpack_log_metrics
from service.store.identity import TIME_BITS
from service.store.records import CountedValue
from service.store.sql.clock import stored_clock
from service.store.sql.codec import chosen_score, unpack_shadows
from service.store.sql.database import Database
from service.store.sql.log_rows import config_rows
from service.store.sql.reader import stored_spec

MAX_KNOWN = 1000  # bandits whose configurations are in memory
_LEARNED = """
SELECT l.position, l.time, l.before, l.after, d.time,
  (SELECT o.time FROM log AS o WHERE o.bandit = l.bandit AND o.position = l.origin),
  d.imported IS NOT NULL,
  d.position, l.item, d.chosen, d.arm,
  d.arm IS NULL OR d.unit IS NULL OR NOT EXISTS (
    SELECT 1 FROM decisions AS e WHERE e.unit = d.unit AND e.key < d.key
    AND e.key >= l.bandit << :bits AND e.arm IS NOT NULL),
  l.payload, CASE WHEN :contexts THEN d.context END, d.propensity, l.origin, d.explored,
  CASE WHEN :shadows THEN d.candidates END,
  CASE WHEN :units AND d.unit IS NOT NULL THEN NOT EXISTS (
    SELECT 1 FROM decisions AS u WHERE u.unit = d.unit AND u.key < d.key
    AND u.key >= l.bandit << :bits) END
FROM log AS l LEFT JOIN decisions AS d ON d.key = l.key
WHERE l.bandit = :bandit AND l.position > :after AND l.position <= :up_to AND l.kind IN (1, 5)
ORDER BY l.position LIMIT :most
"""


class SqlCountingReader:
    """See `CountingReader`, of which each database has `newest` and `decisions` of its own.

    Args:
        connection: Is used for nothing else, and closed with the reader.
    """

    def __init__(self, connection: Database) -> None:
        self._db = connection
        self._configurations: dict[int, tuple[int, Configurations]] = {}  # and the newest row

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def learned(
        self,
        bandit: int,
        after: int,
        up_to: int,
        most: int,
        *,
        contexts: bool = False,
        shadows: bool = False,
        units: bool = False,
    ) -> list[CountedValue]:
        """See `CountingReader.learned`."""
        rows = self._db.execute(
            _LEARNED,
            {
                "bandit": bandit,
                "after": after,
                "up_to": up_to,
                "most": most,
                "bits": TIME_BITS,
                "contexts": contexts,
                "shadows": shadows,
                "units": units,
            },
        ).fetchall()
        values = [_value(*row) for row in rows]
        state = stored_clock(self._db)
        if state is None or not state.jumps:
            return values
        return [
            replace(
                value,
                time=state.wall_of(value.time),
                first_learned=(
                    None if value.first_learned is None else state.wall_of(value.first_learned)
                ),
            )
            for value in values
        ]

    def configurations(self, bandit: int) -> Configurations:
        """See `CountingReader.configurations`."""
        found = self._db.execute(
            "SELECT name, spec FROM bandits WHERE bandit = ? AND deleted IS NULL", (bandit,)
        ).fetchone()
        if found is None:
            raise KeyError(bandit)
        (newest,) = self._db.execute(
            "SELECT coalesce(max(position), 0) FROM log WHERE bandit = ? AND kind = ?"
            " AND kind <> 1",
            (bandit, KIND_CONFIG),
        ).fetchone()
        at, known = self._configurations.get(bandit, (-1, None))
        if known is None or at != newest:
            known = Configurations(stored_spec(*found), config_rows(self._db, bandit))
            if len(self._configurations) >= MAX_KNOWN:
                self._configurations.clear()
            self._configurations[bandit] = newest, known
        return known


def _value(
    position: int,
    time: float,
    before: float | None,
    after: float | None,
    decided: float | None,
    first_learned: float | None,
    imported: int,
    made_at: int | None,
    place: int,
    chosen: bytes | None,
    arm: str | None,
    is_first: int,
    payload: bytes | None,
    context: bytes | None,
    propensity: float | None,
    origin: int | None,
    explored: int | None,
    candidates: bytes | None,
    is_new_unit: int | None,
) -> CountedValue:
    action = score = metrics = metrics_before = shadows = None
    if chosen is not None:
        try:
            action, score = chosen_score("of a log row", chosen, place)
        except (StoreDamaged, IndexError):  # verification reports it
            action = score = None
    if candidates is not None:
        with suppress(StoreDamaged):  # likewise
            shadows = unpack_shadows(f"of log row {position}", candidates)
    if payload is not None:
        metrics, metrics_before = unpack_log_metrics(payload)
    return CountedValue(
        position, time, before, after, decided, first_learned, bool(imported), made_at, place,
        action, arm, bool(is_first), metrics, metrics_before, context, propensity, score, origin,
        None if explored is None else bool(explored), shadows,
        is_new_unit is None or bool(is_new_unit),
    )  # fmt: skip
