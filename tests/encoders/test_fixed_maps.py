"""The fixed maps against their formulas, written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bandexa_core.encoders.fixed import (
    BilinearEncoder,
    ConcatEncoder,
    InteractionsEncoder,
    PerActionEncoder,
    flat64,
)

X = np.array([[1.0, 2.0], [-3.0, 0.5]], np.float32)
A2 = np.array([[10.0, 20.0], [0.25, -4.0]], np.float32)
NO_FEATURES = np.zeros((2, 0), np.float32)


def test_per_action_is_the_context_and_one():
    encoder = PerActionEncoder((2,), 0)
    assert encoder.encode(X, NO_FEATURES).tolist() == [[1, 2, 1], [-3, 0.5, 1]]
    assert encoder.encode_batch(X[1], NO_FEATURES).tolist() == [[-3, 0.5, 1], [-3, 0.5, 1]]
    assert (encoder.feature_dim, encoder.uses_action) == (3, False)


def test_concat_is_context_action_and_one():
    encoder = ConcatEncoder((2,), 2)
    assert encoder.encode(X, A2).tolist() == [[1, 2, 10, 20, 1], [-3, 0.5, 0.25, -4, 1]]
    assert encoder.encode_batch(X[0], A2).tolist() == [[1, 2, 10, 20, 1], [1, 2, 0.25, -4, 1]]
    assert (encoder.feature_dim, encoder.uses_action) == (5, True)


def test_interactions_add_the_elementwise_product():
    encoder = InteractionsEncoder((2,), 2)
    assert encoder.encode(X, A2).tolist() == [
        [1, 2, 10, 20, 10, 40, 1],
        [-3, 0.5, 0.25, -4, -0.75, -2, 1],
    ]
    assert encoder.encode_batch(X[1], A2).tolist() == [
        [-3, 0.5, 10, 20, -30, 10, 1],
        [-3, 0.5, 0.25, -4, -0.75, -2, 1],
    ]


def test_bilinear_has_every_product():
    """Context first: x_1 a_1, x_1 a_2, x_1 a_3, x_2 a_1, ..."""
    encoder = BilinearEncoder((2,), 3)
    actions = np.array([[5.0, 7.0, -1.0]], np.float32)
    expected = [[1, 2, 5, 7, -1, 5, 7, -1, 10, 14, -2, 1]]
    assert encoder.encode(X[:1], actions).tolist() == expected
    assert encoder.encode_batch(X[0], actions).tolist() == expected
    assert encoder.feature_dim == 12


def test_bilinear_refuses_more_features_than_a_posterior_should_have():
    assert BilinearEncoder((63,), 62).feature_dim == 63 + 62 + 63 * 62 + 1
    with pytest.raises(ValueError, match=r"encoder\.name: .*4225"):
        BilinearEncoder((64,), 64)


def test_folding_by_hand():
    """w = [1 2 | 3 4 | 5 6 | 7], x = [10, 100]: q = [3 + 50, 4 + 600], c = 10 + 200 + 7."""
    encoder = InteractionsEncoder((2,), 2)
    weights = np.arange(1.0, 8.0)[None]
    queries, offsets = encoder.fold(np.array([10.0, 100.0]), weights)
    assert queries.tolist() == [[53, 604]]
    assert offsets.tolist() == [217]
    concat = ConcatEncoder((2,), 2)
    queries, offsets = concat.fold(np.array([10.0, 100.0]), np.arange(1.0, 6.0)[None])
    assert queries.tolist() == [[3, 4]]
    assert offsets.tolist() == [215]


def test_an_image_is_flattened_row_by_row():
    encoder = PerActionEncoder((2, 2), 0)
    images = np.array([[[0, 51], [102, 255]]], np.uint8)
    assert encoder.encode(images, NO_FEATURES[:1]).tolist() == [[0, 0.2, 0.4, 1, 1]]
    assert ConcatEncoder((2, 2), 0).context_part(images[0]).tolist() == [0, 0.2, 0.4, 1]


def test_features_keep_the_precision_of_the_context():
    context = np.array([[1 / 3]])
    assert PerActionEncoder((1,), 0).encode(context, NO_FEATURES[:1])[0, 0] == 1 / 3
    assert flat64(context.astype(np.float32), 1)[0, 0] == float(np.float32(1 / 3))


def test_interactions_need_equal_sizes():
    with pytest.raises(ValueError, match=r"encoder: .*\(3\).*\(4\)"):
        InteractionsEncoder((2, 2), 3)
