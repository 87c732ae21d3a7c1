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
from bandexa_core.features.robust import LEAST_DEVIATION, NEVER, Scale, scale_of
from bandexa_core.features.scaling import OLD_BOUND, InputScaling
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec

Array64 = NDArray[np.float64]


def _scale(rows_NF: NDArray[Any]) -> Scale:
    found = scale_of(rows_NF)
    assert found is not None
    return found


def _scaling(contexts: NDArray[Any], actions: NDArray[Any]) -> InputScaling:
    """Return the scaling of some inputs, (N, *X) and (K, A)."""
    start = InputScaling.identity(contexts.shape[1:], actions.shape[1])
    flat = contexts.reshape(len(contexts), -1)
    return start.updated(len(contexts), _scale(flat), _scale(actions))


def _fixed(mean: Array64, std: Array64) -> Scale:
    """Return a scale as that of a feature that varies."""
    size = len(mean)
    return Scale(mean, std, np.full(size, 10.0), np.full(size, 30.0), np.zeros(size))


def _unbounded(mean: Array64, std: Array64) -> Scale:
    size = len(mean)
    return Scale(mean, std, np.full(size, NEVER), np.full(size, NEVER), np.zeros(size))


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
    actions = rng.uniform(0.0, 1e3, (50, 4)).astype(np.float32)
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
    assert scaling.x.std[0] == 1.0
    np.testing.assert_allclose(scaling.contexts(contexts), 0.0, atol=1e-15 * abs(value))
    changed = contexts[:1].astype(np.float64) + 0.75
    assert scaling.contexts(changed)[0, 0] == pytest.approx(0.75)


def test_a_constant_feature_that_goes_live_grows_with_the_logarithm_up_to_3():
    """Nothing is known of its spread: it counts at once, and drowns nothing."""
    scaling = _scaling(np.full((300, 1), 7.0), np.zeros((1, 0)))
    raw = np.array([[7.5], [8.0], [6.0], [7.0 + np.e], [7.0 - 30.0], [1e6]])
    expected = [0.5, 1.0, -1.0, 2.0, -3.0, 3.0]
    np.testing.assert_allclose(scaling.contexts(raw)[:, 0], expected, rtol=1e-12)


def test_jitter_of_the_last_digits_is_no_deviation():
    contexts = np.float32(0.3) * (1 + np.float32(1e-7) * np.arange(3, dtype=np.float32))[:, None]
    assert len(np.unique(contexts)) > 1
    assert _scaling(contexts, np.zeros((1, 0))).x.std[0] == 1.0


@pytest.mark.parametrize("value", [1e9, -1e12, 1e20])
def test_what_rounding_leaves_of_a_huge_constant_stays_small(value):
    """Else a millionth of a feature that never says anything would drown the others."""
    rng = np.random.default_rng(3)
    contexts = value * (1.0 + 1e-7 * rng.normal(size=(100, 1)))
    scaling = _scaling(contexts, np.zeros((1, 0)))
    assert scaling.x.std[0] == pytest.approx(LEAST_DEVIATION * abs(value), rel=1e-5)
    assert np.abs(scaling.contexts(contexts)).max() < 1.0


def test_bytes_stay_as_they_are_while_actions_are_scaled():
    start = InputScaling.identity((3,), 2, scales_contexts=False)
    x, a = _fixed(np.full(3, 0.5), np.full(3, 0.1)), _fixed(np.ones(2), np.full(2, 4.0))
    scaling = start.updated(9, x, a)
    images = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert scaling.contexts(images) is images
    assert np.array_equal(scaling.actions(np.full((1, 2), 5.0)), [[1.0, 1.0]])
    change = start.change_to(scaling)
    assert np.array_equal(change.x_factor, np.ones(3))
    assert np.array_equal(change.x_offset, np.zeros(3))


def test_scaled_inputs_are_bounded_and_what_is_far_away_counts_as_missing():
    scaling = InputScaling(
        9, _fixed(np.full(1, 100.0), np.full(1, 2.0)), _fixed(np.zeros(2), np.array([1e-160, 1.0]))
    )
    raw = np.array([[100.0], [119.0], [120.0], [121.0], [160.0], [161.0], [-999.0], [1e300]])
    expected = [0.0, 9.5, 10.0, 10.0, 10.0, 0.0, 0.0, 0.0]
    assert np.array_equal(scaling.contexts(raw)[:, 0], expected)
    assert np.array_equal(scaling.contexts(200.0 - raw)[:, 0], np.negative(expected))
    assert np.array_equal(scaling.actions(np.array([[1e300, 5.0]])), [[0.0, 5.0]])


