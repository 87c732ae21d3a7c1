"""Standardised inputs: their constants, how they are stored, and what they do to fixed maps."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.features.scaling import LEAST_DEVIATION, MAX_SIZE, InputScaling, Moments
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec

Array64 = NDArray[np.float64]


def _moments(rows_NF: NDArray[Any]) -> Moments:
    found = Moments.of([(rows_NF, None)])
    assert found is not None
    return found


def _scaling(contexts: NDArray[Any], actions: NDArray[Any]) -> InputScaling:
    """Return the scaling of some inputs, (N, *X) and (K, A)."""
    start = InputScaling.identity(contexts.shape[1:], actions.shape[1])
    flat = contexts.reshape(len(contexts), -1)
    return start.updated(len(contexts), _moments(flat), _moments(actions))


# -- moments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[], [1], [32], [3, 4, 50], list(range(1, 64))])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_are_those_of_the_whole_however_it_is_cut(cuts, weighted):
    rng = np.random.default_rng(0)
    rows_NF = rng.normal(size=(64, 5)) * [1.0, 1e-9, 1e12, 3.0, 1.0] + [0.0, 1.0, 7.0, 1e6, -4.0]
    weights_N = rng.random(64) if weighted else np.ones(64)
    chunks = [
        (part, weights if weighted else None)
        for part, weights in zip(np.split(rows_NF, cuts), np.split(weights_N, cuts), strict=True)
    ]
    found = Moments.of(chunks)
    assert found is not None
    mean = np.average(rows_NF, axis=0, weights=weights_N)
    variance = np.average((rows_NF - mean) ** 2, axis=0, weights=weights_N)
    assert found.count == pytest.approx(weights_N.sum(), rel=1e-13)
    np.testing.assert_allclose(found.mean_F, mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.std_F, np.sqrt(variance), rtol=1e-6)  # 1 + 1e-9 is rounded
    np.testing.assert_allclose(found.std_F[[0, 2, 3, 4]], np.sqrt(variance)[[0, 2, 3, 4]], 1e-10)


def test_no_digits_cancel_where_the_mean_dwarfs_the_deviation():
    rng = np.random.default_rng(1)
    noise_N1 = rng.choice([-1.0, 1.0], size=(1000, 1))
    found = Moments.of([(part + 2.0**40, None) for part in np.split(noise_N1, 10)])
    assert found is not None
    assert found.mean_F[0] - 2.0**40 == pytest.approx(noise_N1.mean(), abs=1e-3)
    assert found.std_F[0] == pytest.approx(noise_N1.std(), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moments_are_taken_in_float64(dtype):
    rows = np.array([[1e20], [-1e20], [3e19]], dtype)
    found = _moments(rows)
    assert found.std_F[0] == pytest.approx(rows.astype(np.float64).std(), rel=1e-12)
    assert found.mean_F.dtype == found.std_F.dtype == np.float64


def test_rows_without_weight_do_not_count():
    rows = np.array([[1.0], [5.0], [100.0]])
    found = Moments.of([(rows, np.array([0.5, 0.5, 0.0])), (rows, np.zeros(3))])
    assert found is not None
    assert (found.count, found.mean_F[0], found.std_F[0]) == (1.0, 3.0, 2.0)
    assert Moments.of([(rows, np.zeros(3))]) is None
    assert Moments.of([]) is None


def test_features_there_are_none_of_have_moments_too():
    found = _moments(np.zeros((3, 0), np.float32))
    assert found.mean_F.shape == found.std_F.shape == (0,)


# -- scaling --------------------------------------------------------------------------------------


def test_before_any_row_inputs_stay_as_they_are():
    scaling = InputScaling.identity((2, 3), 4)
    contexts, actions = np.ones((5, 2, 3), np.float32), np.ones((6, 4), np.float32)
    assert scaling.contexts(contexts) is contexts
    assert scaling.actions(actions) is actions


@pytest.mark.parametrize("shape", [(6,), (1,), (2, 3), (3, 2, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scaled_inputs_have_mean_0_and_deviation_1(shape, dtype):
    rng = np.random.default_rng(2)
    sizes = 10.0 ** rng.integers(-3, 4, shape)
    contexts = (rng.normal(size=(200, *shape)) * sizes + 30 * sizes).astype(dtype)
    actions = rng.exponential(1e3, (50, 4)).astype(np.float32)
    scaling = _scaling(contexts, actions)
    x, a = scaling.contexts(contexts), scaling.actions(actions)
    assert x.shape == contexts.shape
    assert x.dtype == a.dtype == np.float64
    for scaled in (x, a):
        np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=1e-10)
        np.testing.assert_allclose(scaled.std(axis=0), 1.0, rtol=1e-10)
    assert np.array_equal(scaling.contexts(contexts[7]), x[7])
    assert np.array_equal(scaling.actions(actions[3:5]), a[3:5])


@pytest.mark.parametrize("value", [0.0, 5.0, -0.1, 1e-30, 1e5])
def test_a_constant_feature_is_centred_only(value):
    contexts = np.full((300, 1), value, np.float32)
    scaling = _scaling(contexts, np.zeros((1, 0), np.float32))
    assert scaling.x_std[0] == 1.0
    np.testing.assert_allclose(scaling.contexts(contexts), 0.0, atol=1e-15 * abs(value))
    changed = contexts[:1].astype(np.float64) + 2.0
    assert scaling.contexts(changed)[0, 0] == pytest.approx(2.0)


def test_jitter_of_the_last_digits_is_no_deviation():
    contexts = np.float32(0.3) * (1 + np.float32(1e-7) * np.arange(3, dtype=np.float32))[:, None]
    assert len(np.unique(contexts)) > 1
    assert _scaling(contexts, np.zeros((1, 0))).x_std[0] == 1.0


@pytest.mark.parametrize("value", [1e9, -1e12, 1e20])
def test_what_rounding_leaves_of_a_huge_constant_stays_small(value):
    """Else a millionth of a feature that never says anything would drown the others."""
    rng = np.random.default_rng(3)
    contexts = value * (1.0 + 1e-7 * rng.normal(size=(100, 1)))
    scaling = _scaling(contexts, np.zeros((1, 0)))
    assert scaling.x_std[0] == pytest.approx(LEAST_DEVIATION * abs(value), rel=1e-5)
    assert np.abs(scaling.contexts(contexts)).max() < 1.0


def test_bytes_stay_as_they_are_while_actions_are_scaled():
    start = InputScaling.identity((3,), 2, scales_contexts=False)
    x, a = Moments(9.0, np.full(3, 0.5), np.full(3, 0.1)), Moments(9.0, np.ones(2), np.full(2, 4.0))
    scaling = start.updated(9, x, a)
    images = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert scaling.contexts(images) is images
    assert np.array_equal(scaling.actions(np.full((1, 2), 5.0)), [[1.0, 1.0]])
    change = start.change_to(scaling)
    assert np.array_equal(change.x_factor, np.ones(3))
    assert np.array_equal(change.x_offset, np.zeros(3))


def test_scaled_inputs_are_never_larger_than_raw_ones_may_be():
    """After values that hardly differ, one that dwarfs them: its products are still learnable."""
    quiet = np.array([[1e-160], [-1e-160]])
    scaling = _scaling(quiet, quiet)
    assert scaling.x_std[0] == pytest.approx(1e-160)
    assert scaling.contexts(np.array([1e20]))[0] == MAX_SIZE
    assert scaling.contexts(np.array([-1e20]))[0] == -MAX_SIZE
    assert np.array_equal(scaling.actions(np.array([[1e300], [0.0]])), [[MAX_SIZE], [0.0]])


def test_moments_that_are_unknown_leave_what_there_is():
    rng = np.random.default_rng(4)
    first = _scaling(rng.normal(size=(9, 3)), rng.normal(size=(9, 2)))
    second = first.updated(18, None, None)
    assert second.num_rows == 18
    assert np.array_equal(second.x_mean, first.x_mean)
    assert np.array_equal(second.a_std, first.a_std)


def test_moments_of_scaled_inputs_tell_those_of_raw_ones():
    rng = np.random.default_rng(5)
    before, later = rng.normal(3.0, 7.0, (50, 3)), rng.normal(-2.0, 0.3, (50, 3))
    scaling = _scaling(before, before)
    for of_context, scale in ((True, scaling.contexts), (False, scaling.actions)):
        found = scaling.raw_moments(_moments(scale(later)), of_context=of_context)
        np.testing.assert_allclose(found.mean_F, later.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.std_F, later.std(axis=0), rtol=1e-12)


# -- snapshots ------------------------------------------------------------------------------------


def test_the_constants_go_through_tensors_bit_for_bit():
    rng = np.random.default_rng(6)
    scaling = _scaling(rng.normal(size=(40, 2, 2)), rng.normal(size=(40, 3)))
    loaded = InputScaling.identity((2, 2), 3).loaded(scaling.tensors())
    assert loaded.num_rows == 40
    assert loaded.scales_contexts
    for field in ("x_mean", "x_std", "a_mean", "a_std"):
        assert np.array_equal(getattr(loaded, field), getattr(scaling, field))
    bytes_only = InputScaling.identity((2, 2), 3, scales_contexts=False)
    assert not bytes_only.loaded(scaling.tensors()).scales_contexts


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("x_mean", None),
        ("surprise", np.zeros(3)),
        ("x_mean", np.zeros(2)),
        ("x_mean", np.zeros((3, 1))),
        ("a_std", np.ones(2, np.float32)),
        ("x_mean", np.array([0.0, np.nan, 0.0])),
        ("a_mean", np.array([np.inf, 0.0])),
        ("x_std", np.array([1.0, 0.0, 1.0])),
        ("x_std", np.array([1.0, -1.0, 1.0])),
        ("a_std", np.array([1.0, 5e-324])),
        ("num_rows", np.array(-1)),
        ("num_rows", np.array(32.0)),
        ("num_rows", np.array([32])),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, wrong):
    start = InputScaling.identity((3,), 2)
    tensors = start.tensors() | {name: wrong}
    if wrong is None:
        del tensors[name]
    with pytest.raises(ValueError, match="scaling: "):
        start.loaded(tensors)


# -- features under another scaling ---------------------------------------------------------------


def _scalings(size_x: int, size_a: int) -> st.SearchStrategy[InputScaling]:
    means = st.floats(-100.0, 100.0)
    deviations = st.floats(-3.0, 3.0).map(lambda power: 10.0**power)

    def vectors(values: st.SearchStrategy[float], size: int) -> st.SearchStrategy[Array64]:
        return st.lists(values, min_size=size, max_size=size).map(np.array)

    return st.builds(
        InputScaling,
        st.integers(1, 1000),
        vectors(means, size_x),
        vectors(deviations, size_x),
        vectors(means, size_a),
        vectors(deviations, size_a),
    )


ENCODERS = [
    ("concat", (2, 3), 4),
    ("concat", (3,), 0),
    ("interactions", (2, 2), 4),
    ("bilinear", (3,), 2),
    ("bilinear", (2,), 0),
    ("per_action", (2, 3), 0),
    ("per_action", (3,), 4),
]


@pytest.mark.parametrize(("name", "shape", "action_dim"), ENCODERS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_features_of_rescaled_inputs_are_linear_in_the_old_ones(name, shape, action_dim, data):
    spec = BanditSpec(
        policy="linear_ts",
        context=ContextSpec(shape=shape, dtype="float64"),
        action_dim=action_dim,
        encoder=EncoderSpec(name=name),
    )
    encoder = EncoderRegistry().fixed(spec)
    size_x = int(np.prod(shape))
    old, new = (data.draw(_scalings(size_x, action_dim)) for _ in range(2))
    if data.draw(st.booleans()):
        old = InputScaling.identity(shape, action_dim)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x_NX, a_NA = rng.normal(0.0, 30.0, (20, *shape)), rng.normal(0.0, 30.0, (20, action_dim))
    before = encoder.encode(old.contexts(x_NX), old.actions(a_NA).astype(np.float64))
    after = encoder.encode(new.contexts(x_NX), new.actions(a_NA).astype(np.float64))
    matrix_DD = encoder.features_under(old.change_to(new))
    assert matrix_DD.shape == (encoder.feature_dim, encoder.feature_dim)
    size = float((np.abs(before) @ np.abs(matrix_DD).T).max())
    np.testing.assert_allclose(before @ matrix_DD.T, after, rtol=1e-9, atol=1e-12 * size)


@pytest.mark.parametrize(("name", "shape", "action_dim"), ENCODERS)
def test_the_same_scaling_again_changes_no_feature(name, shape, action_dim):
    spec = BanditSpec(
        policy="linear_ts",
        context=ContextSpec(shape=shape),
        action_dim=action_dim,
        encoder=EncoderSpec(name=name),
    )
    encoder = EncoderRegistry().fixed(spec)
    rng = np.random.default_rng(7)
    scaling = _scaling(rng.normal(size=(9, *shape)), rng.normal(size=(9, action_dim)))
    later = dataclasses.replace(scaling, num_rows=scaling.num_rows + 1)
    found = encoder.features_under(scaling.change_to(later))
    assert np.array_equal(found, np.eye(encoder.feature_dim))
