"""Decisions that are drawn together are those that are drawn alone, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandexa_core.policies import Candidates, Choice, LinearHead
from bandexa_core.policies.draws import ROWS_AT_ONCE
from bandexa_core.policies.panel import STREAMED_BYTES, Exploration, products
from bandexa_core.posterior import GaussianPosterior
from bandexa_core.posterior.exceedances import LEAST_CANDIDATES

WAYS: dict[str, dict[str, Any]] = {
    "mlp": {"encoder": "mlp"},
    "wide mlp": {"encoder": "mlp", "params": {"hidden": [64, 48], "feature_dim": 33}},
    "mlp without products": {"encoder": "mlp", "shape": (3,)},
    "mlp of fixed noise": {"encoder": "mlp", "posterior": {"noise": "fixed", "noise_var": 0.3}},
    "mlp in chunks": {"encoder": "mlp", "selection": {"action_chunk": 3}},
    "mlp by action": {"encoder": "mlp", "params": {"heads": "per_action"}},
    "per_action": {"encoder": "per_action"},
    "two_tower": {"encoder": "two_tower"},
    "concat": {"encoder": "concat"},
    "interactions": {"encoder": "interactions"},
    "bilinear": {"encoder": "bilinear"},
    "greedy": {"encoder": "mlp", "policy": "greedy"},
}


def _policy(make: Any, make_rows: Any, learn_all: Any, way: str) -> LinearHead:
    policy: LinearHead = make(**WAYS[way])
    learn_all(policy, make_rows(60, shape=WAYS[way].get("shape", (4,))))
    return policy


def _told(choice: Choice) -> tuple[Any, ...]:
    assert choice.all_propensities is not None
    return (
        choice.chosen.tolist(), choice.scores.tolist(), choice.propensity, choice.explored,
        choice.std, choice.all_propensities().tolist(),
    )  # fmt: skip


@pytest.mark.parametrize(("version", "epsilon"), [(1, 0.0), (1, 0.3), (2, 0.2)])
@pytest.mark.parametrize("way", WAYS)
def test_each_gets_what_it_would_get_alone(
    make, make_rows, learn_all, candidates_of, decision_rng, way, version, epsilon
):
    policy = _policy(make, make_rows, learn_all, way)
    exploration = Exploration(16, epsilon, version=version)
    shape = WAYS[way].get("shape", (4,))
    for num_candidates in (1, 7, 50):
        offered = candidates_of(num_candidates)
        offered = Candidates(offered.slots, offered.features, policy.action_parts(offered.features))
        num = 2 * (ROWS_AT_ONCE // num_candidates) + 3 if num_candidates == 50 else 9
        contexts = list(np.random.default_rng(3).normal(size=(num, *shape)).astype(np.float32))
        together = policy.select_many(
            contexts, offered, [decision_rng(n) for n in range(num)], exploration
        )
        alone = [
            policy.select(x, offered, decision_rng(n), exploration=exploration)
            for n, x in enumerate(contexts)
        ]
        assert [_told(choice) for choice in together] == [_told(choice) for choice in alone]


def test_a_ballot_is_that_of_the_decision(make, make_rows, learn_all, candidates_of, decision_rng):
    policy = _policy(make, make_rows, learn_all, "wide mlp")
    offered = candidates_of(20)
    exploration = Exploration(64, 0.0)
    contexts = list(np.random.default_rng(4).normal(size=(12, 4)).astype(np.float32))
    rngs = [decision_rng(n) for n in range(12)]
    for number, choice in enumerate(policy.select_many(contexts, offered, rngs, exploration)):
        ballot = policy.ballot(contexts[number], offered, decision_rng(number), exploration)
        (index,) = choice.chosen
        assert ballot.sampled.argmax() == index
        assert ballot.sampled[index] == choice.scores[0]
        assert ballot.propensities[index] == pytest.approx(choice.propensity, rel=1e-15)


@pytest.mark.parametrize("way", ["two_tower", "mlp"])
def test_a_panel_of_one_gives_its_best_and_every_uniform_choice_their_propensities(
    make, make_rows, learn_all, candidates_of, decision_rng, way
):
    policy = _policy(make, make_rows, learn_all, way)
    offered, exploration = candidates_of(20), Exploration(1, 0.5)
    context = np.array([0.3, -1.2, 2.0, 0.1], np.float32)
    seen = set()
    for number in range(40):
        choice = policy.select(context, offered, decision_rng(number), exploration=exploration)
        ballot = policy.ballot(context, offered, decision_rng(number), exploration)
        best = ballot.sampled.argmax() == choice.chosen[0]
        assert choice.propensity == pytest.approx(0.525 if best else 0.025, rel=1e-12)
        assert choice.propensity == pytest.approx(ballot.propensities[choice.chosen[0]], rel=1e-12)
        seen.add(bool(best))
    assert seen == {True, False}


def test_drawn_values_are_those_of_the_learned_features(
    make, make_rows, learn_all, candidates_of, decision_rng
):
    """They are float32: 1e-6 of the features of `encode`, not more."""
    policy = _policy(make, make_rows, learn_all, "wide mlp")
    assert isinstance(policy.posterior, GaussianPosterior)
    offered = candidates_of(30)
    context = np.array([0.3, -1.2, 2.0, 0.1], np.float32)
    z_KD = policy.features(np.repeat(context[None], 30, axis=0), offered.features)
    for number in range(20):
        weights_MD = policy.posterior.sample(_after_first(decision_rng(number)), 8)
        choice = policy.select(context, offered, decision_rng(number), exploration=Exploration(8))
        exact = z_KD @ weights_MD[0]
        np.testing.assert_allclose(choice.scores, exact[choice.chosen], rtol=1e-6, atol=1e-6)
        assert exact.max() - exact[choice.chosen[0]] < 1e-6


def _after_first(rng: np.random.Generator) -> np.random.Generator:
    rng.random()  # whether it explores
    return rng


@pytest.mark.parametrize("size", [1e8, 1e20])
def test_a_context_beyond_float32_is_decided_in_float64_and_leaves_the_others_alone(
    make, candidates_of, decision_rng, size
):
    relu = {"activation": "relu", "hidden": [16, 16, 16], "feature_dim": 8}
    policy: LinearHead = make("mlp", params=relu)
    offered = candidates_of(5)
    contexts = [np.ones(4, np.float32), np.full(4, size, np.float32), -np.ones(4, np.float32)]
    huge = Candidates(offered.slots, offered.features * np.float32(size))
    for candidates in (offered, huge):
        together = policy.select_many(contexts, candidates, [decision_rng(n) for n in range(3)])
        alone = [policy.select(x, candidates, decision_rng(n)) for n, x in enumerate(contexts)]
        assert [_told(choice) for choice in together] == [_told(choice) for choice in alone]
        assert all(np.isfinite(choice.scores).all() for choice in together)


def test_a_large_matrix_is_streamed_to_the_same_products():
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(STREAMED_BYTES // (8 * 64) + 1, 64))
    query = rng.normal(size=64)
    np.testing.assert_allclose(products(parts, query), parts @ query, rtol=1e-12, atol=1e-12)
    fewer = parts[: len(parts) // 2]
    assert np.array_equal(products(fewer, query), fewer @ query)


def test_of_thousands_one_decision_has_one_draw_however_it_is_asked_for(
    make, make_rows, learn_all, candidates_of, decision_rng
):
    """With the second draws, values that cannot win are drawn when they are asked for."""
    policy = make("per_action", posterior={"noise_shape": 100.0})
    learn_all(policy, make_rows(400, num_slots=300))
    offered = candidates_of(LEAST_CANDIDATES)
    for number in range(6):
        epsilon = 1.0 if number == 5 else 0.0
        exploration = Exploration(64, epsilon, 0.5, version=2)
        x = np.random.default_rng(number).normal(size=4).astype(np.float32)
        one, ranked = (
            policy.select(x, offered, decision_rng(number), num=num, exploration=exploration)
            for num in (1, 5)
        )
        ballot = policy.ballot(x, offered, decision_rng(number), exploration)
        assert one.chosen[0] == ranked.chosen[0]
        assert one.scores[0] == ranked.scores[0] == ballot.sampled[one.chosen[0]]
        assert one.propensity == ranked.propensity
        assert one.propensity == pytest.approx(ballot.propensities[one.chosen[0]], rel=1e-12)
        assert np.array_equal(one.all_propensities(), ballot.propensities)
        if not epsilon:
            assert ballot.sampled.argmax() == one.chosen[0]
            assert ranked.chosen.tolist() == np.argsort(-ballot.sampled)[:5].tolist()
            assert ranked.propensities[0] == one.propensity
