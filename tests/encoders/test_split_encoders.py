"""Encoders that split into a context and an action part, and those that fold weights."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bandexa_core.encoders.fixed import InteractionsEncoder

SEEDS = st.integers(0, 2**32 - 1)
NUMBERS = st.floats(-1e3, 1e3, width=32)


def test_combined_parts_equal_encoding_at_once(split_case, encoder_of):
    encoder = encoder_of(split_case)
    for dtype in ("float32", "float64", "uint8"):
        (context,), actions = split_case.contexts(1, dtype=dtype), split_case.actions(9)
        combined = encoder.combine(encoder.context_part(context), encoder.action_part(actions))
        split_case.assert_close(combined, encoder.encode_batch(context, actions))
        assert combined.dtype == np.float64


def test_an_action_part_depends_on_its_action_alone(split_case, encoder_of):
    encoder, actions = encoder_of(split_case), split_case.actions(9)
    parts = encoder.action_part(actions)
    assert parts.dtype == np.float64
    for rows in (slice(4, 5), np.array([8, 0, 3])):
        split_case.assert_close(encoder.action_part(actions[rows]), parts[rows])
    assert encoder.action_part(actions[:0]).shape == (0, parts.shape[1])


def test_parts_stay_as_they_are(split_case, encoder_of):
    """They are cached: nothing that uses them may write them, and they may be read-only."""
    encoder, actions = encoder_of(split_case), split_case.actions(4)
    (context,) = split_case.contexts(1)
    context_part, parts = encoder.context_part(context), encoder.action_part(actions)
    before = context_part.copy(), parts.copy()
    expected = encoder.combine(context_part, parts)
    assert np.array_equal(context_part, before[0])
    assert np.array_equal(parts, before[1])
    parts.setflags(write=False)
    assert np.array_equal(encoder.combine(context_part, parts), expected)


def test_a_part_does_not_alias_the_action_features(split_case, encoder_of):
    encoder, actions = encoder_of(split_case), split_case.actions(4)
    parts = encoder.action_part(actions)
    before = parts.copy()
    actions[...] = 7.0
    assert np.array_equal(parts, before)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, num=st.integers(1, 6), draws=st.integers(1, 4), scale=st.floats(1e-3, 1e3))
def test_folded_weights_score_as_the_features_do(folding_case, encoder_of, seed, num, draws, scale):
    encoder, rng = encoder_of(folding_case), np.random.default_rng(seed)
    (context,), actions = folding_case.contexts(1, seed), folding_case.actions(num, seed + 1)
    weights = scale * rng.normal(size=(draws, encoder.feature_dim))
    before = weights.copy()
    parts = encoder.action_part(actions)
    queries, offsets = encoder.fold(encoder.context_part(context), weights)
    assert queries.shape == (draws, parts.shape[1])
    assert offsets.shape == (draws,)
    z = encoder.encode_batch(context, actions)
    bound = 1e-12 * float((np.abs(weights) @ np.abs(z).T).max())
    np.testing.assert_allclose(queries @ parts.T + offsets[:, None], weights @ z.T, atol=bound)
    assert np.array_equal(weights, before)


@settings(max_examples=60, deadline=None)
@given(
    context=hnp.arrays(np.float32, (2, 3), elements=NUMBERS),
    actions=hnp.arrays(np.float32, (3, 6), elements=NUMBERS),
    weights=hnp.arrays(np.float64, (2, 19), elements=NUMBERS),
)
def test_interactions_fold_for_any_numbers(context, actions, weights):
    """Against the sum written out: w_x . x + w_a . a + sum_i w_i x_i a_i + w_1."""
    encoder = InteractionsEncoder((2, 3), 6)
    x, a = context.reshape(-1).astype(np.float64), actions.astype(np.float64)
    expected = np.array(
        [
            [w[:6] @ x + w[6:12] @ row + np.sum(w[12:18] * x * row) + w[18] for row in a]
            for w in weights
        ]
    )
    queries, offsets = encoder.fold(encoder.context_part(context), weights)
    found = queries @ encoder.action_part(actions).T + offsets[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-3)
    by_features = weights @ encoder.encode_batch(context, actions).T
    np.testing.assert_allclose(by_features, expected, rtol=1e-9, atol=1e-3)
