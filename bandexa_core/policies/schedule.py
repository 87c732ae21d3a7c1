"""When a training round is due and how much it trains: functions of row counts alone."""

from __future__ import annotations

from bandexa_core.spec import TrainingSpec

FIRST_ROUND = 32
MIN_GAP = 32
GROWTH = 1.1
STEPS = 100
SNAPSHOT_EVERY = 10_000


def next_round(trained_rows: int, spec: TrainingSpec) -> int:
    """Return the number of rows at which the round after one at `trained_rows` is due.

    Early, then geometric: a round costs about the same while data grows, so the total stays
    near-linear in the rows. `train_every` overrides it with a fixed step.
    """
    if spec.train_every is not None:
        return trained_rows + spec.train_every
    return max(FIRST_ROUND, trained_rows + MIN_GAP, int(trained_rows * GROWTH))


def optimizer_steps(spec: TrainingSpec) -> int:
    """Return the optimizer steps of a round."""
    return STEPS if spec.optimizer_steps is None else spec.optimizer_steps
