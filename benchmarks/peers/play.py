"""Plays a stream, and turns the choices into figures: pure arithmetic on means and choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.player import Outcome, Player
from benchmarks.peers.stream import Stream

LAST, FIRST = 300, 100
_PARTS = 10


def play(
    player: Player, stream: Stream, *, on_step: Callable[[], None] = lambda: None
) -> NDArray[np.int64]:
    """Return the action chosen at every step, int64 (T,).

    Raises:
        ValueError: The player chose an action that is not offered.
    """
    index = {action_id: number for number, action_id in enumerate(stream.action_ids)}
    chosen = np.empty(stream.horizon, np.int64)
    waiting: list[Outcome] = []
    offered: NDArray[np.int64] | None = None
    for t in range(stream.horizon):
        for action, step in stream.retired.items():
            if step == t:
                player.retire(stream.action_ids[action])
                offered = None
        if offered is None or stream.offered is not None:
            offered = stream.on_offer(t)
            ids = tuple(stream.action_ids[action] for action in offered)
            features = None if stream.action_features is None else stream.action_features[offered]
        choice = player.select(t, stream.contexts[t], ids, features)
        action = index[choice.action_id]
        if action not in offered:
            raise ValueError(f"step {t}: {choice.action_id!r} is not offered")
        chosen[t] = action
        waiting.append(
            Outcome(
                t,
                stream.contexts[t],
                choice.action_id,
                None if stream.action_features is None else stream.action_features[action],
                float(stream.rewards[t, stream.column(t, action)]),
                choice.propensity,
            )
        )
        if len(waiting) == stream.delay or t == stream.horizon - 1:
            player.learn(waiting)
            waiting = []
        on_step()
    return chosen


def figures(stream: Stream, chosen: NDArray[np.int64]) -> dict[str, Any]:
    """Return what a run is judged by.

    - `regret`: the sum of best - chosen in expected reward; `uniform_regret` that of a uniform
      choice among the offered actions; `percent` is 100 times their ratio, and `percent_by_tenth`
      the same within each tenth of the steps, `percent_of_first` within the first 100.
    - `best_share`: the share of the last 300 steps in which the best action was chosen.
    - `gain_share`: in the last quarter, the sum of chosen - uniform over that of best - uniform.
    - `earned_share`: in the last quarter, the sum of chosen over that of best.

    A figure is None where uniform choices have no regret.
    """
    steps = np.arange(stream.horizon)
    means = stream.means.copy()
    for action, step in stream.retired.items():
        means[step:, action] = np.nan
    columns = [stream.column(int(t), int(action)) for t, action in enumerate(chosen)]
    best, uniform = np.nanmax(means, axis=1), np.nanmean(means, axis=1)
    got = means[steps, columns]
    lost, spread, gain = best - got, best - uniform, got - uniform
    last, quarter = slice(-LAST, None), slice(3 * stream.horizon // 4, None)
    return {
        "steps": stream.horizon,
        "regret": float(lost.sum()),
        "uniform_regret": float(spread.sum()),
        "percent": _percent(lost, spread),
        "percent_by_tenth": [
            _percent(*parts)
            for parts in zip(
                np.array_split(lost, _PARTS), np.array_split(spread, _PARTS), strict=True
            )
        ],
        "percent_of_first": _percent(lost[:FIRST], spread[:FIRST]),
        "best_share": float((got[last] == best[last]).mean()),
        "gain_share": _ratio(gain[quarter], spread[quarter]),
        "earned_share": _ratio(got[quarter], best[quarter]),
        "mean_reward": float(stream.rewards[steps, columns].mean()),
    }


def _percent(lost: NDArray[np.float64], spread: NDArray[np.float64]) -> float | None:
    ratio = _ratio(lost, spread)
    return None if ratio is None else 100.0 * ratio


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> float | None:
    total = float(below.sum())
    return float(above.sum()) / total if total > 0.0 else None
