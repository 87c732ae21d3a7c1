"""Methods of selection: inverse-gap weighting, the best mean with a floor, and what they report.

Where frequencies are compared with probabilities, decision ids are fixed: a test that passes always
passes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bandexa_core.policies import Candidates
from bandexa_core.policies.laws import GapLaw, inverse_gaps
from bandexa_core.policies.panel import Exploration
from bandexa_core.policies.ties import Ranking
from tests.fixtures.matrices import examples, spread

NUM = examples(800, 2000)
LEAST_P = 1e-3
WAYS: dict[str, dict[str, Any]] = {
    "concat": {"encoder": "concat"},
    "per_action": {"encoder": "per_action"},
    "mlp": {"encoder": "mlp"},
    "two_tower": {"encoder": "two_tower"},
    "in chunks": {"encoder": "mlp", "selection": {"action_chunk": 3}},
}
SQUARECB = Exploration(64, 0.1, method="squarecb", gamma=40.0)
GREEDY = Exploration(64, 0.1, method="greedy")
EXPLORATIONS = {"squarecb": SQUARECB, "greedy": GREEDY}


def assert_law(counts: Any, probabilities: Any) -> None:
    """Compare counts with probabilities, (K,) each, by a chi-square test."""
    counts, expected = np.asarray(counts), np.asarray(probabilities) * np.sum(counts)
    assert expected.sum() == pytest.approx(counts.sum())
    assert (counts[expected == 0.0] == 0).all()
    found, expected = counts[expected > 0.0], expected[expected > 0.0]
    assert (expected >= 5).all(), "too few decisions for a chi-square test"
    assert stats.chisquare(found, expected).pvalue > LEAST_P


@pytest.fixture
def learned(make, make_rows, learn_all):
    """Return a policy that has learned some rows, and a context."""

    def build(way: str, **options: Any) -> Any:
        policy, rows = make(**WAYS[way] | options), make_rows(40)
        learn_all(policy, rows)
        return policy, rows.contexts[0]

    return build


def law(means: Any, *, gamma: float, epsilon: float = 0.0, retrieve: int | None = None) -> GapLaw:
    """Return the law over means; ties are broken by the generator that `picks` gets."""
    means_K = np.asarray(means, np.float64)
    ranking = Ranking.of(means_K, None, np.random.default_rng(0), whole=True)._replace(order=None)
    return GapLaw(ranking, Exploration(1, epsilon, method="squarecb"), gamma, retrieve)


def test_inverse_gaps_are_those_of_the_paper() -> None:
    """K = 3, gamma 10: 1 / (3 + 10 * 0.2) = 0.2 and 1 / (3 + 10 * 0.7) = 0.1; the best: 0.7."""
    assert inverse_gaps(np.array([0.3, 1.0, 0.8]), 10.0) == pytest.approx([0.1, 0.7, 0.2])


def test_equal_means_are_equally_probable_and_the_best_ones_share_the_rest() -> None:
    """K = 4, gamma 4: 1 / (4 + 4) for each of the two at a gap of 1; the others share 3/4."""
    assert inverse_gaps(np.array([1.0, 2.0, 2.0, 1.0]), 4.0) == pytest.approx(
        [1, 3, 3, 1] / np.array(8)
    )
    assert inverse_gaps(np.full(5, -2.5), 1e9) == pytest.approx(np.full(5, 0.2))


def test_without_a_learned_value_all_are_equally_probable() -> None:
    assert inverse_gaps(np.array([0.0, 5.0, 1.0]), 0.0) == pytest.approx(np.full(3, 1 / 3))


@pytest.mark.parametrize("num", [1, 2, 10_000])
def test_probabilities_sum_to_one_and_fall_with_the_gap(num: int) -> None:
    means = np.random.default_rng(num).normal(size=num)
    shares = inverse_gaps(means, 1e4)
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    assert (shares > 0.0).all()
    assert (np.diff(shares[np.argsort(means)]) >= 0.0).all()


@pytest.mark.few(6)
@pytest.mark.parametrize(
    "means", [[0.9, 0.1, 0.5, 0.4], [0.5, 0.5, 0.2, 0.5], [0.7, 0.3, 0.3, 0.3]]
)
@pytest.mark.parametrize("retrieve", [None, 2, 3])
@pytest.mark.parametrize("num", [1, 2])
def test_picks_come_as_often_as_the_law_says(means, retrieve, num) -> None:
    """Each place of each candidate; with ties within and at the edge of what is retrieved."""
    one = law(means, gamma=6.0, retrieve=retrieve)
    rng, counts = np.random.default_rng(5), np.zeros((num, 4))
    places: dict[tuple[int, int], float] = {}
    for _ in range(NUM):
        best, retrieved = one.picks(num, retrieve, rng)
        assert len(set(best.tolist())) == num
        assert (retrieved is None) == (retrieve is None)
        if retrieved is not None:
            assert set(best.tolist()) <= set(retrieved.tolist())
            assert len(retrieved) == retrieve
            assert sorted(np.asarray(means)[retrieved])[::-1] == sorted(means)[::-1][:retrieve]
        counts[np.arange(num), best] += 1
        for place, each in enumerate(one.places(best)):
            places.setdefault((place, int(best[place])), each)
            assert places[place, int(best[place])] == each
    assert_law(counts[0], one.shares())
    for place in range(num):
        reported = [places.get((place, candidate), 0.0) for candidate in range(4)]
        assert sum(reported) == pytest.approx(1.0)
        assert_law(counts[place], reported)


def test_all_but_the_first_pick_stand_in_the_order_of_the_means() -> None:
    one = law([0.1, 0.4, 0.3, 0.2], gamma=1.0)
    rng = np.random.default_rng(0)
    orders = Counter(tuple(one.picks(3, None, rng)[0].tolist()) for _ in range(200))
    assert set(orders) == {(1, 2, 3), (2, 1, 3), (3, 1, 2), (0, 1, 2)}


def test_few_of_a_large_catalogue_explore_as_a_small_one_does() -> None:
    """Over 10,000 candidates the law is nearly uniform; over the 3 retrieved ones it is not."""
    means = np.concatenate([[1.0, 0.9, 0.8], np.zeros(9997)])
    whole, few = law(means, gamma=50.0).shares(), law(means, gamma=50.0, retrieve=3).shares()
    assert whole[0] < 0.02
    assert few[:3] == pytest.approx([1 - 1 / 8 - 1 / 13, 1 / 8, 1 / 13])
    assert (few[3:] == 0.0).all()


@pytest.mark.parametrize(("way", "method"), spread([*WAYS], [*EXPLORATIONS]))
def test_served_actions_are_as_frequent_as_their_exact_propensities(
    learned, candidates_of, decision_rng, way, method
) -> None:
    """By the closed form over the means that `score` returns, with the floor of a tenth."""
    policy, context = learned(way)
    candidates, exploration = candidates_of(4), EXPLORATIONS[method]
    means, _ = policy.score(context, candidates)
    shares = (means == means.max()).astype(float)
    if exploration.method == "squarecb":
        gaps = exploration.gamma / policy.posterior.frame.unit * (means.max() - means)
        shares = np.where(gaps > 0.0, 1.0 / (4 + gaps), 0.0)
        shares[means.argmax()] = 1.0 - shares.sum()
    expected = 0.9 * shares + 0.1 / 4
    counts = np.zeros(4)
    for number in range(NUM):
        choice = policy.select(context, candidates, decision_rng(number), exploration=exploration)
        (served,) = choice.chosen
        counts[served] += 1
        assert choice.propensity == pytest.approx(expected[served], abs=1e-12)
        assert choice.scores[0] == pytest.approx(means[served])
        assert choice.explored == (served != means.argmax())
    assert choice.all_propensities() == pytest.approx(expected, abs=1e-12)
    assert_law(counts, expected)


@pytest.mark.parametrize("exploration", [SQUARECB, GREEDY], ids=["squarecb", "greedy"])
def test_equal_candidates_share_their_probability(
    make, make_rows, learn_all, candidates_of, decision_rng, exploration
) -> None:
    policy, rows = make("concat"), make_rows(40)
    learn_all(policy, rows)
    several = candidates_of(3)
    double = Candidates(np.arange(5), several.features[[0, 1, 1, 2, 0]])
    choices = [
        policy.select(rows.contexts[0], double, decision_rng(n), exploration=exploration)
        for n in range(NUM)
    ]
    everyone = choices[0].all_propensities()
    assert everyone.sum() == pytest.approx(1.0)
    assert (everyone[0], everyone[1]) == (everyone[4], everyone[2])
    assert_law(np.bincount([choice.chosen[0] for choice in choices], minlength=5), everyone)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["thompson", "squarecb", "greedy"])
@pytest.mark.parametrize("retrieve", [None, 3])
def test_all_propensities_sum_to_one_and_hold_that_of_the_served_one(
    learned, candidates_of, decision_rng, way, method, retrieve
) -> None:
    policy, context = learned(way)
    candidates, exploration = candidates_of(9), Exploration(16, 0.2, method=method, gamma=20.0)
    for number in range(20):
        choice = policy.select(
            context, candidates, decision_rng(number), retrieve=retrieve, exploration=exploration
        )
        everyone = choice.all_propensities()
        assert everyone.sum() == pytest.approx(1.0)
        assert (everyone >= 0.2 / 9 - 1e-15).all()
        assert everyone[choice.chosen[0]] == pytest.approx(choice.propensity, abs=1e-15)
        ballot = policy.ballot(context, candidates, decision_rng(number), exploration, retrieve)
        assert ballot.propensities == pytest.approx(everyone, abs=1e-15)
        assert ballot.sampled[choice.chosen[0]] == choice.scores[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("exploration", [SQUARECB, GREEDY], ids=["squarecb", "greedy"])
def test_decisions_of_a_batch_are_those_of_single_selects(
    learned, candidates_of, decision_rng, way, exploration
) -> None:
    policy, _ = learned(way)
    contexts = list(np.random.default_rng(3).normal(size=(30, 4)).astype(np.float32))
    offered = candidates_of(6)
    rngs = [decision_rng(n) for n in range(30)]
    together = policy.select_many(contexts, offered, rngs, exploration)
    alone = [
        policy.select(x, offered, decision_rng(n), exploration=exploration)
        for n, x in enumerate(contexts)
    ]
    assert [c.chosen.tolist() for c in together] == [c.chosen.tolist() for c in alone]
    assert [c.propensity for c in together] == [c.propensity for c in alone]
    assert len({int(c.chosen[0]) for c in alone}) > 1


@pytest.mark.parametrize("method", ["thompson", "squarecb"])
def test_the_greedy_policy_ignores_the_method(learned, candidates_of, decision_rng, method) -> None:
    policy, context = learned("concat", policy="greedy")
    candidates = candidates_of(5)
    exploration = Exploration(16, 0.9, method=method, gamma=1e-3)
    best = policy.score(context, candidates)[0].argmax()
    for number in range(20):
        choice = policy.select(context, candidates, decision_rng(number), exploration=exploration)
        assert (choice.chosen.tolist(), choice.propensity) == ([best], 1.0)


@pytest.mark.parametrize("exploration", [SQUARECB, GREEDY], ids=["squarecb", "greedy"])
def test_features_that_are_not_finite_are_refused(
    make, make_rows, learn_all, decision_rng, exploration
) -> None:
    policy, rows = make("interactions"), make_rows(20)
    learn_all(policy, rows)
    bad = Candidates(np.arange(3), np.full((3, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match="finite"):
        policy.select(rows.contexts[0], bad, decision_rng(0), exploration=exploration)
