"""Worlds with one difficulty each, and the same worlds without it.

All contexts are float32 and are what is sent; a reward is drawn once for every action and step, so
that a disturbed scene and its undisturbed twin with the same seed share contexts, means and noise
wherever the disturbance leaves them alone. Rewards have no declared range.

Every function takes `seed` and `horizon` and returns a `Stream`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from benchmarks.peers.stream import Stream

_DIM = 6
_MOST_MONEY = 350.0
Means = NDArray[np.float64]


def _ids(num: int) -> tuple[str, ...]:
    return tuple(f"a{index}" for index in range(num))


def _contexts(rng: np.random.Generator, horizon: int, dim: int) -> NDArray[np.float32]:
    return rng.uniform(-1.0, 1.0, (horizon, dim)).astype(np.float32)


def _clicks(rng: np.random.Generator, means: Means) -> NDArray[np.float64]:
    """Draw 0 or 1; one uniform number of a step decides for all of its actions."""
    return (rng.random((len(means), 1)) < means).astype(np.float64)


def noisy_binary(*, seed: int, horizon: int, nonlinear: bool) -> Stream:
    """Two actions that pay 1 with probability .4 (1 + .8 s) and .4 (1 - .8 s), 8 numbers.

    s is x_0, or the sign of x_0 x_1 where the truth is nonlinear; x is uniform on [-1, 1].
    """
    rng = np.random.default_rng(seed)
    x = _contexts(rng, horizon, 8)
    side = np.sign(x[:, 0] * x[:, 1]) if nonlinear else x[:, 0]
    means = 0.4 * (1.0 + 0.8 * np.stack([side, -side], axis=1).astype(np.float64))
    return Stream(contexts=x, action_ids=_ids(2), means=means, rewards=_clicks(rng, means))


def _linear(seed: int, horizon: int, *, num: int = 3, noise: float = 0.05) -> Stream:
    """Means .5 + .3 w_a . x / |w_a| with w_a over the first four numbers, clipped to 0..1."""
    rng = np.random.default_rng(seed)
    x = _contexts(rng, horizon, _DIM)
    weights = np.zeros((num, _DIM))
    weights[:, :4] = rng.standard_normal((num, 4))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    means = np.clip(0.5 + 0.3 * x.astype(np.float64) @ weights.T, 0.0, 1.0)
    rewards = np.clip(means + noise * rng.standard_normal((horizon, 1)), 0.0, 1.0)
    return Stream(contexts=x, action_ids=_ids(num), means=means, rewards=rewards)


def in_range(*, seed: int, horizon: int, low: float, high: float) -> Stream:
    """A linear world of three actions with all rewards in [low, high]."""
    plain, span = _linear(seed, horizon), high - low
    return replace(plain, means=low + span * plain.means, rewards=low + span * plain.rewards)


def money(*, seed: int, horizon: int) -> Stream:
    """Three actions that pay nothing in 70 % of steps, else a heavy-tailed sum of at most 350.

    The sum is exp(N(0, 1)) times 20 (1 + 1.5 w_a . x), w_a of length 1 over four numbers, so the
    action that pays most depends on x. Contexts are objects, too, with a name for each number.
    """
    rng = np.random.default_rng(seed)
    x = _contexts(rng, horizon, _DIM)
    weights = np.zeros((3, _DIM))
    weights[:, :4] = rng.standard_normal((3, 4))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    scale = 20.0 * np.clip(1.0 + 1.5 * x.astype(np.float64) @ weights.T, 0.05, None)
    paid = rng.random((horizon, 1)) < 0.3
    sums = np.exp(rng.standard_normal((horizon, 1)))
    # E min(s exp(Z), c) = s exp(1/2) P(Z < l - 1) + c P(Z > l) with l = log(c / s).
    limit = np.log(_MOST_MONEY / scale)
    clipped = scale * np.exp(0.5) * ndtr(limit - 1.0) + _MOST_MONEY * ndtr(-limit)
    means = np.asarray(0.3 * clipped)
    rewards = np.where(paid, np.minimum(scale * sums, _MOST_MONEY), 0.0)
    objects = tuple({f"x{at}": value for at, value in enumerate(row)} for row in x.tolist())
    return Stream(contexts=x, action_ids=_ids(3), means=means, rewards=rewards, objects=objects)


def calm(*, seed: int, horizon: int) -> Stream:
    """The linear world that the disturbed ones are compared with; two numbers are spare."""
    return _linear(seed, horizon)


def outlier_context(*, seed: int, horizon: int) -> Stream:
    """One number of one context is 1e6, after a third of the steps: one that rewards depend on."""
    plain = calm(seed=seed, horizon=horizon)
    x = plain.contexts.copy()
    x[horizon // 3, 0] = 1e6
    return replace(plain, contexts=x)


def outlier_reward(*, seed: int, horizon: int, value: float) -> Stream:
    """The reward of one step is `value`, whatever is chosen, after a third of the steps."""
    plain = calm(seed=seed, horizon=horizon)
    rewards = plain.rewards.copy()
    rewards[horizon // 3] = value
    return replace(plain, rewards=rewards)


def missing(*, seed: int, horizon: int, column: int, shown: float) -> Stream:
    """A number is not known in 5 % of the steps, and `shown` is sent in its place.

    Rewards depend on the numbers 0 to 3 as they are; 4 and 5 are spare.
    """
    plain = calm(seed=seed, horizon=horizon)
    x = plain.contexts.copy()
    x[np.random.default_rng((seed, 1)).random(horizon) < 0.05, column] = shown
    return replace(plain, contexts=x)


def spare_column(*, seed: int, horizon: int, live: bool) -> Stream:
    """A seventh number that is 0; where it goes live, N(0, 100^2) after half of the steps."""
    plain = calm(seed=seed, horizon=horizon)
    column = np.zeros((horizon, 1), np.float32)
    if live:
        values = 100.0 * np.random.default_rng((seed, 1)).standard_normal((horizon, 1))
        column[horizon // 2 :] = values[horizon // 2 :]
    return replace(plain, contexts=np.concatenate([plain.contexts, column], axis=1))


def featured(*, seed: int, horizon: int, typo: bool) -> Stream:
    """Eight actions of two features and one more that is retired after 40 steps.

    Means are .5 + .25 x' W a, clipped to 0..1. With the typo, the first feature of the additional
    action is 1e6 in the catalogue; what it pays is that of the right value.
    """
    rng = np.random.default_rng(seed)
    x = _contexts(rng, horizon, _DIM)
    features = rng.uniform(-1.0, 1.0, (9, 2)).astype(np.float32)
    weights = rng.standard_normal((_DIM, 2))
    means = 0.5 + 0.25 * x.astype(np.float64) @ weights @ features.T.astype(np.float64)
    means = np.clip(means, 0.0, 1.0)
    rewards = np.clip(means + 0.05 * rng.standard_normal((horizon, 1)), 0.0, 1.0)
    if typo:
        features = features.copy()
        features[8, 0] = 1e6
    return Stream(
        contexts=x, action_ids=_ids(9), action_features=features, means=means, rewards=rewards,
        retired={8: 40},
    )  # fmt: skip


def sparse_clicks(*, seed: int, horizon: int) -> Stream:
    """Ten actions with click rates of .4 to 5 % that depend on 8 numbers.

    The rate is exp(log .004 + u log(.05 / .004)) with u = (1 + tanh(1.5 w_a . x)) / 2.
    """
    rng = np.random.default_rng(seed)
    x = _contexts(rng, horizon, 8)
    sums = 1.5 * x.astype(np.float64) @ rng.standard_normal((8, 10))
    means = 0.004 * (0.05 / 0.004) ** ((1.0 + np.tanh(sums)) / 2.0)
    return Stream(contexts=x, action_ids=_ids(10), means=means, rewards=_clicks(rng, means))


def many_actions(*, seed: int, horizon: int) -> Stream:
    """200 actions of eight features, 10 numbers; they pay 1 with probability 1 / (1 + exp(-l)).

    l = x' W a - 1 with W of independent normal entries, scaled so that x' W a has a standard
    deviation of 1.5.
    """
    rng = np.random.default_rng(seed)
    x = _contexts(rng, horizon, 10)
    features = rng.standard_normal((200, 8)).astype(np.float32)
    sums = x.astype(np.float64) @ rng.standard_normal((10, 8)) @ features.T.astype(np.float64)
    means = 1.0 / (1.0 + np.exp(1.0 - 1.5 * sums / sums.std()))
    return Stream(
        contexts=x, action_ids=_ids(200), action_features=features, means=means,
        rewards=_clicks(rng, means),
    )  # fmt: skip


def switch(*, seed: int, horizon: int) -> Stream:
    """The linear world, whose actions change roles after half of the steps."""
    plain = calm(seed=seed, horizon=horizon)
    means, rewards = plain.means.copy(), plain.rewards.copy()
    for values in (means, rewards):
        values[horizon // 2 :] = np.roll(values[horizon // 2 :], 1, axis=1)
    return replace(plain, means=means, rewards=rewards)


def delayed(*, seed: int, horizon: int, delay: int) -> Stream:
    """The linear world, whose rewards are reported `delay` steps at a time."""
    return replace(calm(seed=seed, horizon=horizon), delay=delay)
