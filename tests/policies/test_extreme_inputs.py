"""Extreme inputs: what they may cost, and that a row of great leverage owns no direction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bandexa_core.policies import LinearTS
from bandexa_core.posterior import GaussianPosterior, Statistics
from bandexa_core.replay import Rows
from benchmarks.outliers import regret

NUM = 200
NOTHING = np.zeros((0, 4), np.float32)


class Logged:
    """All rows that a model has learned."""

    are_all = True

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def scan(self, chunk: int):
        for first in range(0, len(self._rows), chunk):
            yield self._rows.part(slice(first, first + chunk))


@pytest.mark.parametrize("encoder", ["concat", "interactions", "bilinear"])
@pytest.mark.parametrize(("wrong", "standardised"), [(1e6, 0.0), (20.0, 10.0)])
def test_one_value_leaves_the_posterior_of_its_row_bounded(
    make, make_rows, learn_all, encoder, wrong, standardised
):
    """The posterior is the textbook's with that value as the mean, or at the bound."""
    policy, rows = make(encoder, dtype="float64"), make_rows(NUM, dtype="float64")
    rows.contexts[17, 2] = wrong
    learn_all(policy, rows)
    policy.refresh(NUM, NOTHING, Logged(rows))
    assert isinstance(policy, LinearTS)
    scaling = policy.scaling
    assert scaling is not None
    x = (rows.contexts - scaling.x.mean) / scaling.x.std
    x[17, 2] = standardised
    a = (rows.actions - scaling.a.mean) / scaling.a.std
    z_ND = policy.encoder.encode(x, a)
    sums = Statistics(z_ND.shape[1])
    sums.add(z_ND, rows.rewards)
    expected = GaussianPosterior.from_statistics(sums, policy.config)
    assert isinstance(policy.posterior, GaussianPosterior)
    np.testing.assert_allclose(policy.posterior.mean, expected.mean, rtol=1e-9, atol=1e-12)
    others = np.delete(rows.contexts[:, 2], 17)
    assert scaling.x.std[2] < 1.3 * others.std()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_of_great_leverage_does_not_own_a_direction(make, make_rows, learn_all, dtype):
    """Its value is wrong by 5; without a bound, the weight of the column would be owned by it."""
    policy, rows = make("concat", dtype=dtype), make_rows(NUM, dtype=dtype)
    learn_all(policy, rows)
    policy.refresh(NUM, NOTHING, Logged(rows))
    before = policy.posterior.mean.copy()
    std = policy.posterior.mean_std(np.eye(9))[1]
    for value in (1e3, 1e6, 1e30):
        context = rows.contexts[0].copy()
        context[2] = value
        policy.learn(context, rows.actions[0], 0, None, 5.0)
    context[2] = policy.scaling.x.mean[2] + 9.0 * policy.scaling.x.std[2]
    moved = np.abs(policy.posterior.mean - before)
    assert moved[2] < 0.1
    assert policy.posterior.mean_std(np.eye(9))[1][2] > 0.5 * std[2]


def test_an_old_scaling_stays_what_it_was_until_a_round_renews_it(make, make_rows, learn_all):
    policy, rows = make("concat", dtype="float64"), make_rows(NUM, dtype="float64")
    learn_all(policy, rows)
    policy.refresh(NUM, NOTHING, Logged(rows))
    old = {
        name: tensor
        for name, tensor in policy.tensors().items()
        if not name.startswith("scaling/") or name.split("_")[-1] in ("mean", "std", "rows")
    }
    loaded = make("concat", dtype="float64")
    loaded.load_tensors(old)
    far = rows.contexts[:1] * 1e4
    expected = (far - policy.scaling.x.mean) / policy.scaling.x.std
    assert np.array_equal(loaded.scaled(far), expected)
    assert not loaded.scaling_due(NUM)
    loaded.refresh(NUM, NOTHING, Logged(rows))
    assert np.abs(loaded.scaled(far)).max() <= 10.0
    np.testing.assert_allclose(loaded.posterior.mean, policy.posterior.mean, rtol=1e-9)


def test_a_network_renews_only_the_column_that_left_its_scale(
    make_neural, make_rows, fill_replay, plan
):
    policy, rows = make_neural("mlp"), make_rows(400)
    state, _ = policy.train(fill_replay(rows), {}, plan(num_rows=400, steps=2))
    before = policy.scaling
    later = make_rows(120, seed=3)
    later.contexts[:, 1] *= 500.0
    fields = [field.name for field in dataclasses.fields(Rows)]
    both = Rows(*(np.concatenate([getattr(each, n) for each in (rows, later)]) for n in fields))
    both.positions[:] = np.arange(1, 521)
    policy.train(fill_replay(both), state, plan(num_rows=520, steps=2))
    assert policy.scaling.num_rows == 400
    assert policy.scaling.x.std[1] > 50.0
    for column in (0, 2, 3):
        assert policy.scaling.x.std[column] == before.x.std[column]


@pytest.mark.parametrize(
    ("scene", "horizon", "policy", "seeds"),
    [
        ("missing", 800, "linear_ts per_action", 3),
        *(
            pytest.param(*case, 6, marks=pytest.mark.slow)
            for case in (
                ("action", 800, "linear_ts interactions"),
                ("context", 800, "linear_ts interactions"),
                ("context", 800, "linear_ts per_action"),
                ("action", 800, "linear_ts per_action"),
                ("missing", 800, "linear_ts interactions"),
                ("spare", 1600, "linear_ts interactions"),
                ("spare", 1600, "linear_ts per_action"),
            )
        ),
    ],
)
def test_regret_is_hardly_more_than_without_the_disturbance(scene, horizon, policy, seeds):
    """By first draws. A seed that drops an action early decides a sum of six, by either draws.

    Over seeds 100 to 179 the ratio by second draws is .99 for "missing" and "action", as by first
    ones (1.02 and 1.00).
    """
    with_it, without = (
        sum(
            regret(scene, policy, seed, horizon, disturbed=disturbed, draws=1).sum()
            for seed in range(1, seeds + 1)
        )
        for disturbed in (True, False)
    )
    assert with_it <= 1.1 * without
