"""Learned encoders: their formulas, and that what serves is a frozen copy in eval mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from scipy.special import expit
from torch import Tensor, nn

from bandexa_core.encoders import EncoderModule, EncoderRegistry, SplitModule
from bandexa_core.encoders.torch.builtin import serving
from bandexa_core.encoders.torch.conv import ConvEncoder
from bandexa_core.encoders.torch.mlp import MLPEncoder
from bandexa_core.encoders.torch.module import load_module_tensors, module_tensors
from bandexa_core.encoders.torch.two_tower import TwoTowerEncoder


class NoisyEncoder(EncoderModule):
    """A user's encoder with dropout, batch normalisation and an input written in place."""

    def __init__(self, context_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__()
        self.output_dim = 6
        self.linear = nn.Linear(context_shape[0] + action_dim, 6)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.5)

    def forward(self, contexts: Tensor, actions: Tensor) -> Tensor:
        features: Tensor = self.norm(self.linear(torch.cat([contexts, actions], dim=1)))
        dropped: Tensor = self.dropout(features)
        return dropped


class InPlaceEncoder(SplitModule):
    """A user's split encoder that writes into every tensor it is given."""

    def __init__(self, context_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__()
        self.output_dim = action_dim

    def context_part(self, contexts: Tensor) -> Tensor:
        return contexts.mul_(2.0)

    def action_part(self, actions: Tensor) -> Tensor:
        return actions.add_(1.0)

    def combine(self, context_parts: Tensor, action_parts: Tensor) -> Tensor:
        return action_parts.add_(context_parts)


def _numbers(module: EncoderModule) -> dict[str, np.ndarray]:
    return {name: t.astype(np.float64) for name, t in module_tensors(module).items()}


def _relu(values):
    return np.maximum(values, 0.0)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": np.tanh,
    "relu": _relu,
    "silu": lambda h: h * expit(h),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("size_a", "film"), [(3, True), (3, False), (4, True)])
def test_the_mlp_sees_products_of_context_and_action(activation, size_a, film):
    """Elementwise ones where the sizes agree; otherwise the action scales the context's share."""
    torch.manual_seed(0)
    module = MLPEncoder(
        (2, 2), size_a, feature_dim=5, hidden=(6, 4), activation=activation, film=film
    )
    w, act, rng = _numbers(module), ACTIVATIONS[activation], np.random.default_rng(1)
    x, a = rng.normal(size=(3, 2, 2)), rng.normal(size=(3, size_a)).astype(np.float32)
    flat = x.reshape(3, 4)
    w_x, w_a, w_xa = np.split(w["first.weight"].T, [4, 4 + size_a])
    h = flat @ w_x + w["first.bias"]
    if size_a == 4:
        h += (flat * a) @ w_xa
    elif film:
        h *= 1.0 + a @ w["film.weight"].T
    h = act(h + a @ w_a)
    h = act(h @ w["layers.1.weight"].T + w["layers.1.bias"])
    h = act(h @ w["layers.3.weight"].T + w["layers.3.bias"])
    np.testing.assert_allclose(serving(module).encode(x, a)[:, :-1], h, rtol=1e-12, atol=1e-14)


def test_the_mlp_with_a_posterior_per_action_sees_the_context_alone():
    torch.manual_seed(0)
    module = MLPEncoder((4,), 4, feature_dim=5, hidden=(6,), heads="per_action")
    w, x = _numbers(module), np.random.default_rng(1).normal(size=(3, 4))
    h = np.tanh(x @ w["first.weight"].T + w["first.bias"])
    h = np.tanh(h @ w["layers.1.weight"].T + w["layers.1.bias"])
    z = serving(module).encode(x, np.ones((3, 4), np.float32))
    np.testing.assert_allclose(z[:, :-1], h, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (6,)])
