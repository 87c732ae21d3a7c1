"""Several metrics of a decision, and the value that is learned of them.

The value is the sum of the metrics, each times its weight. A metric that was not reported counts 0,
and so does one without a weight. The log has the metrics beside the value that they made when they
were reported, so a model that is learned under other weights takes its own sum of the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from bandexa_core.log.rows import Group, LearnRow, Metrics
from bandexa_core.spec import MAX_REWARD

Weights = Mapping[str, float]


class Totals(NamedTuple):
    """A metric of a bandit: of how many values it is part, and its sum over them."""

    num_values: int = 0
    total: float = 0.0


def in_order(metrics: Mapping[str, float]) -> Metrics:
    """Return metrics in the order of their names, without a negative zero."""
    return tuple((name, float(value) + 0.0) for name, value in sorted(metrics.items()))


def weighted(metrics: Metrics, weights: Weights) -> float:
    """Return the value that metrics make: exact up to one rounding per product and one of the sum.

    Weights of later than the reports may make a value that is too large: it counts as the largest.
    """
    total = math.fsum(weights.get(name, 0.0) * value for name, value in metrics)
    return min(max(total, -MAX_REWARD), MAX_REWARD) + 0.0


def weighted_row(row: LearnRow, weights: Weights | None) -> LearnRow:
    """Return a row with the values that its metrics make under a model's weights.

    Without weights, and where a value was not made of metrics, it is what it was when reported.
    """
    if weights is None or row.metrics is row.metrics_before is None:
        return row
    before, after = row.before, row.after
    if row.metrics_before is not None:
        before = weighted(row.metrics_before, weights)
    if row.metrics is not None:
        after = weighted(row.metrics, weights)
    return replace(row, before=before, after=after)


def weighted_group(group: Group, weights: Weights | None) -> Group:
    """Return a group with the values that metrics make under a model's weights."""
    if weights is None:
        return group
    return group._replace(
        rows=tuple(
            weighted_row(row, weights) if isinstance(row, LearnRow) else row for row in group.rows
        )
    )


def changed_totals(before: Metrics, after: Metrics) -> dict[str, Totals]:
    """Return what is added to the totals where the metrics of a value change."""
    old, new = dict(before), dict(after)
    return {
        name: Totals((name in new) - (name in old), new.get(name, 0.0) - old.get(name, 0.0))
        for name in old.keys() | new.keys()
        if old.get(name) != new.get(name)
    }
