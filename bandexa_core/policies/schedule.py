"""When a training round is due and how much it trains: functions of row counts alone."""

from __future__ import annotations

import math

from bandexa_core.spec import ForgettingSpec, TrainingSpec

FIRST_ROUND = 32
MIN_GAP = 32
FIRST_SCALING = 8  # of a fixed map; a learned encoder is standardised in its first round
GROWTH = 1.1
STEPS = 100
ROWS_PER_STEP = 50
MAX_STEPS = 1000
SNAPSHOT_EVERY = 10_000
# Inputs that leave their scale renew it, but not before a hundredth of the rows is newer.
ROWS_PER_RENEWAL = 100


def next_round(trained_rows: int, spec: TrainingSpec, forgetting: ForgettingSpec) -> int:
    """Return the number of rows at which the round after one at `trained_rows` is due.

    The first rounds come early, and gaps then grow geometrically. A round costs about the same
    while data grows, so the total stays near-linear in the rows. Forgotten rows do not count: with
    a half-life of H rows the gap is at most a tenth of the H / ln 2 rows that are remembered.
    `train_every` overrides the schedule with a fixed step.
    """
    if spec.train_every is not None:
        return trained_rows + spec.train_every
    gap = (GROWTH - 1.0) * trained_rows
    if forgetting.by == "count" and forgetting.half_life is not None:
        gap = min(gap, (GROWTH - 1.0) * forgetting.half_life / math.log(2.0))
    return max(FIRST_ROUND, trained_rows + max(MIN_GAP, int(gap)))


def next_scaling(scaled_rows: int) -> int:
    """Return the number of rows at which input scaling is computed again: twice as many."""
    return max(FIRST_SCALING, 2 * scaled_rows)


def optimizer_steps(spec: TrainingSpec, num_rows: int) -> int:
    """Return the optimizer steps of a round at `num_rows` rows.

    A finer fit takes more steps, and pays off with much data. One step for each fifty rows
    keeps the steps of all rounds together proportional to the rows.
    """
    if spec.optimizer_steps is not None:
        return spec.optimizer_steps
    return min(max(STEPS, num_rows // ROWS_PER_STEP), MAX_STEPS)