def test_moments_that_are_unknown_leave_what_there_is():
    rng = np.random.default_rng(4)
    first = _scaling(rng.normal(size=(9, 3)), rng.normal(size=(9, 2)))
    second = first.updated(18, None, None)
    assert second.num_rows == 18
    assert np.array_equal(second.x.mean, first.x.mean)
    assert np.array_equal(second.a.std, first.a.std)


def test_moments_of_scaled_inputs_tell_the_scale_of_raw_ones():
    rng = np.random.default_rng(5)
    scale = _scale(rng.normal(3.0, 7.0, (50, 3)))
    later = rng.normal(-2.0, 0.3, (50, 3))
    scaled = (later - scale.mean) / scale.std
    found = scale.of_moments(scaled.mean(axis=0), scaled.std(axis=0))
    np.testing.assert_allclose(found.mean, later.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, later.std(axis=0), rtol=1e-12)
    assert np.array_equal(found.bound, np.full(3, 10.0))


@pytest.mark.parametrize("newer", [2.5, 0.3, None])
def test_only_features_that_left_their_scale_are_renewed(newer):
    rng = np.random.default_rng(8)
    contexts = rng.normal(size=(400, 3))
    first = _scaling(contexts, np.zeros((1, 0)))
    later = contexts * [1.0, 1.5, 1.0] + [0.5, 0.0, 0.0]
    later[:, 2] = contexts[:, 2] * newer if newer else contexts[:, 2] + 1.1
    second = first.renewed(_scale(later), None)
    assert second.num_rows == first.num_rows
    assert np.array_equal(second.x.std[:2], first.x.std[:2])
    assert np.array_equal(second.x.mean[:2], first.x.mean[:2])
    assert second.x.std[2] == _scale(later).std[2]
    assert second.x.mean[2] == _scale(later).mean[2]


# -- snapshots ------------------------------------------------------------------------------------


def test_the_constants_go_through_tensors_bit_for_bit():
    rng = np.random.default_rng(6)
    scaling = _scaling(rng.normal(size=(40, 2, 2)), rng.normal(size=(40, 3)))
    loaded = InputScaling.identity((2, 2), 3).loaded(scaling.tensors())
    assert loaded.num_rows == 40
    assert loaded.scales_contexts
    assert loaded.tensors().keys() == scaling.tensors().keys()
    for name, tensor in scaling.tensors().items():
        assert np.array_equal(loaded.tensors()[name], tensor)
    bytes_only = InputScaling.identity((2, 2), 3, scales_contexts=False)
    assert not bytes_only.loaded(scaling.tensors()).scales_contexts


def test_the_constants_of_a_release_before_0_5_map_as_they_did():
    """(x - mean) / deviation, clipped at 1e20, whatever the deviation came from."""
    old = {
        "num_rows": np.array(64), "x_mean": np.array([1.0, 0.0]), "x_std": np.array([2.0, 1e-30]),
        "a_mean": np.array([5.0]), "a_std": np.array([0.5]),
    }  # fmt: skip
    loaded = InputScaling.identity((2,), 1).loaded(old)
    assert loaded.is_old
    assert not _scaling(np.ones((3, 2)), np.ones((3, 1))).is_old
    found = loaded.contexts(np.array([[1e6, 1e-31], [-3.0, -1.0]]))
    assert np.array_equal(found, [[(1e6 - 1.0) / 2.0, 1e-31 / 1e-30], [-2.0, -OLD_BOUND]])
    assert np.array_equal(loaded.actions(np.array([[1e9]])), [[(1e9 - 5.0) / 0.5]])
    again = InputScaling.identity((2,), 1).loaded(loaded.tensors())
    assert again.is_old


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

    x = st.builds(_unbounded, vectors(means, size_x), vectors(deviations, size_x))
    a = st.builds(_unbounded, vectors(means, size_a), vectors(deviations, size_a))
    return st.builds(InputScaling, st.integers(1, 1000), x, a)


ENCODERS = [
    ("concat", (2, 3), 4),
    ("concat", (3,), 0),
    ("interactions", (2, 2), 4),
    ("bilinear", (3,), 2),
    ("bilinear", (2,), 0),
    ("per_action", (2, 3), 0),
    ("per_action", (3,), 4),
]


@pytest.mark.few(3)
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
