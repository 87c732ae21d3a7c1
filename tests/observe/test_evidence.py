"""Evidence against what is served: each finding in a scene that shows it, none in 30 quiet days.

Scenes are played by a real policy on simulated worlds; time is simulated as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.observe.counters import Traffic
from service.observe.evidence import (
    BLOCK,
    BLOCKS,
    WARM_UP,
    Decile,
    Evidence,
    Moved,
    Recent,
    Rival,
    Worse,
    deciles,
    delays_moved,
    joins_moved,
)
from service.observe.health import BanditState, Finding, check_bandit

WELL = BanditState(
    due_s=0.0, stale_s=900.0, failures=(0, ""), rows_wait_s=0.0, traffic=Traffic(), same_actions=0,
    last_action=None, same_values=0, last_value=None, num_values=0, outside=0.0,
    reward_range=(0.0, 1.0), learns=True, num_enabled=3,
)  # fmt: skip
NAMES = ["a", "b", "c"]


def found(evidence: Evidence, **more: Any) -> list[Finding]:
    return list(check_bandit(dataclasses.replace(WELL, evidence=evidence, **more)))


def names(evidence: Evidence, **more: Any) -> set[str]:
    return {finding.name for finding in found(evidence, **more)}


def played(
    num: int,
    chances: Callable[[int, np.ndarray], np.ndarray],
    mean: Callable[[int, float, int], float],
    predicted: Callable[[int, float, int], float] | None = None,
    seed: int = 0,
) -> Recent:
    """Play decisions: contexts x in [0, 1], probabilities of actions, 0/1 values by their mean."""
    rng, recent = np.random.default_rng(seed), Recent()
    for number in range(num):
        x = rng.random()
        p = chances(number, np.array([mean(number, x, k) for k in range(3)]))
        k = int(rng.choice(3, p=p))
        truth = mean(number, x, k)
        expected = truth if predicted is None else predicted(number, x, k)
        recent.add(NAMES[k], float(p[k]), float(rng.random() < truth), expected)
    return recent


def mostly(k: int, epsilon: float = 0.05) -> Callable[[int, np.ndarray], np.ndarray]:
    def chances(_: int, means: np.ndarray) -> np.ndarray:
        p = np.full(len(means), epsilon / len(means))
        p[k] += 1.0 - epsilon
        return p

    return chances


def best(_: int, means: np.ndarray) -> np.ndarray:
    return mostly(int(means.argmax()))(0, means)


def test_a_worse_action_that_is_served_is_an_alarm() -> None:
    """The world turned: b is better by .5 now, and a has 95 % of the decisions."""
    recent = played(WARM_UP + 4000, mostly(0), lambda n, x, k: (0.3, 0.8, 0.2)[k])
    worse = recent.evidence().worse
    assert worse is not None
    assert (worse.served, worse.better) == ("a", "b")
    assert worse.gain == pytest.approx(0.5, abs=4.5 * worse.error)
    (alarm,) = [f for f in found(recent.evidence()) if f.severity == "alarm"]
    assert alarm.name == "worse-action"
    assert "'b'" in alarm.message
    assert '"serve": "b"' in alarm.remedy


def test_the_estimate_is_that_of_inverse_propensities() -> None:
    """By hand: always b less what was served, with rewards centred, and its standard error."""
    rng, recent = np.random.default_rng(4), Recent()
    for _ in range(WARM_UP):
        recent.add("a", 1.0, 0.0, 0.0)
    rows = []
    for _ in range(2000):
        k = int(rng.choice(2, p=[0.9, 0.1]))
        rows.append((k, (0.9, 0.1)[k], float(rng.random() < (0.2, 0.6)[k])))
        recent.add("ab"[k], rows[-1][1], rows[-1][2], 0.5)
    ks, ps, rs = (np.array(column) for column in zip(*rows, strict=True))
    phi = (rs - rs.mean()) * ((ks == 1) / ps - 1.0)
    worse = recent.evidence().worse
    assert worse is not None
    assert worse.gain == pytest.approx(phi.mean())
    assert worse.error == pytest.approx(phi.std() / len(phi) ** 0.5)
    assert (worse.num, worse.rows) == (int((ks == 1).sum()), 2000)


def test_contexts_that_confound_means_are_no_alarm() -> None:
    """b earns .9 where it is served, in the best contexts for all, and a .2: but b in all
    contexts would earn less than what is served."""

    def mean(n: int, x: float, k: int) -> float:
        return (0.2 + 0.7 * (x > 0.9), 0.1 + 0.8 * (x > 0.9), 0.1)[k]

    def chances(n: int, means: np.ndarray) -> np.ndarray:
        return mostly(1 if means[1] > 0.5 else 0)(n, means)

    recent = played(WARM_UP + 5000, chances, mean)
    assert recent.evidence().worse is None
    assert "worse-action" not in names(recent.evidence())


def test_old_values_leave() -> None:
    recent = played(WARM_UP + 4000, mostly(0), lambda n, x, k: (0.3, 0.8, 0.2)[k])
    assert recent.evidence().worse is not None
    for _ in range(BLOCK * BLOCKS):
        recent.add("a", 0.95, 0.3, 0.3)
    assert recent.evidence().worse is None
    assert recent.evidence().num <= BLOCK * BLOCKS


def test_a_bandit_is_not_judged_while_it_warms_up() -> None:
    recent = played(WARM_UP + 900, mostly(0), lambda n, x, k: (0.1, 0.9, 0.2)[k])
    assert recent.evidence() == Evidence(900)


# -- one action has nearly all decisions ----------------------------------------------------------

OWN = Rival("a", 4000, 0.31, 0.33)


@pytest.mark.parametrize(
    ("rivals", "fires"),
    [
        ((OWN, Rival("b", 900, 0.1, 0.2), Rival("c", 900, 0.0, 0.3)), False),
        ((OWN, Rival("b", 900, 0.1, 0.2), Rival("c", 40, 0.0, 0.7)), True),  # reaches above
        ((OWN, Rival("b", 900, 0.1, 0.2), Rival("c", 3, 0.0, 0.2)), True),  # too few
        ((OWN, Rival("b", 900, 0.1, 0.2)), True),  # c was never tried
    ],
)
def test_one_action_is_healthy_only_where_the_others_are_known(rivals, fires) -> None:
    """The worst action in 3,991 of 4,000 decisions is no health."""
    evidence = Evidence(num=4000, top="a", share=0.998, rivals=rivals)
    assert ("one-sided" in names(evidence)) is fires


def test_actions_that_are_not_offered_are_no_rivals() -> None:
    evidence = Evidence(num=4000, top="a", share=0.99, rivals=(OWN, Rival("b", 3, 0.0, 1.0)))
    assert "one-sided" in names(evidence, num_enabled=2)
    assert names(evidence, num_enabled=1, enabled=lambda name: name == "a") == set()


def test_what_is_said_of_one_action_is_said_once() -> None:
    evidence = Evidence(num=4000, top="a", share=0.99, rivals=(OWN, Rival("b", 3, 0.0, 1.0)))
    assert names(evidence, same_actions=5000) == {"one-sided"}
    worse = Worse("a", 0.99, "b", 50, 0.3, 0.01, 4000)
    assert names(dataclasses.replace(evidence, worse=worse)) == {"worse-action"}


# -- predictions -----------------------------------------------------------------------------------


def test_deciles_are_tenths_by_prediction() -> None:
    pairs = [(n / 1000, float(n % 2)) for n in np.random.default_rng(1).permutation(1000).tolist()]
    rows = deciles(pairs)
    assert [row.num for row in rows] == [100] * 10
    assert [row.predicted for row in rows] == sorted(row.predicted for row in rows)
    assert rows[0].observed == pytest.approx(0.5)
    assert rows[0].error == pytest.approx(np.std([0, 1] * 50, ddof=1) / 10)
    assert deciles(pairs[:999]) == ()


def test_predictions_that_are_off_are_noticed_and_right_ones_are_not() -> None:
    def mean(n: int, x: float, k: int) -> float:
        return 0.2 + 0.6 * x

    off = played(3000, mostly(0), mean, lambda n, x, k: 0.5 + 3.0 * (mean(n, x, k) - 0.5))
    (notice,) = found(off.evidence())
    assert (notice.name, notice.severity) == ("miscalibrated", "notice")
    assert names(played(3000, mostly(0), mean).evidence()) == set()


def test_values_without_noise_do_not_make_small_gaps_large() -> None:
    rows = tuple(Decile(100, 0.1 * n + 0.002, 0.1 * n, 1e-17) for n in range(10))
    assert names(Evidence(num=2000, top="a", share=0.5, deciles=rows)) == set()
    rows = tuple(Decile(100, 0.1 * n + 0.2, 0.1 * n, 1e-17) for n in range(10))
    assert names(Evidence(num=2000, top="a", share=0.5, deciles=rows)) == {"miscalibrated"}


def test_one_decile_may_be_off() -> None:
    rows = tuple(Decile(100, 0.1 * n, 0.1 * n + (0.5 if n == 3 else 0.0), 0.04) for n in range(10))
    assert names(Evidence(num=2000, top="a", share=0.5, deciles=rows)) == set()


# -- days ------------------------------------------------------------------------------------------


def test_a_join_rate_that_moved_is_noticed() -> None:
    days = [(10_000, 3000), (9000, 2750), (11_000, 3250), (10_000, 3020)]
    assert joins_moved([*days, (10_000, 2900)]) is None
    moved = joins_moved([*days, (10_000, 1500)])
    assert moved is not None
    assert moved.before == pytest.approx(0.301, abs=0.01)
    assert moved.now == 0.15
    assert joins_moved([*days, (10_000, 4500)]) is not None
    assert joins_moved([*days, (400, 0)]) is None  # too few
    assert joins_moved([*days[:2], (10_000, 100)]) is None
    assert names(Evidence(joins=moved)) == {"join-rate-moved"}


def test_days_that_always_differ_are_no_reason() -> None:
    days = [(10_000, 3000), (10_000, 4500), (10_000, 2000), (10_000, 4000)]
    assert joins_moved([*days, (10_000, 1500)]) is None


def test_delays_that_moved_are_noticed() -> None:
    bounds = (1.0, 10.0, 60.0, 600.0)
    usual = {0: 100, 1: 700, 2: 200}
    assert delays_moved([usual] * 4, {0: 90, 1: 720, 2: 190}, bounds) is None
    moved = delays_moved([usual] * 4, {1: 100, 2: 300, 3: 600}, bounds)
    assert moved is not None
    assert (moved.before, moved.now) == (10.0, 600.0)
    assert delays_moved([usual] * 4, {3: 20}, bounds) is None
    assert names(Evidence(delays=moved)) == {"delays-moved"}
    assert isinstance(moved, Moved)


# -- quiet -----------------------------------------------------------------------------------------


@pytest.mark.few(1)
@pytest.mark.parametrize("world", range(2))
def test_thirty_quiet_days_have_no_finding(world: int) -> None:
    """600 values a day of a bandit that serves the best action of each context with a floor of
    5 %, looked at every hour; calibrated, with days and nights that differ a little."""
    rng = np.random.default_rng(world)
    slopes, levels = rng.uniform(-0.4, 0.4, 3), rng.uniform(0.3, 0.6, 3)
    if world == 0:
        slopes[:] = 0.0  # one action is the best everywhere
    recent, days, seen = Recent(), list[tuple[float, float]](), set[str]()
    num, pulls, sums = 625, np.zeros(3), np.zeros(3)
    histograms = list[dict[int, int]]()
    for _ in range(30):
        chosen = int(num * rng.uniform(0.8, 1.2))
        delays: dict[int, int] = {}
        for number in range(chosen):
            means = np.clip(levels + slopes * (rng.random() - 0.5), 0.05, 0.95)
            p = best(0, means)
            k = int(rng.choice(3, p=p))
            value = float(rng.random() < means[k])
            pulls[k] += 1
            sums[k] += value
            noise = rng.normal(0.0, 0.02)
            recent.add(NAMES[k], float(p[k]), value, float(means[k] + noise))
            place = int(rng.geometric(0.4)) - 1
            delays[place] = delays.get(place, 0) + 1
            if number % 60:
                continue
            seen |= names(
                dataclasses.replace(recent.evidence(), rivals=rivals_of(recent, pulls, sums))
            )
        days.append((chosen, float(rng.binomial(chosen, 0.4))))
        histograms.append(delays)
        past = [(c, j) for c, j in days[-8:]]
        bounds = tuple(float(3**n) for n in range(20))
        moved = Evidence(
            joins=joins_moved(past), delays=delays_moved(histograms[-8:-1], delays, bounds)
        )
        seen |= names(moved)
    assert seen == set()


def rivals_of(recent: Recent, pulls: np.ndarray, sums: np.ndarray) -> tuple[Rival, ...]:
    """Return what actions earned, with wide intervals, where one has nearly all decisions."""
    evidence = recent.evidence()
    if evidence.top is None or evidence.share < 0.98:
        return ()
    half = 4.0 * 0.5 / np.sqrt(np.maximum(pulls, 1.0))
    means = sums / np.maximum(pulls, 1.0)
    every = [
        Rival(name, int(n), float(m - h), float(m + h))
        for name, n, m, h in zip(NAMES, pulls, means, half, strict=True)
    ]
    return tuple(sorted(every, key=lambda rival: rival.name != evidence.top))
