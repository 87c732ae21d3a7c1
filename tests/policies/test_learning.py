"""Learning online, corrections, and rebuilds from a replay, against hand-computed posteriors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import BanditUid
from bandexa_core.policies import LinearTS, NeuralLinearTS, Uniform, make_policy
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior
from bandexa_core.replay import Rows

SHARED = ["concat", "interactions", "mlp", "two_tower"]
DISJOINT = ["per_action", "mlp per action"]


@pytest.fixture(params=[*SHARED, *DISJOINT])
def policy_maker(request, make):
    name, _, per_action = request.param.partition(" ")
    params = {"heads": "per_action"} if per_action else {}
    return lambda **options: make(name, params=params, **options)


def _cov(posterior: GaussianPosterior):
    return posterior.root @ posterior.root.T


def _assert_same_law(found, expected):
    """The root S is not unique, Sigma = S S^T is."""
    if isinstance(expected, DisjointPosterior):
        assert found.slots == expected.slots
        for slot in expected.slots:
            _assert_same_law(found.slot(slot), expected.slot(slot))
        return
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(_cov(found), _cov(expected), rtol=1e-8, atol=1e-10)
    assert found.a == pytest.approx(expected.a, rel=1e-12)
    assert found.b == pytest.approx(expected.b, rel=1e-8)
    assert found.num_rows == expected.num_rows


def _rows_at(rows: Rows, index) -> Rows:
    return Rows(
        rows.positions[index],
        rows.slots[index],
        rows.rewards[index],
        rows.actions[index],
        rows.contexts[index],
    )


def test_learning_is_an_update_of_the_posterior_with_the_encoded_row(
    policy_maker, make_rows, assert_same
):
    policy, rows = policy_maker(), make_rows(9)
    by_hand = policy.posterior.copy()
    for i in range(len(rows)):
        policy.learn(rows.contexts[i], rows.actions[i], rows.slots[i], None, rows.rewards[i])
        (z,) = policy.encoder.encode(rows.contexts[i : i + 1], rows.actions[i : i + 1])
        if isinstance(by_hand, DisjointPosterior):
            by_hand.update(rows.slots[i], z, rows.rewards[i])
        else:
            by_hand.update(z, rows.rewards[i])
    assert_same(policy.posterior.to_tensors(), by_hand.to_tensors())
    assert policy.posterior.num_rows == 9


def test_a_correction_changes_the_value_and_is_no_new_row(policy_maker, make_rows, assert_same):
    policy, rows = policy_maker(), make_rows(6)
    for i in range(6):
        policy.learn(rows.contexts[i], rows.actions[i], rows.slots[i], None, rows.rewards[i])
    by_hand = policy.posterior.copy()
    policy.learn(rows.contexts[2], rows.actions[2], rows.slots[2], rows.rewards[2], 3.5)
    (z,) = policy.encoder.encode(rows.contexts[2:3], rows.actions[2:3])
    if isinstance(by_hand, DisjointPosterior):
        by_hand.correct(rows.slots[2], z, rows.rewards[2], 3.5)
    else:
        by_hand.correct(z, rows.rewards[2], 3.5)
    assert_same(policy.posterior.to_tensors(), by_hand.to_tensors())
    assert policy.posterior.num_rows == 6


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    corrections=st.lists(st.tuples(st.integers(0, 11), st.floats(-5, 5)), min_size=1, max_size=8)
)
def test_corrected_values_count_as_if_they_had_been_the_first(
    policy_maker, make_rows, learn_all, corrections
):
    rows = make_rows(12)
    corrected, fresh = policy_maker(), policy_maker()
    learn_all(corrected, rows)
    values = rows.rewards.copy()
    for i, after in corrections:
        corrected.learn(rows.contexts[i], rows.actions[i], rows.slots[i], float(values[i]), after)
        values[i] = after
    learn_all(fresh, Rows(rows.positions, rows.slots, values, rows.actions, rows.contexts))
    _assert_same_law(corrected.posterior, fresh.posterior)


@pytest.mark.parametrize("noise", ["fixed", "nig"])
@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_a_rebuild_equals_learning_row_by_row(
    policy_maker, make_rows, fill_replay, learn_all, noise, chunk
):
    rows = make_rows(90)
    online, rebuilt = (policy_maker(posterior={"noise": noise}) for _ in range(2))
    learn_all(online, rows)
    replay = fill_replay(rows)
    for i in (3, 50):
        online.learn(rows.contexts[i], rows.actions[i], rows.slots[i], float(rows.rewards[i]), 2.0)
        replay.correct(rows.positions[i : i + 1], np.array([2.0]))
    rebuilt.rebuild(replay, chunk)
    _assert_same_law(rebuilt.posterior, online.posterior)


def test_a_rebuild_forgets_what_is_not_in_the_replay(
    policy_maker, make_rows, fill_replay, learn_all
):
    rows = make_rows(20)
    policy, fresh = policy_maker(), policy_maker()
    learn_all(policy, make_rows(30, seed=9, num_slots=8))
    policy.rebuild(fill_replay(rows), 4096)
    learn_all(fresh, rows)
    _assert_same_law(policy.posterior, fresh.posterior)


def test_a_rebuild_over_no_rows_is_the_prior(policy_maker, make_rows, fill_replay, learn_all):
    policy = policy_maker()
    learn_all(policy, make_rows(5))
    policy.rebuild(fill_replay(make_rows(0)), 10)
    _assert_same_law(policy.posterior, policy_maker().posterior)


def test_learning_goes_on_after_a_rebuild(policy_maker, make_rows, fill_replay, learn_all):
    rows = make_rows(40)
    online, rebuilt = policy_maker(), policy_maker()
    learn_all(online, rows)
    rebuilt.rebuild(fill_replay(_rows_at(rows, slice(0, 25))), 10)
    learn_all(rebuilt, _rows_at(rows, slice(25, 40)))
    _assert_same_law(rebuilt.posterior, online.posterior)


def test_a_refresh_does_not_change_the_law(
    policy_maker, make_rows, learn_all, candidates_of, assert_same
):
    """Where no new scaling is due."""
    policy = policy_maker()
    learn_all(policy, make_rows(40))
    before = policy.posterior.copy()
    policy.refresh(7, candidates_of(4).features)
    _assert_same_law(policy.posterior, before)
    by_hand = before.copy()
    by_hand.refresh()
    assert_same(policy.posterior.to_tensors(), by_hand.to_tensors())


def test_bytes_are_learned_as_fractions(make, make_rows, learn_all):
    as_bytes, as_floats = make("per_action", dtype="uint8"), make("per_action", dtype="float64")
    rows = make_rows(15, dtype="uint8")
    learn_all(as_bytes, rows)
    scaled = Rows(rows.positions, rows.slots, rows.rewards, rows.actions, rows.contexts / 255.0)
    learn_all(as_floats, scaled)
    _assert_same_law(as_bytes.posterior, as_floats.posterior)


def test_a_correction_of_a_row_this_model_never_learned_is_passed_over(
    make, make_rows, learn_all, assert_same
):
    """An imported posterior, or one rebuilt after evictions, need not know the slot at all.

    The row is in the log; refusing it would stop the bandit at every start.
    """
    policy, rows = make("per_action"), make_rows(9, num_slots=2)
    learn_all(policy, rows)
    before = policy.posterior.copy()
    policy.learn(rows.contexts[0], rows.actions[0], 3, 0.0, 1.0)
    assert_same(policy.posterior.to_tensors(), before.to_tensors())


def test_features_that_overflow_teach_nothing_online_or_in_a_rebuild(
    policy_maker, make_rows, fill_replay, learn_all
):
    """One absurd context in the log must not stop a bandit, nor each of its rounds."""
    policy, fresh = policy_maker(dtype="float64"), policy_maker(dtype="float64")
    rows = make_rows(9, dtype="float64")
    rows.contexts[4] = 1e300
    with np.errstate(over="ignore", invalid="ignore"):
        z_ND = policy.encoder.encode(rows.contexts, rows.actions)
        absurd = not (np.abs(z_ND[4]) < 1e40).all()
        learn_all(policy, rows)
        fresh.rebuild(fill_replay(rows), 4)
    assert policy.posterior.num_rows == (8 if absurd else 9)
    _assert_same_law(fresh.posterior, policy.posterior)


def test_the_state_comes_back_bit_for_bit(policy_maker, make_rows, learn_all, assert_same):
    policy, other = policy_maker(seed=1), policy_maker(seed=2)
    learn_all(policy, make_rows(20))
    tensors = policy.tensors()
    other.load_tensors({name: tensor.copy() for name, tensor in tensors.items()})
    assert_same(other.tensors(), tensors)
    for each in (policy, other):
        learn_all(each, make_rows(7, seed=3))
    assert_same(other.tensors(), policy.tensors())


def test_state_of_another_size_or_kind_is_refused(make):
    small, large = make("concat", shape=(4,)), make("concat", shape=(5,))
    with pytest.raises(ValueError, match="posterior: 9 weights for 10 features"):
        large.load_tensors(small.tensors())
    with pytest.raises(ValueError, match="unknown tensor 'mean'"):
        make("per_action").load_tensors(small.tensors())
    with pytest.raises(ValueError, match="'mean'"):
        small.load_tensors(make("per_action").tensors())
    with pytest.raises(ValueError, match="encoder: "):
        make("mlp").load_tensors(small.tensors())


def test_the_configuration_decides_which_policy_it_is(make_spec, make):
    def build(encoder, **options):
        return make_policy(make_spec(encoder, **options), BanditUid("b"), EncoderRegistry())

    assert isinstance(build("concat"), LinearTS)
    assert isinstance(build("mlp"), NeuralLinearTS)
    assert isinstance(build("concat", policy="uniform"), Uniform)
    for encoder, kind in (("concat", LinearTS), ("mlp", NeuralLinearTS)):
        greedy = build(encoder, policy="greedy")
        assert isinstance(greedy, kind)
        assert greedy.greedy
    assert not make("concat").greedy
    chunked = make("concat", selection={"action_chunk": 5})
    assert chunked.action_chunk == 5
    posterior = make("concat", posterior={"prior_var": 3.0, "noise": "fixed"}).posterior
    assert (posterior.config.prior_var, posterior.config.noise) == (3.0, "fixed")


@pytest.mark.parametrize(
    ("encoder", "policy", "message"),
    [
        ("resnet99", "linear_ts", r"encoder\.name: must be one of .*mlp"),
        ("resnet99", "neural_linear_ts", r"encoder\.name: must be one of .*mlp"),
        ("concat", "neural_linear_ts", r"encoder\.name: .*learned"),
        ("mlp", "linear_ts", r"encoder\.name: mlp is learned, .* linear_ts takes concat"),
    ],
)
def test_a_policy_on_an_encoder_it_cannot_use_is_refused(make, encoder, policy, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        make(encoder, policy=policy)


def test_the_initial_encoder_is_keyed_by_bandit_and_seed(make_spec, assert_same):
    def weights(uid, seed):
        spec = make_spec("mlp", seed=seed)
        return make_policy(spec, BanditUid(uid), EncoderRegistry()).tensors()

    first = weights("b", 1)
    assert_same(weights("b", 1), first)
    for other in (weights("c", 1), weights("b", 2)):
        assert not np.array_equal(other["encoder/first.weight"], first["encoder/first.weight"])
    assert_same(weights("b", None), weights("b", 0))
