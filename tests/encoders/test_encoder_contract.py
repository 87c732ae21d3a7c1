"""What holds for every encoder alike, fixed or learned."""

from __future__ import annotations

import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry, FoldingEncoder, SplitEncoder
from bandexa_core.encoders.torch.resnet import ARCHITECTURES


def test_no_built_in_encoder_escapes_this_suite(cased_names):
    deeper = set(ARCHITECTURES) - {"resnet18"}  # the same class with more layers
    assert cased_names | deeper == set(EncoderRegistry().names())


@pytest.fixture
def encoder(case, encoder_of):
    return encoder_of(case)


@pytest.mark.few(12)
def test_one_context_with_many_actions_equals_pair_by_pair(case, encoder):
    (context,), actions = case.contexts(1), case.actions(12)
    pairs = encoder.encode(np.repeat(context[None], 12, axis=0), actions)
    case.assert_close(encoder.encode_batch(context, actions), pairs)


def test_a_row_does_not_depend_on_its_batch(case, encoder):
    contexts, actions = case.contexts(17), case.actions(17)
    together = encoder.encode(contexts, actions)
    for rows in (slice(0, 1), slice(5, 6), slice(3, 11), np.arange(17)[::-1].copy()):
        case.assert_close(encoder.encode(contexts[rows], actions[rows]), together[rows])
    candidates = encoder.encode_batch(contexts[0], actions)
    for rows in (slice(0, 1), slice(16, 17), slice(4, 9)):
        case.assert_close(encoder.encode_batch(contexts[0], actions[rows]), candidates[rows])


def test_features_are_float64_with_a_constant_one_last(case, encoder):
    assert encoder.feature_dim == case.feature_dim
    contexts, actions = case.contexts(5), case.actions(5)
    for z in (encoder.encode(contexts, actions), encoder.encode_batch(contexts[0], actions)):
        assert z.shape == (5, case.feature_dim)
        assert z.dtype == np.float64
        assert np.isfinite(z).all()
        assert (z[:, -1] == 1.0).all()
        assert np.ptp(z[:, :-1]) > 0


def test_no_candidates_give_no_rows(case, encoder):
    z = encoder.encode_batch(case.contexts(1)[0], case.actions(0))
    assert z.shape == (0, case.feature_dim)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("writable", [True, False])
def test_inputs_stay_as_they_are_read_only_ones_too(case, encoder, dtype, writable):
    contexts, actions = case.contexts(4, dtype=dtype), case.actions(4)
    expected = encoder.encode(contexts.copy(), actions.copy())
    before = contexts.tobytes(), actions.tobytes()
    for array in (contexts, actions):
        array.setflags(write=writable)
    assert np.array_equal(encoder.encode(contexts, actions), expected)
    case.assert_close(encoder.encode_batch(contexts[0], actions)[:1], expected[:1])
    assert (contexts.tobytes(), actions.tobytes()) == before


def test_what_is_returned_belongs_to_the_caller(case, encoder):
    contexts, actions = case.contexts(3), case.actions(3)
    for call in (encoder.encode, lambda x, a: encoder.encode_batch(x[0], a)):
        first = call(contexts, actions)
        expected = first.copy()
        first[...] = np.nan
        assert np.array_equal(call(contexts, actions), expected)


def test_bytes_count_as_fractions_of_255(case, encoder):
    contexts, actions = case.contexts(6, dtype="uint8"), case.actions(6)
    case.assert_close(encoder.encode(contexts, actions), encoder.encode(contexts / 255.0, actions))
    case.assert_close(
        encoder.encode_batch(contexts[0], actions),
        encoder.encode_batch(contexts[0] / 255.0, actions),
    )


def test_the_same_input_gives_the_same_bits_wherever_it_lies_in_memory(case, encoder):
    """Requests and stored rows hold their arrays at any offset of a buffer."""
    contexts, actions = case.contexts(1, dtype="float64"), case.actions(1)
    expected = encoder.encode(contexts, actions)
    for offset in (8, 24, 40):
        memory = np.empty(contexts.nbytes + 128, np.uint8)
        start = -memory.ctypes.data % 64 + offset
        moved = memory[start : start + contexts.nbytes].view(np.float64).reshape(contexts.shape)
        moved[...] = contexts
        assert np.array_equal(encoder.encode(moved, actions), expected)


def test_the_action_matters_where_the_encoder_says_so(case, encoder):
    contexts = np.repeat(case.contexts(1), 2, axis=0)
    first, second = encoder.encode(contexts, case.actions(2, seed=5))
    assert encoder.uses_action == ("per" not in case.label)
    matters = encoder.uses_action and case.action_dim > 0
    assert np.allclose(first, second, rtol=case.precision) != matters


def test_the_context_matters(case, encoder):
    actions = np.repeat(case.actions(1), 2, axis=0)
    first, second = encoder.encode(case.contexts(2), actions)
    assert not np.array_equal(first, second)


def test_which_encoders_split_and_which_fold(case, encoder):
    assert isinstance(encoder, SplitEncoder) == (
        case.name
        in (
            "concat",
            "interactions",
            "bilinear",
            "mlp",
            "two_tower",
            "kernel",
            "crosses",
            "resnet18",
        )
    )
    assert isinstance(encoder, FoldingEncoder) == (
        case.name in ("concat", "interactions", "bilinear", "two_tower", "crosses")
    )
