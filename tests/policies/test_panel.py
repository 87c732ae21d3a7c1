"""Panels: what is logged is how often it is served, whatever the posterior and the floor.

Statistics at fixed seeds, so a test that passes always passes. The oracle takes another way to
the law than the product does: whole weight vectors from numpy's multivariate normal and scipy's
inverse gamma, or Student's t where the posteriors are disjoint.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from bandexa_core.policies import Candidates, Uniform
from bandexa_core.policies.panel import Exploration
from bandexa_core.policies.ties import Ranking
from bandexa_core.posterior import GaussianPosterior, PosteriorConfig
from bandexa_core.spec import BanditSpec, ContextSpec, SelectionSpec
from tests.fixtures.matrices import examples

ORACLE_DRAWS = 20_000  # ten times the members it is compared with
MEMBERS = 64
REPEATS = 32
PASSES = examples(2, 4)  # through the kinds of decisions
LEAST_P = 0.01


VERSIONS = (1, 2)  # of the draws


class Frozen(NamedTuple):
    """A decision: select it as often as wanted, nothing changes."""

    policy: Any
    context: NDArray[np.float32]
    candidates: Candidates


# Encoder, options of the policy, candidates, and how far the means lie apart in standard
# deviations: with 0 the law is even, with 8 one action takes nearly everything.
FIXED = {"noise": "fixed", "noise_var": 0.5}
NIG = {"noise": "nig", "noise_shape": 1.0}
KINDS = [
    (encoder, posterior, num, skew)
    for encoder, sizes in (
        ("concat", (2, 5)),
        ("interactions", (3, 24)),
        ("bilinear", (6,)),
        ("mlp", (4,)),
        ("two_tower", (4, 12)),
        ("per_action", (3, 8)),
    )
    for posterior, num, skew in zip(
        (FIXED, NIG, NIG, FIXED), (sizes * 4)[:4], (0.0, 0.7, 2.0, 8.0), strict=True
    )
]


@pytest.fixture
def freeze(make, make_rows, learn_all, candidates_of):
    """Build a decision whose posterior is drawn at random: mean, root and noise."""

    def build(encoder, posterior, num, skew, seed) -> Frozen:
        rng = np.random.default_rng(seed)
        size = int(rng.integers(2, 5))
        policy = make(encoder, posterior=posterior, shape=(size,), action_dim=size)
        rows = make_rows(3 * num, num_slots=max(1, num - 1), shape=(size,), action_dim=size)
        learn_all(policy, rows)  # one slot of disjoint posteriors stays at the prior
        tensors = policy.tensors()
        for name, tensor in tensors.items():
            dim = len(tensor) if tensor.ndim else 0
            if name.endswith("/mean"):
                tensors[name] = skew * rng.normal(size=dim) / math.sqrt(dim)
            elif name.endswith("/root"):
                tensors[name] = np.tril(rng.normal(size=(dim, dim))) / math.sqrt(dim)
            elif name.endswith("/a") and posterior["noise"] == "nig":
                tensors[name] = rng.uniform(1.0, 4.0, ())
            elif name.endswith("/b") and posterior["noise"] == "nig":
                tensors[name] = rng.uniform(0.3, 2.0, ())
        tensors.pop("posterior/pool", None)  # it follows from the slots
        policy.load_tensors(tensors)
        context = rng.normal(size=size).astype(np.float32)
        return Frozen(policy, context, candidates_of(num, size, seed))

    return build


def _oracle(decision: Frozen, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return how often each candidate is best in independent draws, (K,)."""
    policy, context, candidates = decision
    posterior, num = policy.posterior, len(candidates)
    fixed = policy.config.noise == "fixed"
    if policy.encoder.uses_action:
        z_KD = policy.encoder.encode_batch(context, candidates.features)
        cov = posterior.root @ posterior.root.T
        w_ND = rng.multivariate_normal(np.zeros(len(cov)), cov, ORACLE_DRAWS, method="eigh")
        s2 = policy.config.noise_var
        if not fixed:
            s2 = stats.invgamma.rvs(
                posterior.a, scale=posterior.b, size=(ORACLE_DRAWS, 1), random_state=rng
            )
        w_ND *= np.sqrt(s2)
        scores = (w_ND + posterior.mean) @ z_KD.T
    else:
        z = policy.encoder.encode(context[None], candidates.features[:1])[0]
        scores = np.empty((ORACLE_DRAWS, num))
        slots = [posterior.slot(slot) for slot in posterior.slots]
        a0, b0 = policy.config.noise_shape, policy.config.prior_rate
        a = a0 + sum(each.a - a0 for each in slots)  # all slots have one noise
        b = b0 + sum(each.b - b0 for each in slots)
        noise = stats.invgamma.rvs(a, scale=b, size=ORACLE_DRAWS, random_state=rng)
        for index in range(num):
            mine = posterior.slot(index)
            if mine is None:
                mean, square = 0.0, z @ z / policy.config.ridge
            else:
                mean, square = z @ mine.mean, z @ mine.root @ mine.root.T @ z
            if fixed:
                scale = math.sqrt(policy.config.noise_var * square)
                scores[:, index] = rng.normal(mean, scale, ORACLE_DRAWS)
            else:
                scores[:, index] = rng.normal(mean, np.sqrt(noise * square))
    return np.bincount(scores.argmax(axis=1), minlength=num)


