"""The scales of inputs from learned rows: from all of them, or from a sample where they are many.

Legend: N rows, X context features, A action features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.byte_rows import joined
from bandexa_core.features.robust import Scale, scale_now, scale_of
from bandexa_core.replay import LearnedRows, Rows, RowWeights, TrainingRows

Array64 = NDArray[np.float64]
MOST_ROWS = 4096
NEWEST = 256
NEWEST_SHARE = 4  # the newest rows are at most a quarter: few rows vary by chance
LEAST_ACTIONS = 2  # actions are standardised by the catalogue if it has this many enabled
MOST_ACTIONS = 1024
MOST_BYTES = 64 << 20  # of the rows that are read at once


class InputRows(NamedTuple):
    """Raw inputs of learned rows.

    Attributes:
        contexts: (N, X).
        actions: Features of the chosen actions, (N, A).
        weights: (N,); None: all weigh 1.
        newest: How many of the last rows are the newest ones.
    """

    contexts: NDArray[Any]
    actions: NDArray[Any]
    weights: Array64 | None
    newest: int

    def scale(self, *, of_context: bool) -> Scale | None:
        """Return the scale of contexts or of chosen actions; None without weight."""
        values = self.contexts if of_context else self.actions
        return scale_now(values, self.weights, self.newest if of_context else 0)


def scanned_inputs(
    rows: LearnedRows, chunk: int, weights: RowWeights | None, seed: int
) -> InputRows | None:
    """Return the inputs of learned rows, or of some and of the newest ones; None without rows."""
    num = len(rows)
    newest = min(NEWEST, num // NEWEST_SHARE)
    taken_N = np.ones(num, np.bool_)
    parts: list[Rows] = []
    first = 0
    for part in rows.scan(chunk):
        if not first:
            most = _most(part)
            if num > most:
                rng = np.random.Generator(np.random.Philox(key=seed))
                taken_N[: num - newest] = False
                taken_N[rng.choice(num, most, replace=False)] = True
        numbers = np.flatnonzero(taken_N[first : first + len(part)])
        parts.append(part if len(numbers) == len(part) else _some(part, numbers))
        first += len(part)
    return _joined(parts, weights, newest) if parts else None


def drawn_inputs(
    rows: TrainingRows, chunk: int, weights: RowWeights | None, seed: int
) -> InputRows | None:
    """Return the inputs of rows, or of some drawn by weight and the newest; None without rows."""
    num = len(rows)
    newest = min(NEWEST, num // NEWEST_SHARE)
    most = max(NEWEST, min(MOST_ROWS, MOST_BYTES // rows.layout.row_bytes))
    if num <= most:
        return _joined(list(rows.scan(chunk)), weights, newest) if num else None
    rng = np.random.Generator(np.random.Philox(key=seed))
    sums_N = None if weights is None else np.cumsum(weights(rows.positions()))
    last_N = np.cumsum(np.arange(num) >= num - newest, dtype=np.float64)
    parts = [rows.sample(rng, most, sums_N), rows.sample(rng, newest, last_N)]
    return _joined(parts, None, newest)


def drawn_rewards(rows: TrainingRows, chunk: int, weights: RowWeights | None, seed: int) -> Rows:
    """Return rows with their rewards: all, or some drawn by weight where they are many."""
    most = max(NEWEST, min(MOST_ROWS, MOST_BYTES // rows.layout.row_bytes))
    sums_N = None if weights is None else np.cumsum(weights(rows.positions()))
    if len(rows) <= most and sums_N is None:
        return next(iter(rows.scan(max(chunk, len(rows)))))
    rng = np.random.Generator(np.random.Philox(key=seed))
    return rows.sample(rng, min(most, len(rows)), sums_N)


def spaced(actions: NDArray[Any]) -> NDArray[Any]:
    """Return evenly spaced elements of an array, `MOST_ACTIONS` at most."""
    return actions[:: max(1, -(-len(actions) // MOST_ACTIONS))]


def catalogue_scale(enabled_KA: NDArray[np.float32]) -> Scale | None:
    """Return the scale of enabled actions (K, A), by evenly spaced ones where they are many.

    None where they are too few.
    """
    if len(enabled_KA) < LEAST_ACTIONS:
        return None
    return scale_of(spaced(enabled_KA))


def _most(rows: Rows) -> int:
    """Return how many rows like these are read at most."""
    size = max(1, (rows.contexts.nbytes + rows.actions.nbytes) // max(1, len(rows)))
    return max(NEWEST, min(MOST_ROWS, MOST_BYTES // size))


def _some(rows: Rows, numbers: NDArray[np.int64]) -> Rows:
    return Rows(
        rows.positions[numbers], rows.slots[numbers], rows.rewards[numbers],
        rows.actions[numbers], rows.contexts[numbers],
    )  # fmt: skip


def _joined(parts: list[Rows], weights: RowWeights | None, newest: int) -> InputRows:
    positions_N = np.concatenate([part.positions for part in parts])
    return InputRows(
        joined([part.contexts.reshape(len(part), -1) for part in parts]),
        joined([part.actions for part in parts]),
        None if weights is None else weights(positions_N),
        newest,
    )
