"""The law of what is selected: that of the posterior, computed here from the rows by textbook.

Each test selects for some thousand decision ids and compares how often each action was chosen
with its probability, by a chi-square test. Seeds are fixed, so a test that passes always passes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from bandexa_core.policies import Uniform
from bandexa_core.policies.panel import Exploration
from tests.fixtures.matrices import examples

NUM_DECISIONS = examples(1500, 4000)
NUM_DRAWS = 100_000
LEAST_P = 1e-3
ALONE = Exploration(panel=1)
SECOND = Exploration(panel=2, version=2)  # the first of a mirrored pair, of the second draws


class Law(NamedTuple):
    """w ~ N(mean, s2 cov), s2 ~ inverse-gamma(a, b), or s2 = v where a is infinite."""

    mean: np.ndarray
    cov: np.ndarray
    a: float
    b: float

    def scores(self, z_KD, rng, num):
        """Draw num joint scores of K candidates, (num, K)."""
        spread = np.linalg.cholesky(z_KD @ self.cov @ z_KD.T + 1e-14 * np.eye(len(z_KD)))
        s2 = np.full(num, self.b)
        if math.isfinite(self.a):
            s2 = stats.invgamma.rvs(self.a, scale=self.b, size=num, random_state=rng)
        noise = rng.standard_normal((num, len(z_KD))) @ spread.T
        return z_KD @ self.mean + np.sqrt(s2)[:, None] * noise


def _law(z_ND, r_N, config) -> Law:
    """The posterior of rows (z, r), by inverting the precision."""
    precision = z_ND.T @ z_ND + config.ridge * np.eye(z_ND.shape[1])
    cov = np.linalg.inv(precision)
    mean = cov @ (z_ND.T @ r_N)
    if config.noise == "fixed":
        return Law(mean, cov, math.inf, config.noise_var)
    squares = r_N @ r_N - mean @ precision @ mean
    a0 = config.noise_shape
    return Law(mean, cov, a0 + len(r_N) / 2, a0 * config.noise_var + squares / 2)


def _counts(policy, context, candidates, decision_rng, exploration=ALONE):
    chosen = [
        int(policy.select(
            context, candidates, decision_rng(number), exploration=exploration
        ).chosen[0])
        for number in range(NUM_DECISIONS)
    ]  # fmt: skip
    return np.bincount(chosen, minlength=len(candidates))


def _assert_law(counts, probabilities):
    """Rare outcomes are pooled, as the chi-square test asks for."""
    expected = np.asarray(probabilities) * counts.sum()
    common = expected >= 8
    pooled = np.append(expected[common], expected[~common].sum())
    found = np.append(counts[common], counts[~common].sum())
    if pooled[-1] < 8:
        pooled[-2] += pooled[-1]
        found[-2] += found[-1]
        pooled, found = pooled[:-1], found[:-1]
    assert len(pooled) > 1, "the law must leave something to chance"
    assert stats.chisquare(found, pooled * found.sum() / pooled.sum()).pvalue > LEAST_P


def test_two_actions_with_known_noise_follow_the_normal_law(
    make, make_rows, learn_all, candidates_of, decision_rng
):
    """P(0) = Phi((z0 - z1).m / sqrt(v (z0 - z1)' Sigma (z0 - z1)))."""
    posterior = {"noise": "fixed", "noise_var": 0.5, "prior_var": 2.0}
    policy = make("interactions", posterior=posterior)
    rows, candidates = make_rows(12), candidates_of(2)
    learn_all(policy, rows)
    context = rows.contexts[0]
    law = _law(policy.encoder.encode(rows.contexts, rows.actions), rows.rewards, policy.config)
    z0, z1 = policy.encoder.encode_batch(context, candidates.features)
    d = z0 - z1
    p = stats.norm.cdf(d @ law.mean / math.sqrt(0.5 * d @ law.cov @ d))
    assert 0.1 < p < 0.9
    _assert_law(_counts(policy, context, candidates, decision_rng), [p, 1 - p])


@pytest.mark.few(4)
@pytest.mark.parametrize("noise", ["fixed", "nig"])
@pytest.mark.parametrize(
    ("encoder", "exploration"),
    [
        *((encoder, ALONE) for encoder in ("concat", "interactions", "mlp", "two_tower")),
        *((encoder, SECOND) for encoder in ("concat", "interactions", "bilinear")),
    ],
)
def test_a_shared_posterior_is_sampled_jointly_over_all_candidates(
    make, make_rows, learn_all, candidates_of, decision_rng, encoder, exploration, noise
):
    posterior = {"noise": noise, "noise_var": 0.3, "prior_var": 1.0, "noise_shape": 1.5}
    policy = make(encoder, posterior=posterior)
    rows, candidates = make_rows(6), candidates_of(5)
    learn_all(policy, rows)
    # Its root is triangular then, as far from symmetric as can be.
    policy.refresh(6, candidates.features)
    context = rows.contexts[1]
    law = _law(policy.encoder.encode(rows.contexts, rows.actions), rows.rewards, policy.config)
    z = policy.encoder.encode_batch(context, candidates.features)
    best = law.scores(z, np.random.default_rng(0), NUM_DRAWS).argmax(axis=1)
    probabilities = np.bincount(best, minlength=5) / NUM_DRAWS
    _assert_law(_counts(policy, context, candidates, decision_rng, exploration), probabilities)


@pytest.mark.few(2)
@pytest.mark.parametrize("noise", ["fixed", "nig"])
@pytest.mark.parametrize(
    ("encoder", "exploration"), [("per_action", ALONE), ("mlp", ALONE), ("per_action", SECOND)]
)
def test_disjoint_posteriors_are_sampled_independently(
    make, make_rows, learn_all, candidates_of, decision_rng, encoder, exploration, noise
):
    """Slot 3 has learned nothing: its law is the prior's."""
    params = {} if encoder == "per_action" else {"heads": "per_action"}
    posterior = {"noise": noise, "noise_var": 0.3, "prior_var": 0.6, "noise_shape": 1.5}
    policy = make(encoder, params=params, posterior=posterior)
    rows, candidates = make_rows(14, num_slots=3), candidates_of(4)
    learn_all(policy, rows)
    context, rng = rows.contexts[2], np.random.default_rng(0)
    z_ND = policy.encoder.encode(rows.contexts, rows.actions)
    z = policy.encoder.encode(context[None], rows.actions[:1])
    laws = [
        _law(z_ND[rows.slots == slot], rows.rewards[rows.slots == slot], policy.config)
        for slot in range(4)
    ]
    if noise == "nig":  # all slots have one noise variance, and each draw has one
        a0, b0 = policy.config.noise_shape, policy.config.prior_rate
        a, b = a0 + sum(law.a - a0 for law in laws), b0 + sum(law.b - b0 for law in laws)
        s2_M = stats.invgamma.rvs(a, scale=b, size=NUM_DRAWS, random_state=rng)
        laws = [law._replace(a=math.inf, b=1.0) for law in laws]
        scores = [
            z @ law.mean + np.sqrt(s2_M)[:, None] * (law.scores(z, rng, NUM_DRAWS) - z @ law.mean)
            for law in laws
        ]
    else:
        scores = [law.scores(z, rng, NUM_DRAWS) for law in laws]
    best = np.concatenate(scores, axis=1).argmax(axis=1)
    probabilities = np.bincount(best, minlength=4) / NUM_DRAWS
    _assert_law(_counts(policy, context, candidates, decision_rng, exploration), probabilities)


def test_several_picks_rank_one_joint_draw(make, make_rows, learn_all, candidates_of, decision_rng):
    """The law of the ordered pair; independent draws per candidate have another one."""
    policy = make("concat", posterior={"noise": "fixed", "noise_var": 0.5})
    rows, candidates = make_rows(5), candidates_of(4)
    learn_all(policy, rows)
    context = rows.contexts[0]
    law = _law(policy.encoder.encode(rows.contexts, rows.actions), rows.rewards, policy.config)
    z = policy.encoder.encode_batch(context, candidates.features)
    order = np.argsort(-law.scores(z, np.random.default_rng(0), NUM_DRAWS), axis=1)
    probabilities = np.bincount(order[:, 0] * 4 + order[:, 1], minlength=16) / NUM_DRAWS
    pairs = [
        policy.select(context, candidates, decision_rng(number), num=2).chosen
        for number in range(NUM_DECISIONS)
    ]
    counts = np.bincount([4 * int(i) + int(j) for i, j in pairs], minlength=16)
    assert (counts[[0, 5, 10, 15]] == 0).all()
    _assert_law(counts, probabilities)


@pytest.mark.parametrize("exploration", [ALONE, SECOND], ids=["first", "second"])
def test_the_sampled_score_has_the_posteriors_mean_and_spread(
    make, make_rows, learn_all, candidates_of, decision_rng, exploration
):
    """With one candidate the score is z.w itself: Kolmogorov-Smirnov against its normal law."""
    policy = make("concat", posterior={"noise": "fixed", "noise_var": 0.5})
    rows, candidates = make_rows(5), candidates_of(1)
    learn_all(policy, rows)
    context = rows.contexts[0]
    law = _law(policy.encoder.encode(rows.contexts, rows.actions), rows.rewards, policy.config)
    (z,) = policy.encoder.encode_batch(context, candidates.features)
    choices = [
        policy.select(context, candidates, decision_rng(number), exploration=exploration)
        for number in range(NUM_DECISIONS)
    ]
    scores = [float(choice.scores[0]) for choice in choices]
    expected = stats.norm(z @ law.mean, math.sqrt(0.5 * z @ law.cov @ z))
    assert stats.kstest(scores, expected.cdf).pvalue > LEAST_P
    mean, std = policy.score(context, candidates)
    assert mean[0] == pytest.approx(expected.mean(), rel=1e-9)
    assert std[0] == pytest.approx(expected.std(), rel=1e-9)
    assert choices[0].std == pytest.approx(expected.std(), rel=1e-9)


@pytest.mark.parametrize("num", [1, 2])
def test_uniform_chooses_every_ordered_pick_equally_often(candidates_of, decision_rng, num):
    policy, context, candidates = Uniform(), np.zeros(4, np.float32), candidates_of(5)
    picks = [
        policy.select(context, candidates, decision_rng(number), num=num).chosen
        for number in range(NUM_DECISIONS)
    ]
    flat = [int(np.ravel_multi_index(tuple(pick), (5,) * num)) for pick in picks]
    counts = np.bincount(flat, minlength=5**num)
    possible = counts if num == 1 else counts[~np.eye(5, dtype=bool).ravel()]
    assert possible.sum() == NUM_DECISIONS
    assert stats.chisquare(possible).pvalue > LEAST_P


def test_equal_candidates_are_chosen_equally_often_before_anything_is_learned(
    make, decision_rng, candidates_of
):
    """Disjoint priors are equal, so the first decisions explore evenly."""
    policy = make("per_action", action_dim=0)
    counts = _counts(policy, np.ones(4, np.float32), candidates_of(6, 0), decision_rng)
    assert stats.chisquare(counts).pvalue > LEAST_P
