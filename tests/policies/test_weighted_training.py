"""Rounds while forgetting: weighted rebuilds, and training rows drawn by what is left of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bandexa_core.filesystem import LocalFileSystem
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.policies import LinearHead
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior
from bandexa_core.replay import DiskReplay, MemoryReplay, Replay, RowLayout, Rows
from bandexa_core.spec import ForgettingSpec

FAST = ForgettingSpec(by="count", half_life=40.0)


class NoSync(LocalFileSystem):
    """The real file system without its slow part, for tests that lose no power."""

    def sync_file(self, fd: int) -> None:
        pass

    def sync_dir(self, path: Path) -> None:
        pass


@pytest.fixture(params=["concat", "interactions", "per_action", "mlp", "mlp per action"])
def policy_maker(request, make):
    name, _, per_action = request.param.partition(" ")
    params = {"heads": "per_action"} if per_action else {}
    return lambda **options: make(name, params=params, **options)


@pytest.fixture(params=["memory", "disk"])
def open_filled(request, tmp_path: Path):
    """Put rows into a replay of either backend; a disk one has many small shards."""
    opened: list[Replay] = []

    def fill(rows: Rows, capacity: int | None = None) -> Replay:
        dtype: Any = rows.contexts.dtype.name
        layout = RowLayout(rows.contexts.shape[1:], dtype, rows.actions.shape[1])
        replay: Replay
        if request.param == "memory":
            replay = MemoryReplay(layout, capacity)
        else:
            root = tmp_path / f"replay-{len(opened)}"
            replay = DiskReplay(root, layout, shard_size=8, capacity=capacity, fs=NoSync())
        opened.append(replay)
        replay.append(rows)
        return replay

    yield fill
    for replay in opened:
        replay.close()


def _part(rows: Rows, index: slice) -> Rows:
    return Rows(*(getattr(rows, field.name)[index] for field in dataclasses.fields(rows)))


def _assert_close(found, expected):
    """Equal laws: the root S is not unique, Sigma = S S^T is."""
    if isinstance(expected, DisjointPosterior):
        assert found.slots == expected.slots
        for slot in expected.slots:
            _assert_close(found.slot(slot), expected.slot(slot))
        return
    assert isinstance(expected, GaussianPosterior)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(
        found.root @ found.root.T, expected.root @ expected.root.T, rtol=1e-8, atol=1e-8
    )
    assert found.a == pytest.approx(expected.a, rel=1e-8)
    assert found.b == pytest.approx(expected.b, rel=1e-8)
    assert found.num_rows == pytest.approx(expected.num_rows, rel=1e-8)


def _learn_online(
    policy: LinearHead, rows: Rows, replay: Replay | None = None, corrected: int = 0
) -> Forgetting:
    """Learn rows as a model does that forgets, then correct some in later rows of the log."""
    state = Forgetting()

    def forget(position: int) -> None:
        nonlocal state
        due = state.due(FAST, position, 0.0)
        if due:
            policy.adopt(policy.forgotten(2.0**-due))
        state = state.after(FAST, position, 0.0)

    for i, position in enumerate(rows.positions.tolist()):
        forget(position)
        slot, reward = rows.slots[i], float(rows.rewards[i])
        policy.learn(rows.contexts[i], rows.actions[i], slot, None, reward)
    for number in range(corrected):
        forget(int(rows.positions[-1]) + 1 + number)
        i = number * 7 % len(rows)
        weight = state.weight(rows.positions[i])
        before, after = float(rows.rewards[i]), number - 2.5
        policy.learn(rows.contexts[i], rows.actions[i], rows.slots[i], before, after, weight)
        if replay is not None:
            replay.correct(rows.positions[i : i + 1], np.array([after]))
    return state


@pytest.mark.few(12)
@pytest.mark.parametrize("noise", ["fixed", "nig"])
@pytest.mark.parametrize("chunk", [7, 4096])
def test_a_weighted_rebuild_equals_the_posterior_that_forgot_online(
    policy_maker, make_rows, open_filled, noise, chunk
):
    """Catalogue rows lie between: positions have gaps. Eight rows are corrected late."""
    rows = make_rows(130)
    rows = dataclasses.replace(rows, positions=rows.positions + rows.positions // 9)
    online, rebuilt = (policy_maker(posterior={"noise": noise}) for _ in range(2))
    replay = open_filled(rows)
    state = _learn_online(online, rows, replay, corrected=8)
    assert len(state.positions) > 90
    rebuilt.rebuild(replay, chunk, state.weights)
    _assert_close(rebuilt.posterior, online.posterior)
    # Rows after the round are learned, and forgotten, alike.
    for each in (online, rebuilt):
        each.adopt(each.forgotten(0.7))
        each.learn(rows.contexts[3], rows.actions[3], rows.slots[3], None, 0.5)
    _assert_close(rebuilt.posterior, online.posterior)


def test_a_rebuild_that_weighs_all_rows_alike_is_the_plain_one(
    policy_maker, make_rows, fill_replay
):
    plain, weighted = policy_maker(), policy_maker()
    replay = fill_replay(make_rows(60))
    plain.rebuild(replay, 16)
    weighted.rebuild(replay, 16, lambda positions: np.ones(len(positions)))
    _assert_close(weighted.posterior, plain.posterior)


def test_forgetting_elsewhere_leaves_the_served_posterior_as_it_is(
    policy_maker, make_rows, learn_all, assert_same
):
    policy = policy_maker()
    learn_all(policy, make_rows(20))
    served, before = policy.posterior, policy.posterior.copy()
    forgotten = policy.forgotten(0.5)
    assert policy.posterior is served
    assert_same(served.to_tensors(), before.to_tensors())
    policy.adopt(forgotten)
    assert policy.posterior.num_rows == 10.0
    assert_same(served.to_tensors(), before.to_tensors())


def test_rows_with_features_that_overflow_are_left_out_with_their_weights(
    policy_maker, make_rows, fill_replay
):
    rows = make_rows(12, dtype="float64")
    whole, rest = policy_maker(dtype="float64"), policy_maker(dtype="float64")
    rows.contexts[4] = np.nan
    keep = np.arange(12) != 4
    others = Rows(*(getattr(rows, field.name)[keep] for field in dataclasses.fields(rows)))

    def weights(positions):
        return positions / 20.0

    with np.errstate(invalid="ignore"):
        whole.rebuild(fill_replay(rows), 5, weights)
    rest.rebuild(fill_replay(others), 5, weights)
    _assert_close(whole.posterior, rest.posterior)


def test_training_draws_no_row_of_which_nothing_is_left(make_neural, make_rows, fill_replay, plan):
    """It equals, bit for bit in the encoder, training on the rows that are left alone."""
    rows = make_rows(80)
    recent = _part(rows, slice(40, 80))
    first, second = (make_neural(seed=3) for _ in range(2))
    round_ = plan(num_rows=80, actions=rows.actions[:0], reward_scale=1.0, rebuild_chunk=4096)
    _, metrics = first.train(fill_replay(rows), {}, round_, lambda p: (p > 40).astype(float))
    second.train(fill_replay(recent), {}, round_, lambda p: np.ones(len(p)))
    assert metrics["rows"] == 80
    ours, theirs = first.tensors(), second.tensors()
    encoder = [name for name in theirs if name.startswith("encoder/")]
    assert encoder
    for name in encoder:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        ours["posterior/mean"], theirs["posterior/mean"], rtol=1e-4, atol=1e-5
    )
    assert ours["posterior/n"] == theirs["posterior/n"] == 40.0


def test_training_follows_rewards_that_changed(make_neural, make_rows, fill_replay, plan):
    """Rewards change their sign half-way: forgetting, predictions are of the new sign."""
    rows = make_rows(400)
    sign = np.where(np.arange(400) < 200, -1.0, 1.0)
    flipped = dataclasses.replace(rows, rewards=rows.rewards * sign)
    state = Forgetting()
    for position in rows.positions.tolist():
        state = state.after(FAST, position, 0.0)
    errors = {}
    for weights in (None, state.weights):
        policy = make_neural(seed=1)
        round_ = plan(num_rows=400, actions=rows.actions[:0], reward_scale=1.0, steps=150)
        policy.train(fill_replay(flipped), {}, round_, weights)
        z_ND = policy.encoder.encode(policy.scaled(rows.contexts), policy._actions(rows.actions))
        assert isinstance(policy.posterior, GaussianPosterior)
        errors[weights is None] = np.mean((z_ND @ policy.posterior.mean - rows.rewards) ** 2)
    assert errors[False] < 0.4 * errors[True]


def test_rows_are_sampled_in_proportion_to_their_weights(open_filled, make_rows):
    """Chi-square over 60 rows of weights from 0 (four rows) to 3, some of them evicted before."""
    replay = open_filled(make_rows(200), capacity=60)
    kept = replay.positions()
    assert np.array_equal(kept, np.arange(141, 201))
    weights = np.random.default_rng(2).uniform(0.2, 3.0, 60)
    weights[[0, 17, 18, 59]] = 0.0
    rng = np.random.default_rng(8)
    sampled = np.concatenate(
        [replay.sample(rng, 500, np.cumsum(weights)).positions for _ in range(40)]
    )
    counts = np.bincount(sampled - 141, minlength=60)
    assert (counts[weights == 0.0] == 0).all()
    some = weights > 0.0
    expected = len(sampled) * weights[some] / weights.sum()
    assert stats.chisquare(counts[some], expected).pvalue > 1e-3


def test_weighted_samples_bring_the_rows_whole_and_repeat_with_their_seed(
    open_filled, make_rows, assert_same
):
    rows = make_rows(50)
    replay = open_filled(rows)
    sums = np.cumsum(2.0 ** -np.arange(50)[::-1])
    first, second = (replay.sample(np.random.default_rng(4), 30, sums) for _ in range(2))
    names = [field.name for field in dataclasses.fields(first)]
    assert_same({n: getattr(first, n) for n in names}, {n: getattr(second, n) for n in names})
    assert (np.diff(first.positions) >= 0).all()
    at = first.positions - 1
    for name in names:
        assert np.array_equal(getattr(first, name), getattr(rows, name)[at]), name


def test_weights_far_below_one_are_still_weights(open_filled, make_rows):
    """After a long pause little is left of any row, in the same proportions."""
    replay = open_filled(make_rows(4))
    weights = np.array([1.0, 2.0, 0.0, 5.0]) * 2.0**-900
    sampled = replay.sample(np.random.default_rng(0), 4000, np.cumsum(weights)).positions
    counts = np.bincount(sampled - 1, minlength=4)
    assert counts[2] == 0
    assert stats.chisquare(counts[[0, 1, 3]], 4000 * np.array([1, 2, 5]) / 8).pvalue > 1e-3


@pytest.mark.parametrize(
    "sums",
    [
        np.arange(1.0, 20.0),
        np.arange(1.0, 22.0),
        np.ones((20, 1)),
        np.zeros(20),
        np.full(20, np.nan),
        np.empty(0),
    ],
    ids=["too few", "too many", "a matrix", "all zero", "no numbers", "none"],
)
def test_sums_that_do_not_belong_to_the_rows_are_refused(open_filled, make_rows, sums):
    replay = open_filled(make_rows(20))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="cumulative_N must have one sum per row"):
        replay.sample(rng, 5, sums)
    assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn
    assert len(replay.sample(rng, 5, np.arange(1.0, 21.0))) == 5


def test_positions_are_a_copy_of_those_kept(open_filled, make_rows):
    replay = open_filled(make_rows(30), capacity=12)
    positions = replay.positions()
    assert np.array_equal(positions, np.arange(19, 31))
    positions[:] = 0
    assert np.array_equal(replay.positions(), np.arange(19, 31))
    replay.append(_part(make_rows(31), slice(30, 31)))
    assert np.array_equal(replay.positions(), np.arange(20, 32))
