"""Standard deviations of a trained network mean what they say, by the rows that came later."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bandexa_core.policies.calibration import MOST, Calibration, held_out
from bandexa_core.policies.panel import Exploration
from bandexa_core.policies.schedule import most_decay
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior, PosteriorConfig
from bandexa_core.replay import MemoryReplay, RowLayout, Rows
from bandexa_core.spec import BanditSpec, ContextSpec, TrainingSpec

FIXED = PosteriorConfig(noise="fixed", noise_var=0.25, prior_var=2.0)
POOLED = PosteriorConfig(noise_var=0.25, prior_var=2.0, pooled=True)


def test_errors_are_those_of_the_predictive_distribution():
    """Against the textbook's, by a solved system."""
    rng = np.random.default_rng(1)
    z_ND, r_N = rng.normal(size=(30, 3)), rng.normal(size=30)
    posterior = GaussianPosterior.prior(3, FIXED)
    for z_D, r in zip(z_ND[:20], r_N[:20], strict=True):
        posterior.update(z_D, r)

    found, error = held_out(posterior, z_ND[20:], np.zeros(10, np.int64), r_N[20:])

    precision_DD = z_ND[:20].T @ z_ND[:20] / 0.25 + np.eye(3) / 2.0
    mean_D = np.linalg.solve(precision_DD, z_ND[:20].T @ r_N[:20] / 0.25)
    variances_N = 0.25 + np.einsum(
        "nd,nd->n", z_ND[20:], np.linalg.solve(precision_DD, z_ND[20:].T).T
    )
    squares_N = (r_N[20:] - z_ND[20:] @ mean_D) ** 2
    assert found == pytest.approx(squares_N / variances_N, rel=1e-10)
    assert error == pytest.approx(squares_N.mean(), rel=1e-10)


@pytest.mark.parametrize("config", [FIXED, POOLED])
def test_each_slot_predicts_its_own_rows(config):
    rng = np.random.default_rng(2)
    z_ND, r_N, slots_N = rng.normal(size=(60, 3)), rng.normal(size=60), np.arange(60) % 3
    posterior = DisjointPosterior.prior(3, config)
    for z_D, r, slot in zip(z_ND[:40], r_N[:40], slots_N[:40], strict=True):
        if slot != 2:
            posterior.update(int(slot), z_D, r)

    found, _ = held_out(posterior, z_ND[40:], slots_N[40:], r_N[40:])

    unseen = slots_N[40:] == 2
    prior_N = posterior.noise_mean * (1.0 + (z_ND[40:] ** 2).sum(1) * 2.0 / 0.25)
    assert found[unseen] == pytest.approx((r_N[40:] ** 2 / prior_N)[unseen], rel=1e-10)
    for slot in (0, 1):
        own = posterior.slot(slot)
        assert own is not None
        mean_N, std_N = own.mean_std(z_ND[40:])
        spread_N = std_N**2 * posterior.noise_mean / own.noise_mean
        expected_N = (r_N[40:] - mean_N) ** 2 / (posterior.noise_mean + spread_N)
        mine = slots_N[40:] == slot
        assert found[mine] == pytest.approx(expected_N[mine], rel=1e-10)


def test_the_factor_is_the_mean_of_the_errors_and_forgets_old_ones():
    calibration = Calibration()
    assert calibration.factor == 1.0
    for _ in range(100):
        calibration = calibration.tested(np.full(64, 9.0), 64, 320)
    assert calibration.num_rows == pytest.approx(128.0)
    assert calibration.factor == pytest.approx((128 * 9.0 + 8.0) / 136.0)
    calibration = calibration.tested(np.full(128, 1.0), 128, 640)
    assert calibration.factor == pytest.approx((64 * 9.0 + 128 + 8.0) / 200.0)
    assert calibration.spread == pytest.approx(math.sqrt(calibration.factor))


def test_the_factor_is_bounded_and_survives_a_snapshot():
    wild = Calibration().tested(np.full(50, 1e300), 10**6, 10**6)
    assert wild.factor == pytest.approx(MOST, rel=1e-4)
    assert Calibration.loaded(wild.tensors()) == wild
    with pytest.raises(ValueError, match="calibration"):
        Calibration.loaded({})
    with pytest.raises(ValueError, match="calibration"):
        Calibration.loaded({"calibration": np.array([-1.0, 1.0])})


def test_one_wrong_reward_widens_nothing_by_much_and_not_for_long():
    calibration = Calibration()
    for num_rows in range(32, 1025, 32):
        calibration = calibration.tested(np.ones(32), 32, num_rows)
    squares_N = np.ones(100)
    squares_N[7] = 1e12
    hit = calibration.tested(squares_N, 100, 1124)
    assert hit.factor < 1.5
    assert hit.tested(np.ones(1000), 1000, 2124).factor < 1.05


