"""The numpy serving of small networks against the torch modules it is a copy of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bandexa_core.encoders.torch.builtin import serving
from bandexa_core.encoders.torch.dense import numpy_target, tanh32, tanh_by_exp
from bandexa_core.encoders.torch.mlp import MODERATE, MLPEncoder, MLPServing
from bandexa_core.encoders.torch.module import SplitModuleEncoder
from bandexa_core.encoders.torch.two_tower import TwoTowerEncoder, TwoTowerServing


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu"])
@pytest.mark.parametrize("action_dim", [3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_numpy_layers_give_what_the_torch_module_gives(activation, action_dim, dtype):
    torch.manual_seed(5)
    module = MLPEncoder((4,), action_dim, feature_dim=6, hidden=(9, 8), activation=activation)
    rng = np.random.default_rng(0)
    contexts = (50 * np.abs(rng.normal(size=(7, 4)))).astype(dtype)
    actions = rng.normal(size=(7, action_dim)).astype(np.float32)
    fast, plain = serving(module), SplitModuleEncoder(module)
    assert isinstance(fast, MLPServing)
    pairs = [
        (fast.encode(contexts, actions), plain.encode(contexts, actions)),
        (fast.encode_batch(contexts[0], actions), plain.encode_batch(contexts[0], actions)),
        (fast.context_part(contexts[0]), plain.context_part(contexts[0])),
        (fast.action_part(actions), plain.action_part(actions)),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", ["X86_V4", "AVX512_SKX", "FMA3__AVX2", "NEON", ""])
def test_tanh_of_every_processor_is_tanh_in_place(target):
    x = np.linspace(-120.0, 120.0, 10_001, dtype=np.float32)
    expected = np.tanh(x.astype(np.float64))
    found = tanh32(target)(x)
    assert found is x
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=2e-7)
    assert (tanh32(target) is tanh_by_exp) == (target in ("FMA3__AVX2", "NEON", ""))


def test_numpy_reports_the_target_of_its_tanh():
    assert numpy_target()


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu"])
@pytest.mark.parametrize("action_dim", [3, 4])
@pytest.mark.parametrize("largest", [1.0, MODERATE])
def test_columns_for_drawing_are_the_features_to_float32(activation, action_dim, largest):
    torch.manual_seed(5)
    module = MLPEncoder((4,), action_dim, feature_dim=6, hidden=(9, 8), activation=activation)
    fast = serving(module)
    assert isinstance(fast, MLPServing)
    rng = np.random.default_rng(0)
    contexts = largest * rng.uniform(-1.0, 1.0, size=(7, 4)).astype(np.float32)
    actions = rng.normal(size=(5, action_dim)).astype(np.float32)
    columns = fast.combine_many(contexts, fast.action_part(actions))
    for z_DK, context in zip(columns, contexts, strict=True):
        z_KD = fast.encode_batch(context, actions)
        np.testing.assert_allclose(z_DK.T, z_KD, rtol=1e-6, atol=1e-6 * np.abs(z_KD).max())


def test_columns_of_large_inputs_are_float64():
    torch.manual_seed(5)
    fast = serving(MLPEncoder((4,), 4, feature_dim=6, hidden=(9, 8), activation="relu"))
    assert isinstance(fast, MLPServing)
    rng = np.random.default_rng(0)
    contexts, actions = rng.normal(size=(3, 4)), rng.normal(size=(5, 4)).astype(np.float32)
    contexts[1] *= 1e5
    for factor in (np.float32(1.0), np.float32(1e4)):
        z_BDK = fast.combine_many(contexts, fast.action_part(factor * actions))
        z_KD = fast.encode_batch(contexts[1], factor * actions)
        np.testing.assert_allclose(z_BDK[1].T, z_KD, rtol=1e-12, atol=1e-12 * np.abs(z_KD).max())


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_columns_that_leave_float32_are_float64(activation):
    torch.manual_seed(5)
    module = MLPEncoder((4,), 4, feature_dim=6, hidden=(9, 8), activation=activation)
    with torch.no_grad():
        for parameter in module.layers.parameters():
            parameter.mul_(1e20)
    fast = serving(module)
    assert isinstance(fast, MLPServing)
    rng = np.random.default_rng(0)
    contexts, actions = rng.normal(size=(3, 4)), rng.normal(size=(5, 4)).astype(np.float32)
    columns = fast.combine_many(contexts, fast.action_part(actions))
    for z_DK, context in zip(columns, contexts, strict=True):
        z_KD = fast.encode_batch(context, actions)
        assert np.abs(z_KD).max() > np.finfo(np.float32).max
        np.testing.assert_allclose(z_DK.T, z_KD, rtol=1e-12)


def test_a_silu_of_huge_numbers_is_finite():
    module = MLPEncoder((1,), 1, feature_dim=2, hidden=(2,), activation="silu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(-1e4)
    z = serving(module).encode(np.array([[1e4]]), np.ones((1, 1), np.float32))
    assert np.isfinite(z).all()


def test_a_subclass_is_served_by_its_own_forward():
    class Doubled(MLPEncoder):
        def combine(self, context_parts, action_parts):
            return 2 * super().combine(context_parts, action_parts)

    torch.manual_seed(0)
    module = Doubled((2,), 2, feature_dim=3, hidden=(4,))
    x, a = np.ones((1, 2), np.float32), np.ones((1, 2), np.float32)
    expected = module(torch.from_numpy(x), torch.from_numpy(a)).detach().numpy()
    np.testing.assert_allclose(serving(module).encode(x, a)[:, :-1], expected, rtol=1e-5)


@pytest.mark.parametrize("hidden", [(), (9,), (9, 8)])
@pytest.mark.parametrize("activation", ["tanh", "relu", "silu"])
def test_two_towers_in_numpy_give_what_the_torch_module_gives(activation, hidden):
    torch.manual_seed(6)
    module = TwoTowerEncoder((4,), 3, tower_dim=5, hidden=hidden, activation=activation)
    rng = np.random.default_rng(0)
    contexts, actions = rng.normal(size=(7, 4)), rng.normal(size=(7, 3)).astype(np.float32)
    fast, plain = serving(module), SplitModuleEncoder(module)
    assert isinstance(fast, TwoTowerServing)
    parts = fast.action_part(actions)
    pairs = [
        (fast.encode(contexts, actions), plain.encode(contexts, actions)),
        (fast.encode_batch(contexts[0], actions), plain.encode_batch(contexts[0], actions)),
        (fast.context_part(contexts[0]), plain.context_part(contexts[0])),
        (parts, plain.action_part(actions)),
        (
            fast.combine(fast.context_part(contexts[0]), parts),
            fast.encode_batch(contexts[0], actions),
        ),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