def test_the_two_towers_meet_in_their_product(activation, hidden):
    torch.manual_seed(0)
    module = TwoTowerEncoder((4,), 3, tower_dim=5, hidden=hidden, activation=activation)
    w, act, rng = _numbers(module), ACTIVATIONS[activation], np.random.default_rng(1)
    x, a = rng.normal(size=(3, 4)), rng.normal(size=(3, 3)).astype(np.float32)

    def tower(name, h):
        for layer in range(0, 2 * len(hidden) + 1, 2):
            h = act(h @ w[f"{name}.{layer}.weight"].T + w[f"{name}.{layer}.bias"])
        return h

    u, v = tower("context_tower", x), tower("action_tower", a)
    expected = np.concatenate([u, v, u * v, np.ones((3, 1))], axis=1)
    np.testing.assert_allclose(serving(module).encode(x, a), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("heads", ["per_action", "fused"])
def test_the_conv_net_is_convolution_relu_pooling_and_dense_layers(heads):
    torch.manual_seed(2)
    module = ConvEncoder((5, 4), 3, feature_dim=6, channels=(2,), hidden=7, heads=heads)
    w, rng = _numbers(module), np.random.default_rng(1)
    image, action = rng.normal(size=(5, 4)), rng.normal(size=3).astype(np.float32)
    pooled = []
    for kernel, bias in zip(w["image.0.weight"][:, 0], w["image.0.bias"], strict=True):
        map_HW = _relu(correlate2d(image, kernel, mode="same") + bias)
        pooled.append(map_HW[:4].reshape(2, 2, 2, 2).max(axis=(1, 3)))
    h = _relu(w["image.4.weight"] @ np.array(pooled).reshape(-1) + w["image.4.bias"])
    if heads == "fused":
        path = _relu(w["action.0.weight"] @ action + w["action.0.bias"])
        h = np.concatenate([h, path])
    expected = _relu(w["fuse.0.weight"] @ h + w["fuse.0.bias"])
    found = serving(module).encode(image[None], action[None])[0, :-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert expected.max() > 0


def test_changing_the_module_afterwards_changes_nothing_that_serves(learned_case):
    module = EncoderRegistry().module(learned_case.spec(), 0)
    encoder = serving(module)
    contexts, actions = learned_case.contexts(4), learned_case.actions(4)
    before = encoder.encode(contexts, actions)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert np.array_equal(encoder.encode(contexts, actions), before)
    assert not np.array_equal(serving(module).encode(contexts, actions), before)


def test_serving_leaves_the_module_to_its_trainer():
    """Its precision, mode and gradients are the trainer's; the copy is the encoder's."""
    module = NoisyEncoder((3,), 2).train()
    encoder = serving(module)
    encoder.encode(np.ones((4, 3), np.float32), np.ones((4, 2), np.float32))
    assert module.training
    assert all(p.dtype == torch.float32 and p.requires_grad for p in module.parameters())
    assert module.norm.num_batches_tracked == 0


def test_dropout_and_batch_statistics_are_off_when_serving():
    torch.manual_seed(0)
    module = NoisyEncoder((3,), 2).train()
    encoder, rng = serving(module), np.random.default_rng(0)
    x, a = rng.normal(size=(8, 3)).astype(np.float32), rng.normal(size=(8, 2)).astype(np.float32)
    z = encoder.encode(x, a)
    assert np.array_equal(encoder.encode(x, a), z)
    np.testing.assert_allclose(encoder.encode(x[2:3], a[2:3]), z[2:3], rtol=1e-12)
    assert (z != 0).all()


def test_a_module_that_writes_to_its_input_changes_no_read_only_array():
    encoder = serving(InPlaceEncoder((2,), 2))
    context, actions = np.array([1.0, 2.0]), np.array([[3.0, 4.0]], np.float32)
    for array in (context, actions):
        array.setflags(write=False)
    for _ in range(2):
        assert encoder.encode_batch(context, actions).tolist() == [[6, 9, 1]]
    assert context.tolist() == [1, 2]


def test_features_are_computed_in_float64_unless_the_module_says_otherwise():
    """1 + 1e-9 is 1 in float32."""
    torch.manual_seed(0)
    module = MLPEncoder((1,), 1, feature_dim=4, hidden=(4,))
    x, a = np.array([[1.0], [1.0 + 1e-9]]), np.ones((2, 1), np.float32)
    first, second = serving(module).encode(x, a)
    assert not np.array_equal(first, second)
    module.serving_dtype = torch.float32
    first, second = serving(module).encode(x, a)
    assert np.array_equal(first, second)


def test_parameters_and_buffers_travel_as_named_arrays():
    torch.manual_seed(0)
    module, other = NoisyEncoder((3,), 2), NoisyEncoder((3,), 2)
    module.train()(torch.ones(4, 3) * torch.arange(4.0)[:, None], torch.ones(4, 2))
    tensors = module_tensors(module)
    assert tensors["norm.num_batches_tracked"] == 1
    load_module_tensors(other, tensors)
    found = module_tensors(other)
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    tensors["linear.weight"][...] = 7.0
    assert not np.array_equal(module_tensors(module)["linear.weight"], tensors["linear.weight"])
    assert not np.array_equal(module_tensors(other)["linear.weight"], tensors["linear.weight"])


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_tensors_that_do_not_fit_the_module_are_refused(change):
    module = MLPEncoder((2,), 2, feature_dim=3, hidden=(4,))
    tensors = module_tensors(module)
    if change == "missing":
        del tensors["layers.1.bias"]
    elif change == "unknown":
        tensors["layers.9.bias"] = np.zeros(3, np.float32)
    else:
        tensors["layers.1.bias"] = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"(?s)encoder: .*layers\.[19]\.bias"):
        load_module_tensors(module, tensors)
