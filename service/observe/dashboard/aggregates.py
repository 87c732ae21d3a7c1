"""What is counted of decisions and learned values; `store.sqlite.aggregates` stores the counts."""

from __future__ import annotations

import math
from bisect import bisect_left

from service.store.records import CountedRow
from service.store.sqlite.aggregates import MOMENT, Additions

DELAYS_S = (
    0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 10800.0, 21600.0, 43200.0,
    86400.0, 172800.0, 345600.0, 604800.0, 1209600.0, 2592000.0,
)  # fmt: skip


class Counts(Additions):
    """Counts of some decisions and values, to be added to the aggregates."""

    def add_decision(self, uid: str, decision: CountedRow) -> None:
        """Count a decision."""
        key = _moment(uid, decision.time)
        sums = self.sums[key]
        sums["selects"] += 1
        sums["chosen"] += len(decision.actions)
        if (p := decision.propensity) is not None:
            sums["propensities"] += 1
            sums["propensity"] += p
            sums["surprise"] -= math.log(p) if p else 0.0
        if decision.explored is not None:
            sums["looked"] += 1
            sums["explored"] += decision.explored
        if decision.std is not None:
            sums["stds"] += 1
            sums["std"] += decision.std
        counts = self.actions[key]
        for action in decision.actions:
            counts[action] += 1

    def add_value(self, uid: str, time: float, value: float, delay_s: float | None) -> None:
        """Count a first value, learned `delay_s` after its decision (None: unknown)."""
        key = _moment(uid, time)
        sums = self.sums[key]
        sums["num_values"] += 1  # `update` takes five times as long
        sums["value"] += value
        sums["square"] += value * value
        if delay_s is not None:
            self.delays[key][bisect_left(DELAYS_S, delay_s)] += 1

    def correct_value(self, uid: str, time: float, before: float, after: float) -> None:
        """Change a value that was first learned at `time`."""
        change = {"value": after - before, "square": after * after - before * before}
        self.sums[_moment(uid, time)].update(change)

    def remove_value(self, uid: str, time: float, value: float) -> None:
        """Count no longer a value that was first learned at `time`: it is void."""
        change = {"num_values": -1, "value": -value, "square": -value * value}
        self.sums[_moment(uid, time)].update(change)


def _moment(uid: str, time: float) -> tuple[str, int]:
    return uid, int(time // MOMENT) * MOMENT