def _homogeneity(first, second) -> tuple[float, int]:
    """Return chi-square and its degrees of freedom: are both counts of one law?

    Cells that either side would see fewer than 8 times are pooled.
    """
    table = np.array([first, second], dtype=float)
    totals = table.sum(axis=1)
    rare = table.sum(axis=0) / totals.sum() * totals.min() < 8
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    pooled = table[:, -1].sum() / totals.sum() * totals.min()
    if pooled < 8:
        table[:, -2] += table[:, -1]
        table = table[:, :-1]
    if table.shape[1] == 1:
        return 0.0, 0
    found = stats.chi2_contingency(table, correction=False)
    return float(found.statistic), int(found.dof)


def _served(decision: Frozen, exploration: Exploration, num: int, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    policy, context, candidates = decision
    chosen = [
        policy.select(context, candidates, rng, exploration=exploration).chosen[0]
        for _ in range(num)
    ]
    return np.bincount(chosen, minlength=len(candidates))


def test_the_mean_logged_propensity_is_the_actions_probability(freeze):
    """Dozens of frozen decisions against 2e4 oracle draws each, in one chi-square.

    The members of all repeats are iid draws of one law, so the mean vector, freed of the floor,
    is a multinomial's frequencies: that variance is the one tested against.
    """
    oracle_rng, rng = np.random.default_rng(1), np.random.default_rng(2)
    total, freedom, tops = 0.0, 0, []
    for number in range(PASSES * len(KINDS)):
        decision = freeze(*KINDS[number % len(KINDS)], seed=number)
        num = len(decision.candidates)
        exploration = Exploration(
            MEMBERS, (0.0, 0.005, 0.2)[number % 3], version=VERSIONS[number // len(KINDS) % 2]
        )
        vectors = []
        for _ in range(REPEATS):
            choice = decision.policy.select(
                decision.context, decision.candidates, rng, exploration=exploration
            )
            vectors.append(choice.all_propensities())
            assert choice.propensity == pytest.approx(vectors[-1][choice.chosen[0]], rel=1e-15)
        logged_K = np.mean(vectors, axis=0)
        shares_K = (logged_K - exploration.epsilon / num) / (1.0 - exploration.epsilon)
        votes_K = shares_K * REPEATS * MEMBERS
        assert np.abs(votes_K - votes_K.round()).max() < 1e-6
        oracle_K = _oracle(decision, oracle_rng)
        tops.append(oracle_K.max() / ORACLE_DRAWS)
        statistic, dof = _homogeneity(votes_K.round(), oracle_K)
        total, freedom = total + statistic, freedom + dof
    assert freedom > 50 * PASSES
    assert min(tops) < 0.25
    assert sum(top > 0.95 for top in tops) >= 5
    assert stats.chi2.sf(total, freedom) > LEAST_P


@pytest.mark.parametrize("power", [1, -1])
def test_given_its_panel_an_action_is_served_as_often_as_logged(freeze, power):
    """E[p(A)^power] given the panel is the sum of p^(power + 1): -1 is inverse weighting."""
    rng = np.random.default_rng(3)
    errors, variance = 0.0, 0.0
    for number, kind in enumerate(KINDS):
        decision = freeze(*kind, seed=1000 + number)
        for version in 50 * VERSIONS:
            choice = decision.policy.select(
                decision.context, decision.candidates, rng,
                exploration=Exploration(8, 0.1, version=version),
            )  # fmt: skip
            logged, p_K = choice.propensity, choice.all_propensities()
            mean = (p_K ** (power + 1)).sum()
            errors += logged**power - mean
            variance += (p_K ** (2 * power + 1)).sum() - mean**2
    assert abs(errors) < 2.6 * math.sqrt(variance)


@pytest.mark.parametrize("epsilon", [0.0, 0.005, 0.3, 1.0])
def test_propensities_are_votes_and_floor_and_sum_to_one(epsilon):
    winners_M = np.array([3, 0, 3, 3, 1, 3, 0, 3])
    ranking = Ranking.of(np.arange(5.0), None, np.random.default_rng(0), whole=False)
    found = np.array([Exploration(8, epsilon).propensity(ranking, winners_M, k) for k in range(5)])
    by_hand = [(1 - epsilon) * votes / 8 + epsilon / 5 for votes in (2, 1, 0, 5, 0)]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-15)
    assert found.sum() == pytest.approx(1.0, abs=1e-15)


def test_every_logged_vector_sums_to_one(freeze):
    for number, kind in enumerate(KINDS):
        policy, context, offered = freeze(*kind, seed=number)
        rng = np.random.default_rng(number)
        for version in VERSIONS:
            exploration = Exploration(7, 0.02, version=version)
            choice = policy.select(context, offered, rng, exploration=exploration)
            p_K = choice.all_propensities()
            assert p_K.sum() == pytest.approx(1.0, abs=1e-12)
            assert (p_K >= 0.02 / len(p_K) * (1 - 1e-12)).all()


# -- inverse-propensity estimates ----------------------------------------------------------------

RARE, MEAN_REWARD, FEW = 0.03, 0.6, 16
TRIALS = examples(6000, 12_000)


@pytest.fixture
def rare(make, candidates_of) -> Frozen:
    """Of two actions the first has probability exactly .03: Phi(d.m / sqrt(v d' Sigma d))."""
    policy, candidates = make("concat", posterior=FIXED), candidates_of(2)
    context = np.ones(4, np.float32)
    z_0, z_1 = policy.encoder.encode_batch(context, candidates.features)
    tensors, d = policy.tensors(), z_0 - z_1
    cov_d = tensors["posterior/root"] @ tensors["posterior/root"].T @ d
    scale = stats.norm.ppf(RARE) * math.sqrt(FIXED["noise_var"] / (d @ cov_d))
    tensors["posterior/mean"] = scale * cov_d
    policy.load_tensors(tensors)
    return Frozen(policy, context, candidates)


def _estimates(decision: Frozen, epsilon: float) -> tuple[NDArray[np.float64], list[float]]:
    """Return inverse-propensity terms of the rare action's mean reward, and its logged ones."""
    rng, reward_rng = np.random.default_rng(4), np.random.default_rng(5)
    terms, logged = np.zeros(TRIALS), []
    for trial in range(TRIALS):
        choice = decision.policy.select(
            decision.context, decision.candidates, rng, exploration=Exploration(FEW, epsilon)
        )
        if choice.chosen[0] == 0:
            assert choice.propensity is not None
            logged.append(choice.propensity)
            terms[trial] = (reward_rng.random() < MEAN_REWARD) / choice.propensity
    return terms, logged


def test_a_rare_actions_mean_reward_is_estimated_without_bias(rare):
    terms, _ = _estimates(rare, epsilon=0.1)
    error = terms.std() / math.sqrt(TRIALS)
    assert error < 0.05 * MEAN_REWARD * math.sqrt(12_000 / TRIALS)
    assert abs(terms.mean() - MEAN_REWARD) < 1.96 * error


def test_without_the_floor_panels_that_miss_a_rare_action_bias_its_estimate(rare):
    """They serve it never, and their share of the estimate is lost: 61 % with 16 members."""
    terms, logged = _estimates(rare, epsilon=0.0)
    error = terms.std() / math.sqrt(TRIALS)
    seen = 1.0 - (1.0 - RARE) ** FEW
    assert abs(terms.mean() - seen * MEAN_REWARD) < 1.96 * error
    assert terms.mean() < MEAN_REWARD - 10 * error
    # Of those that were served the logged one is larger on average than the probability.
    expected = (1 + (FEW - 1) * RARE) / FEW
    assert np.mean(logged) == pytest.approx(expected, abs=3 * stats.sem(logged))


SERVED = examples(500, 1500)

# -- the served law ------------------------------------------------------------------------------


def test_a_panel_of_any_size_serves_what_a_single_draw_would(freeze):
    total, freedom = 0.0, 0
    for number, kind in enumerate(KINDS[1::4]):
        decision = freeze(*kind, seed=2000 + number)
        alone = _served(decision, Exploration(1), SERVED, seed=number)
        for version in VERSIONS:
            exploration = Exploration(24, version=version)
            first = _served(decision, exploration, SERVED, seed=100 * version + number)
            statistic, dof = _homogeneity(alone, first)
            total, freedom = total + statistic, freedom + dof
    assert freedom > 10
    assert stats.chi2.sf(total, freedom) > LEAST_P


def test_epsilon_one_serves_uniformly(freeze):
    decision = freeze("interactions", NIG, 8, 8.0, seed=1)
    counts = _served(decision, Exploration(16, 1.0), 4000, seed=6)
    assert stats.chisquare(counts).pvalue > LEAST_P
    choice = decision.policy.select(
        *decision[1:], np.random.default_rng(0), exploration=Exploration(16, 1.0)
    )
    assert choice.propensity == 1 / 8


def test_the_floor_falls_with_the_root_of_the_rows_beyond_a_thousand():
    selection = SelectionSpec(epsilon=0.01)
    assert [selection.epsilon_at(n) for n in (0, 1, 999, 1000)] == [0.01] * 4
    assert selection.epsilon_at(1001) < 0.01
    for rows, share in ((4000, 0.5), (100_000, 0.1), (9_000_000, 1 / math.sqrt(9000))):
        assert selection.epsilon_at(rows) == pytest.approx(0.01 * share, rel=1e-12)
    assert SelectionSpec(epsilon=0.0).epsilon_at(5) == 0.0


def test_named_features_explore_more_unless_the_configuration_says_how_much():
    numbers, names = ContextSpec(shape=(3,)), ContextSpec(features="auto")
    assert BanditSpec(context=numbers).epsilon_at(10) == 0.005
    assert BanditSpec(context=names).epsilon_at(10) == 0.02
    assert BanditSpec(context=names).epsilon_at(4000) == pytest.approx(0.01)
    fixed = SelectionSpec(epsilon=0.001)
    assert BanditSpec(context=names, selection=fixed).epsilon_at(10) == 0.001


def test_greedy_is_certain_and_ignores_epsilon(make, make_rows, learn_all, candidates_of):
    for encoder in ("concat", "mlp", "two_tower", "per_action"):
        policy, rows = make(encoder, policy="greedy"), make_rows(12)
        learn_all(policy, rows)
        candidates = candidates_of(4)
        best = policy.score(rows.contexts[0], candidates)[0].argmax()
        for seed in range(20):
            choice = policy.select(
                rows.contexts[0],
                candidates,
                np.random.default_rng(seed),
                exploration=Exploration(64, 1.0),
            )
            assert (choice.chosen[0], choice.propensity) == (best, 1.0)


def test_of_several_picks_the_propensity_is_the_firsts(freeze):
    for kind in (KINDS[1], KINDS[9], KINDS[21]):
        decision = freeze(*kind, seed=3)
        for seed in range(30):
            exploration = Exploration(16, 0.3)
            one, many = (
                decision.policy.select(
                    *decision[1:], np.random.default_rng(seed), num=num, exploration=exploration
                )
                for num in (1, 2)
            )
            assert one.chosen[0] == many.chosen[0]
            served = many.all_propensities()[many.chosen[0]]
            assert one.propensity == many.propensity == pytest.approx(served, rel=1e-15)


# -- retrieval -----------------------------------------------------------------------------------


@pytest.mark.few(1)
@pytest.mark.parametrize("encoder", ["two_tower", "mlp", "per_action"])
def test_retrieval_leaves_every_offered_action_its_floor(freeze, encoder):
    decision = freeze(encoder, NIG, 8, 8.0, seed=5)
    rng = np.random.default_rng(7)
    served = np.zeros(8, int)
    for _ in range(1500):
        choice = decision.policy.select(
            *decision[1:], rng, retrieve=2, exploration=Exploration(8, 0.5)
        )
        p_K = choice.all_propensities()
        assert len(p_K) == 8
        assert p_K.min() >= 0.5 / 8 * (1 - 1e-12)
        assert choice.propensity == pytest.approx(p_K[choice.chosen[0]], rel=1e-15)
        assert choice.retrieved is not None
        assert choice.chosen[0] in choice.retrieved
        assert 2 <= len(choice.retrieved) <= 3
        served[choice.chosen[0]] += 1
    least = stats.binom.ppf(1e-4, 1500, 0.5 / 8)
    assert served.min() >= least


def test_the_uniform_policys_propensity_ignores_the_exploration(candidates_of):
    choice = Uniform().select(
        np.zeros(4),
        candidates_of(5),
        np.random.default_rng(0),
        retrieve=2,
        exploration=Exploration(64, 0.5),
    )
    assert choice.propensity == 1 / 5


@pytest.mark.few(2)
@pytest.mark.parametrize("panel", [2, 3, 4, 5])
def test_small_panels_too_weigh_what_is_served_without_bias(panel):
    """Mirrored members only where each has one: given its panel, an action is served as logged."""
    posterior = GaussianPosterior.prior(2, PosteriorConfig(noise="fixed"))
    rng = np.random.default_rng(panel)
    scores_NM2 = np.stack([posterior.sample(rng, panel) for _ in range(20_000)])
    winners_NM = scores_NM2.argmax(axis=2)
    votes_N = (winners_NM == winners_NM[:, :1]).mean(axis=1)
    surplus_N = (winners_NM[:, 0] == 0) / votes_N - (winners_NM == 0).any(axis=1)
    assert abs(surplus_N.mean()) < 5 * surplus_N.std() / len(surplus_N) ** 0.5