def test_a_test_of_a_part_of_the_new_rows_stands_for_all_of_them():
    """At a million rows a round tests 1,024 of 100,000; the factor follows as with few rows."""
    before = Calibration(squares=1e6, num_rows=1e6)
    after = before.tested(np.full(1024, 5.0), 200_000, 10**6)
    assert after.factor == pytest.approx((0.5e6 + 5.0 * 2e5 + 8) / (0.5e6 + 2e5 + 8))


@pytest.mark.parametrize(
    ("factor", "decay"), [(0.5, 1.0), (1.0, 1.0), (1.3, 1.0), (1.6, 4.0), (2.5, 25.0)]
)
def test_weights_decay_faster_where_errors_are_larger_than_predicted(factor, decay):
    calibration = Calibration(squares=1e9 * factor, num_rows=1e9)
    assert calibration.decay == pytest.approx(decay, rel=1e-6)


@pytest.mark.parametrize(
    ("given", "most"),
    [
        ({"context": ContextSpec(shape=(3,)), "edition": 1, "reward_range": (0.0, 1.0)}, None),
        ({"context": ContextSpec(shape=(3,))}, 8 * 0.3),
        ({"context": ContextSpec(features="auto")}, 8 * 0.3),
        (
            {
                "context": ContextSpec(features="auto"),
                "training": TrainingSpec(weight_decay=0.5),
            },
            None,
        ),
    ],
)
def test_weights_decay_faster_where_noise_is_learned_by_heart(given, most):
    """But not where the configuration names the decay, or a release before 0.4 created it."""
    found = most_decay(BanditSpec(**given), 1000)
    assert found == (None if most is None else pytest.approx(most))


def _noise_rows(num: int, rng: np.random.Generator) -> Rows:
    """Return rows whose reward says nothing of context and action."""
    slots = rng.integers(0, 3, num)
    contexts = rng.normal(size=(num, 6)).astype(np.float32)
    actions = np.eye(3, dtype=np.float32)[slots]
    return Rows(np.arange(1, num + 1), slots, rng.normal(size=num), actions, contexts)


@pytest.mark.few(1)
@pytest.mark.parametrize("heads", ["shared", "per_action"])
def test_a_network_that_fits_noise_predicts_deviations_of_the_right_size(make_neural, plan, heads):
    """The errors on later rows have the predicted size with calibration, and are larger without."""
    num_heads = 3 if heads == "per_action" else 1
    options = {"steps": 60, "lr": 2e-3, "num_heads": num_heads}
    actions = np.zeros((0, 3), np.float32)
    found, factors = [], []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        policy = make_neural(
            shape=(6,), action_dim=3, params={"heads": heads, "feature_dim": 32, "hidden": [64]}
        )
        rows = _noise_rows(2000, rng)
        replay = MemoryReplay(RowLayout((6,), "float32", 3))
        state: dict[str, Any] = {}
        since = 0
        for end in range(100, 301, 40):
            replay.append(rows.part(slice(since, end)))
            state, measured = policy.train(
                replay, state, plan(num_rows=end, since=since, actions=actions, **options)
            )
            assert ("held_out_error" in measured) == (since > 0), "the first round has no earlier"
            since = end
        later = rows.part(slice(since, None))
        z_ND = policy.features(later.contexts, later.actions)
        squares_N, _ = held_out(policy.posterior, z_ND, later.slots, later.rewards)
        found.append(squares_N.mean())
        factors.append(policy.calibration.factor)
    assert np.mean(found) > 1.25
    assert 0.85 < np.mean(found) / np.mean(factors) < 1.15


def test_draws_and_reported_deviations_are_multiplied(make_neural, candidates_of, decision_rng):
    policy = make_neural(params={"heads": "per_action"})
    candidates, x = candidates_of(4), np.ones(4, np.float32)
    means, stds = policy.score(x, candidates)
    exploration = Exploration(panel=64)
    plain = policy.select(x, candidates, decision_rng(1), exploration=exploration)

    policy.calibration = Calibration(squares=8.0 * 17 - 8.0, num_rows=0.0)  # a factor of 17
    wide_means, wide_stds = policy.score(x, candidates)
    wide = policy.select(x, candidates, decision_rng(1), exploration=exploration)

    assert wide_means == pytest.approx(means)
    assert wide_stds == pytest.approx(math.sqrt(17.0) * stds)
    served = int(plain.chosen[0])
    assert int(wide.chosen[0]) == served
    assert wide.std == pytest.approx(math.sqrt(17.0) * plain.std)
    difference = float(plain.scores[0] - means[served])
    assert wide.scores[0] - means[served] == pytest.approx(math.sqrt(17.0) * difference)
