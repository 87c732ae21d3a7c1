"""A sample of the rows that left a replay or the log: those with the lowest ranks."""

from __future__ import annotations

import numpy as np

from bandexa_core.features.byte_rows import stacked
from bandexa_core.ids import LogPosition
from bandexa_core.log.metrics import Weights
from bandexa_core.replay import Evicted, Rows
from bandexa_core.replay.evicted import ranks, sample_size
from service.store.memory.contents import HeldBandit, Sampled
from service.store.memory.log import LearnedRow
from service.store.records import BanditRecord, SampledValue, Trim

Sample = dict[LogPosition, Sampled]


def sampled(record: BanditRecord, bandit: HeldBandit, rows: list[LearnedRow]) -> Sample:
    """Return first values that were learned, as rows of a sample, by their position."""
    positions = np.array([held.row.position for held in rows], np.int64)
    found = {}
    for (row, key, item), rank in zip(rows, ranks(record.uid, positions).tolist(), strict=True):
        held = bandit.decisions[key]
        value, metrics = held.state.items[item].value, None
        # A value that became void later has none any more; `evicted_rows` knows it.
        if value is None:
            value, metrics = row.after, row.metrics
        elif held.state.items[item].metrics:
            latest = bandit.log.at(held.learned[item].latest)
            assert isinstance(latest, LearnedRow), "it is in the log"
            metrics = latest.row.metrics
        newest = SampledValue(value, metrics, *held.learned[item].bounds)
        found[row.position] = Sampled(
            rank, row.slot, newest, row.action, row.context, key, held.own_id, held.record.unit
        )
    return found


def joined(bandit: HeldBandit, rows: Sample, size: int | None = None) -> Sample:
    """Return the sample of the rows that left the log and of `rows`, which come after them.

    It stays uniform where the stored sample was limited: then nothing is known of the rows beyond
    its highest rank, and so no other row beyond it takes part either.
    """
    stored = bandit.sample
    if stored and len(stored) < bandit.trim.learned:
        reach = max(row.rank for row in stored.values())
        rows = {origin: row for origin, row in rows.items() if row.rank <= reach}
    both = sorted((stored | rows).items(), key=lambda pair: pair[1].rank)
    return dict(both[:size])


def leave_sample(bandit: HeldBandit, position: LogPosition) -> None:
    """Remove a row that left the log from its sample, and from the count of such rows.

    A row that is in the log does not change: it will not enter the sample.
    """
    trim = bandit.trim
    if position <= trim.position:
        bandit.sample.pop(position, None)
        bandit.trim = Trim(trim.position, trim.hash, max(0, trim.learned - 1))


def evicted_rows(
    record: BanditRecord,
    bandit: HeldBandit,
    through: LogPosition,
    position: LogPosition,
    most: int,
    weights: Weights | None = None,
) -> Evicted | None:
    """Return a sample of the rows up to `through`, with their values at `position`."""
    log, trim, spec = bandit.log, bandit.trim, record.spec
    gone = bandit.erased | {held.row.origin for held in log.voids(up_to=position)}
    first = [
        held
        for held in log.learn_rows(trim.position, through)
        if held.row.before is None and held.row.position not in gone
    ]
    rows = sampled(record, bandit, first)
    if trim.learned and not bandit.sample:  # what left the log is not represented
        rows = {}
    both = joined(bandit, rows, sample_size(spec.row_layout, most))
    if not both:
        return None
    values = {origin: row.value for origin, row in both.items()}
    values |= {
        row.origin: SampledValue(row.before, row.metrics, row.low, row.high)
        for row, _, _ in log.voids(position)
        if row.origin in both
    }
    for later, _, _ in reversed(list(log.learn_rows(position))):
        if later.before is not None and later.origin in values:
            before = SampledValue(later.before, later.metrics_before, later.low, later.high)
            values[later.origin] = before
    origins = sorted(both)
    sample = Rows(
        positions=np.array(origins, np.int64),
        slots=np.array([both[origin].slot for origin in origins], np.int64),
        rewards=np.array([values[origin].learned(weights) for origin in origins], np.float64),
        actions=stacked([both[origin].action for origin in origins]),
        contexts=stacked([both[origin].context for origin in origins]),
    )
    return Evicted(sample, trim.learned + len(first))
