"""Rewards that stop are seen as soon as that can be no chance, and no quiet day is an alarm."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from service.observe.silence import Loss, Silence

DAY_S = 86_400.0


def played(
    decisions: Iterator[float], rate: float, delay: Callable[[float], float], every_s: float
) -> Iterator[tuple[float, Silence]]:
    """Play decisions at these times, and yield the time and the state at regular moments."""
    rng, found, waiting = np.random.default_rng(7), Silence(), list[tuple[float, float]]()
    check = every_s
    for now in decisions:
        while (waiting and waiting[0][0] <= now) or check <= now:
            if waiting and waiting[0][0] <= min(now, check):
                at, made = heapq.heappop(waiting)
                found.joined(at, at - made)
            else:
                yield check, found
                check += every_s
        found.chosen(now, 1)
        if rng.random() < rate and (late := delay(now)) < math.inf:
            heapq.heappush(waiting, (now + late, now))


def regular(per_s: float, until: float) -> Iterator[float]:
    yield from (np.arange(int(per_s * until)) / per_s).tolist()


def test_a_total_loss_shows_within_a_minute() -> None:
    """Half of the decisions are rewarded, 15 s later on average, at two decisions a second."""
    rng, stops = np.random.default_rng(1), 1000.0

    def delay(now: float) -> float:
        late = float(rng.exponential(15.0))
        return late if now + late < stops else math.inf

    shown: list[tuple[float, Loss]] = []
    for now, found in played(regular(2.0, 1100.0), 0.5, delay, 1.0):
        if (loss := found.loss(now)) is not None:
            shown.append((now, loss))
    first, loss = shown[0]
    assert stops < first <= stops + 60.0
    assert stops - 20.0 < loss.since < stops
    assert shown[-1][0] > 1098.0
    assert found.shown_after_s(2.0) == pytest.approx(first - loss.since, rel=0.2)


def test_thirty_days_with_nights_have_no_alarm() -> None:
    """Traffic falls to a tenth at night; three in ten are rewarded after ten minutes."""
    rng = np.random.default_rng(2)

    def decisions() -> Iterator[float]:
        now = 0.0
        while now < 30 * DAY_S:
            now += float(rng.exponential(1.0)) / (
                0.02 * (0.55 - 0.45 * math.cos(now / DAY_S * 6.28))
            )
            yield now

    runs = played(decisions(), 0.3, lambda _: float(rng.exponential(600.0)), 300.0)
    assert [now for now, found in runs if found.loss(now) is not None] == []


def test_a_report_once_a_night_is_no_silence() -> None:
    runs = played(regular(0.02, 30 * DAY_S), 0.3, lambda now: DAY_S - now % DAY_S, 600.0)
    late = [now for now, found in runs if found.loss(now) is not None]
    assert [now for now in late if now > 3 * DAY_S] == []


def test_nothing_is_known_without_rewards() -> None:
    found = Silence()
    for second in range(1000):
        found.chosen(float(second), 5)
    assert found.loss(1e6) is None
    assert found.shown_after_s(5.0) is None
