"""When a training round is due and how much it trains: functions of row counts alone."""

from __future__ import annotations

import math

from bandexa_core.spec import BanditSpec, ForgettingSpec, TrainingSpec

FIRST_ROUND = 32
MIN_GAP = 32
FIRST_SCALING = 8  # of a fixed map; a learned encoder is standardised in its first round
GROWTH = 1.1
ROWS_PER_STEP = 32  # two epochs a round, in batches of 64
MAX_STEPS = 1000
LEAST_DECAY = 0.01
DECAY_ROWS, MOST_DECAY = 300.0, 1.0
# Noise of few rows is soon learned by heart, most of all where most columns are 0 in most rows; the
# decay rises to so many times as much where later rows say so.
DECAY_RISE = 8.0
# Of bandits that release 0.3 or an older one created.
FIRST_EDITION_STEPS, FIRST_EDITION_ROWS_PER_STEP, FIRST_EDITION_DECAY = 100, 50, 0.01
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


def optimizer_steps(spec: BanditSpec, least: int, num_rows: int) -> int:
    """Return the optimizer steps of a round at `num_rows` rows.

    Each row is seen twice a round, which bounds the epochs: more steps fit the noise of few rows,
    so that the network is sure of what is chance. One step for each so many rows keeps the steps of
    all rounds together proportional to the rows.

    Args:
        spec: The configuration; its own number, if there is one, is returned.
        least: The encoder's least number of steps; see `EncoderModule.least_steps`.
        num_rows: Learned values so far.
    """
    if spec.training.optimizer_steps is not None:
        return spec.training.optimizer_steps
    if spec.edition == 1:
        return min(max(FIRST_EDITION_STEPS, num_rows // FIRST_EDITION_ROWS_PER_STEP), MAX_STEPS)
    return min(max(least, _rows_of_a_round(spec, num_rows) // ROWS_PER_STEP), MAX_STEPS)


def _rows_of_a_round(spec: BanditSpec, num_rows: int) -> int:
    """Return how many of so many rows a round still has: neither forgotten nor evicted."""
    forgetting, capacity = spec.forgetting, spec.replay.capacity
    if forgetting.by == "count" and forgetting.half_life is not None:
        num_rows = min(num_rows, int(forgetting.half_life / math.log(2.0)))
    return num_rows if capacity is None else min(num_rows, capacity)


def weight_decay(spec: BanditSpec, num_rows: int) -> float:
    """Return the weight decay of a round at `num_rows` rows.

    The decay is that of a Gaussian prior over the weights, whose share in the loss of a row falls
    with the number of rows.
    """
    if spec.training.weight_decay is not None:
        return spec.training.weight_decay
    if spec.edition == 1:
        return FIRST_EDITION_DECAY
    num_rows = max(_rows_of_a_round(spec, num_rows), 1)
    return min(max(DECAY_ROWS / num_rows, LEAST_DECAY), MOST_DECAY)


def most_decay(spec: BanditSpec, num_rows: int) -> float | None:
    """Return the most that the weight decay of a round may be; None where it does not adapt."""
    if spec.training.weight_decay is not None or spec.edition == 1:
        return None
    return DECAY_RISE * weight_decay(spec, num_rows)
