"""Every environment against its formula, and the streams that all policies share."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from simulators.environments import (
    Environment,
    LabelledImages,
    MnistEnvironment,
    SyntheticEnvironment,
    TwoTowerEnvironment,
    WheelEnvironment,
    shipped_digits,
)


def digits(num: int = 30) -> LabelledImages:
    images = np.random.default_rng(0).integers(0, 256, (num, 28, 28), dtype=np.uint8)
    return LabelledImages(images, (np.arange(num) * 7 % 10).astype(np.uint8))


def synthetic(seed: int) -> Environment:
    return SyntheticEnvironment(horizon=40, num_actions=7, dim=3, seed=seed)


def mnist(seed: int) -> Environment:
    return MnistEnvironment(digits(), horizon=40, seed=seed)


def two_tower(seed: int) -> Environment:
    return TwoTowerEnvironment(horizon=40, num_actions=50, candidate_size=8, dim=4, seed=seed)


def retrieving(seed: int) -> Environment:
    return TwoTowerEnvironment(
        horizon=40, num_actions=50, candidate_size=8, dim=4, retrieve=True, seed=seed
    )


def drifting(seed: int) -> Environment:
    return SyntheticEnvironment(horizon=40, num_actions=7, dim=3, drift_at=20, seed=seed)


def wheel(seed: int) -> Environment:
    return WheelEnvironment(horizon=40, seed=seed)


every_environment = pytest.mark.parametrize(
    "make", [synthetic, drifting, mnist, two_tower, retrieving, wheel]
)
Make = Callable[[int], Environment]


def offered(environment: Environment, t: int) -> np.ndarray:
    candidates = environment.candidates(t)
    return np.arange(len(environment.action_ids)) if candidates is None else candidates


def stream(environment: Environment) -> list[tuple[bytes, bytes, bytes]]:
    """Return everything a policy can receive: per step context, candidates and their rewards."""
    return [
        (
            environment.context(t).tobytes(),
            offered(environment, t).tobytes(),
            np.array([environment.reward(t, int(a)) for a in offered(environment, t)]).tobytes(),
        )
        for t in range(environment.horizon)
    ]


@every_environment
def test_equal_seeds_give_equal_streams_and_others_do_not(make: Make) -> None:
    assert stream(make(3)) == stream(make(3))
    assert stream(make(3)) != stream(make(4))


@every_environment
def test_a_step_does_not_depend_on_earlier_calls(make: Make) -> None:
    """One environment is played in order with varying choices, the other only at its last step."""
    fresh, played = make(1), make(1)
    for t in range(played.horizon):
        played.context(t)
        for action in offered(played, t)[: t % 4]:
            played.reward(t, int(action))
    played.probes(5)
    last = fresh.horizon - 1
    assert stream(played)[last] == stream(fresh)[last]


@every_environment
def test_contexts_have_the_declared_shape_and_dtype(make: Make) -> None:
    environment = make(0)
    for context in (environment.context(0), environment.probes(2)[0]):
        assert context.shape == environment.context_shape
        assert str(context.dtype) == environment.context_dtype


@every_environment
def test_probes_repeat(make: Make) -> None:
    assert make(0).probes(32).tobytes() == make(0).probes(32).tobytes()


@every_environment
def test_expected_rewards_have_the_order_of_the_given_actions(make: Make) -> None:
    environment = make(0)
    actions = offered(environment, 5)
    backwards = environment.expected(5, actions[::-1])
    assert backwards.tolist() == environment.expected(5, actions)[::-1].tolist()


@pytest.mark.parametrize("drift_at", [None, 2])
def test_synthetic_expected_reward_is_the_formula(drift_at: int | None) -> None:
    environment = SyntheticEnvironment(
        horizon=4, dim=2, num_actions=4, interaction_scale=1.7, drift_at=drift_at, seed=5
    )
    for t in range(4):
        weights = environment.weights(t)
        x = [float(value) for value in environment.context(t)]
        for action in range(4):
            a = [float(value) for value in environment.action_features[action]]
            total = weights.bias
            for i in range(2):
                total += weights.context[i] * x[i]
                total += weights.action[i] * a[i]
                total += weights.interaction[i] * x[i] * a[i]
            expected = environment.expected(t, np.array([action]))[0]
            assert expected == pytest.approx(math.tanh(total), rel=1e-12)


def test_synthetic_interaction_scale_multiplies_only_the_interactions() -> None:
    plain = SyntheticEnvironment(horizon=2, drift_at=1, seed=1)
    scaled = SyntheticEnvironment(horizon=2, drift_at=1, interaction_scale=3.0, seed=1)
    for t in range(2):
        weights, expected = scaled.weights(t), plain.weights(t)
        np.testing.assert_array_equal(weights.interaction, 3.0 * expected.interaction)
        np.testing.assert_array_equal(weights.context, expected.context)
        np.testing.assert_array_equal(weights.action, expected.action)
        assert weights.bias == expected.bias
        np.testing.assert_array_equal(scaled.context(t), plain.context(t))
    np.testing.assert_array_equal(scaled.action_features, plain.action_features)


def test_synthetic_drift_redraws_all_weights_at_its_step_and_nothing_else() -> None:
    still = SyntheticEnvironment(horizon=30, seed=2)
    moved = SyntheticEnvironment(horizon=30, drift_at=12, seed=2)
    np.testing.assert_array_equal(moved.action_features, still.action_features)
    everything = np.arange(50)
    for t in range(30):
        np.testing.assert_array_equal(moved.context(t), still.context(t))
        same = np.array_equal(moved.expected(t, everything), still.expected(t, everything))
        assert same == (t < 12)
        noise = [
            problem.reward(t, 7) - problem.expected(t, np.array([7]))[0]
            for problem in (moved, still)
        ]
        assert noise[0] == pytest.approx(noise[1], abs=1e-12)
    before, after = moved.weights(11), moved.weights(12)
    assert before.bias != after.bias
    for name in ("context", "action", "interaction"):
        assert (getattr(before, name) != getattr(after, name)).all()


def test_synthetic_weights_after_a_drift_follow_the_same_law() -> None:
    """1000 standard normal weights, interactions doubled; standard errors 0.022 of the sd."""
    problem = SyntheticEnvironment(horizon=2, dim=1000, interaction_scale=2.0, drift_at=1, seed=0)
    weights = problem.weights(1)
    assert weights.context.std() == pytest.approx(1.0, abs=0.08)
    assert weights.action.std() == pytest.approx(1.0, abs=0.08)
    assert weights.interaction.std() == pytest.approx(2.0, abs=0.16)


@pytest.mark.parametrize("drift_at", [0, 10, 11])
def test_synthetic_refuses_a_drift_outside_the_run(drift_at: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to 9, not {drift_at}"):
        SyntheticEnvironment(horizon=10, drift_at=drift_at)


def test_synthetic_noise_is_one_normal_draw_per_step_whatever_the_action() -> None:
    environment = SyntheticEnvironment(horizon=4000, num_actions=5, noise_std=0.1, seed=0)
    actions = np.arange(5)
    noise = np.array(
        [
            [environment.reward(t, int(a)) for a in actions] - environment.expected(t, actions)
            for t in range(4000)
        ]
    )
    assert np.ptp(noise, axis=1).max() < 1e-12
    # 4000 draws: the standard errors are 0.0016 and 0.0011
    assert abs(noise[:, 0].mean()) < 0.007
    assert noise[:, 0].std() == pytest.approx(0.1, abs=0.005)


def test_synthetic_draws_are_standard_normal() -> None:
    environment = SyntheticEnvironment(horizon=2000, num_actions=2000, seed=0)
    contexts = np.array([environment.context(t) for t in range(2000)])
    for values in (contexts, environment.action_features):
        assert abs(values.mean()) < 0.03
        assert values.std() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda horizon: SyntheticEnvironment(horizon=horizon, seed=2),
        lambda horizon: SyntheticEnvironment(horizon=horizon, drift_at=5, seed=2),
        lambda horizon: WheelEnvironment(horizon=horizon, seed=2),
    ],
    ids=["synthetic", "drifting", "wheel"],
)
def test_a_longer_horizon_starts_with_the_shorter_one(make: Callable[[int], Environment]) -> None:
    assert stream(make(10)) == stream(make(30))[:10]


def test_two_tower_expected_reward_is_the_formula() -> None:
    environment = TwoTowerEnvironment(
        horizon=2, num_actions=5, candidate_size=3, dim=3, latent_dim=2, seed=4
    )
    x = [float(value) for value in environment.context(1)]
    for action in range(5):
        a = [float(value) for value in environment.action_features[action]]
        products = []
        for row in range(2):
            u = math.tanh(sum(environment.context_weights[row, i] * x[i] for i in range(3)))
            v = math.tanh(sum(environment.action_weights[row, i] * a[i] for i in range(3)))
            products.append(u * v)
        squares = sum(product**2 for product in products) / 2
        logit = sum(products) / math.sqrt(2) + 0.25 * squares - 0.1
        expected = environment.expected(1, np.array([action]))[0]
        assert expected == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-12)


def test_two_tower_parameters_have_the_stated_scales() -> None:
    environment = TwoTowerEnvironment(horizon=1, dim=100, latent_dim=100, seed=0)
    assert environment.action_features.std() == pytest.approx(0.6, abs=0.005)
    assert environment.context_weights.std() == pytest.approx(0.7, abs=0.02)
    assert environment.action_weights.std() == pytest.approx(0.7, abs=0.02)


def test_two_tower_rewards_are_clamped_noisy_means() -> None:
    environment = TwoTowerEnvironment(
        horizon=500, num_actions=20, candidate_size=5, noise_std=1.0, seed=0
    )
    rewards = np.array([environment.reward(t, 3) for t in range(500)])
    assert rewards.min() == 0.0
    assert rewards.max() == 1.0
    inside = (rewards > 0.0) & (rewards < 1.0)
    means = np.array([environment.expected(t, np.array([3]))[0] for t in range(500)])
    other = np.array([environment.reward(t, 4) for t in range(500)])
    other_means = np.array([environment.expected(t, np.array([4]))[0] for t in range(500)])
    both = inside & (other > 0.0) & (other < 1.0)
    np.testing.assert_allclose((rewards - means)[both], (other - other_means)[both], atol=1e-12)


def test_two_tower_candidates_are_distinct_uniform_and_new_at_every_step() -> None:
    environment = TwoTowerEnvironment(horizon=400, num_actions=50, candidate_size=10, seed=0)
    drawn = [environment.candidates(t) for t in range(400)]
    counts = np.zeros(50)
    for candidates in drawn:
        assert candidates is not None
        assert len(np.unique(candidates)) == 10
        assert (np.diff(candidates) > 0).all()
        counts[candidates] += 1
    # each action is expected 80 times with a standard deviation of 8
    assert np.abs(counts - 80).max() < 40
    assert len({candidates.tobytes() for candidates in drawn if candidates is not None}) == 400


def test_two_tower_retrieval_offers_all_actions_and_states_the_number_to_retrieve() -> None:
    environment = retrieving(0)
    assert environment.candidates(0) is None
    assert environment.retrieve == 8


def test_two_tower_refuses_more_candidates_than_actions() -> None:
    with pytest.raises(ValueError, match="9 candidates of only 8 actions"):
        TwoTowerEnvironment(num_actions=8, candidate_size=9)


@pytest.mark.parametrize("delta", [0.0, 0.5, 0.95])
def test_wheel_expected_reward_is_the_formula(delta: float) -> None:
    environment = WheelEnvironment(horizon=400, delta=delta, seed=1)
    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    for t in range(400):
        x, y = (float(value) for value in environment.context(t))
        expected = [1.0, 1.0, 1.0, 1.0, 1.2]
        if math.sqrt(x * x + y * y) >= delta:
            expected[signs.index((1 if x > 0 else -1, 1 if y > 0 else -1))] = 50.0
        assert environment.expected(t, np.arange(5)).tolist() == expected


def test_wheel_contexts_are_uniform_in_the_disc() -> None:
    """|x|^2 and the angle are uniform: means of 20,000 draws have standard errors near 0.002."""
    environment = WheelEnvironment(horizon=20_000, seed=0)
    contexts = np.array([environment.context(t) for t in range(20_000)], dtype=np.float64)
    squares = (contexts**2).sum(axis=1)
    assert squares.max() <= 1.0 + 1e-6
    for power in (1, 2, 3):
        assert np.mean(squares**power) == pytest.approx(1 / (power + 1), abs=0.01)
    quadrants = 2 * (contexts[:, 0] > 0) + (contexts[:, 1] > 0)
    assert np.bincount(quadrants) / 20_000 == pytest.approx([0.25] * 4, abs=0.015)


def test_wheel_rewards_have_the_noise_of_the_step() -> None:
    environment = WheelEnvironment(horizon=4000, noise_std=0.3, seed=0)
    actions = np.arange(5)
    noise = np.array(
        [
            [environment.reward(t, int(a)) for a in actions] - environment.expected(t, actions)
            for t in range(4000)
        ]
    )
    assert np.ptp(noise, axis=1).max() < 1e-12
    assert noise[:, 0].std() == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize("delta", [-0.1, 1.1, math.nan])
def test_wheel_refuses_a_radius_outside_the_disc(delta: float) -> None:
    with pytest.raises(ValueError, match="delta must be from 0 to 1"):
        WheelEnvironment(delta=delta)


def test_mnist_pays_for_the_right_label_alone() -> None:
    known = digits()
    labels = {known.images[i].tobytes(): int(known.labels[i]) for i in range(30)}
    environment = MnistEnvironment(known, horizon=30, seed=0)
    for t in range(30):
        label = labels[environment.context(t).tobytes()]
        rewards = [environment.reward(t, action) for action in range(10)]
        assert rewards == [float(action == label) for action in range(10)]
        assert environment.expected(t, np.arange(10)).tolist() == rewards


def test_mnist_shows_every_image_once_before_any_twice() -> None:
    environment = MnistEnvironment(digits(30), horizon=60, seed=0)
    shown = [environment.context(t).tobytes() for t in range(60)]
    assert len(set(shown[:30])) == 30
    assert set(shown[30:]) == set(shown[:30])
    assert shown[30:] != shown[:30]


def test_the_shipped_digits_are_complete() -> None:
    images, labels = shipped_digits()
    assert images.shape == (10_000, 28, 28)
    assert images.dtype == np.uint8
    assert images.max() == 255
    expected = [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert np.bincount(labels).tolist() == expected
