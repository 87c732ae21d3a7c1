"""Encoders by name: built-in ones, an operator's own, seeds and refusals that name the field."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bandexa_core.encoders import EncoderModule, EncoderRegistry
from bandexa_core.encoders.torch.builtin import serving
from bandexa_core.encoders.torch.module import module_tensors
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec

OWN_MODULE = '''
"""An operator's own encoder."""
from torch import Tensor, nn
from bandexa_core.encoders import EncoderModule

class Squares(EncoderModule):
    uses_action = False

    def __init__(self, context_shape, action_dim, *, width=2):
        super().__init__()
        if width > 8:
            raise ValueError("encoder.params.width: at most 8")
        self.output_dim = width
        self.linear = nn.Linear(context_shape[0], width)

    def forward(self, contexts, actions):
        return self.linear(contexts) ** 2

not_a_class = Squares
class Unrelated:
    pass
'''


class Plain(EncoderModule):
    def __init__(self, context_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__()
        self.output_dim = 3
        self.linear = nn.Linear(context_shape[0] + action_dim, 3)

    def forward(self, contexts: Tensor, actions: Tensor) -> Tensor:
        features: Tensor = self.linear(torch.cat([contexts, actions], dim=1))
        return features


def _spec(name: str, shape=(4,), action_dim: int = 3, **params: Any) -> BanditSpec:
    return BanditSpec(
        policy="neural_linear_ts",
        context=ContextSpec(shape=shape),
        action_dim=action_dim,
        encoder=EncoderSpec(name=name, params=params),
    )


def test_the_same_seed_gives_the_same_initial_encoder_another_seed_another(learned_case):
    registry, spec = EncoderRegistry(), learned_case.spec()
    first, again, other = (module_tensors(registry.module(spec, seed)) for seed in (5, 5, 6))
    assert first.keys() == again.keys() == other.keys()
    for name, tensor in first.items():
        assert np.array_equal(again[name], tensor), name
        assert not np.array_equal(other[name], tensor), name


def test_the_initial_encoder_neither_uses_nor_moves_the_global_generator():
    registry, spec = EncoderRegistry(), _spec("mlp")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = module_tensors(registry.module(spec, 5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = module_tensors(registry.module(spec, 5))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_names_tell_fixed_maps_from_learned_encoders():
    registry = EncoderRegistry({"own": f"{__name__}:Plain"})
    names = registry.names()
    assert names == sorted(names)
    learned = {name for name in names if registry.is_learned(name)}
    assert {"mlp", "two_tower", "conv", "own"} <= learned
    assert {"concat", "interactions", "bilinear", "per_action"} <= set(names) - learned
    assert not registry.is_learned("no such encoder")


def test_an_operators_class_serves_under_its_name(tmp_path, monkeypatch):
    (tmp_path / "operators_own_encoders.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    registry = EncoderRegistry({"squares": "operators_own_encoders:Squares"})
    spec = _spec("squares", action_dim=0, width=5)
    module = registry.module(spec, 0)
    encoder = serving(module)
    assert (encoder.feature_dim, encoder.uses_action) == (6, False)
    weights = {name: t.astype(np.float64) for name, t in module_tensors(module).items()}
    x = np.arange(4.0)
    expected = (weights["linear.weight"] @ x + weights["linear.bias"]) ** 2
    z = encoder.encode_batch(x, np.zeros((2, 0), np.float32))
    np.testing.assert_allclose(z[:, :-1], [expected, expected], rtol=1e-12)
    with pytest.raises(ValueError, match=r"encoder\.params: .*depth"):
        registry.module(_spec("squares", depth=3), 0)
    with pytest.raises(ValueError, match=r"encoder\.params\.width: at most 8"):
        registry.module(_spec("squares", width=9), 0)


@pytest.mark.parametrize(
    "path",
    [
        "no.such.module:Encoder",
        f"{__name__}:NoSuchClass",
        f"{__name__}:_spec",
        f"{__name__}:OWN_MODULE",
        "torch.nn:Linear",
        "bandexa_core.encoders.fixed:ConcatEncoder",
        "bandexa_core.encoders.torch.mlp",
        ".mlp:MLPEncoder",
        ":MLPEncoder",
        "",
    ],
)
def test_what_is_no_encoder_class_cannot_be_registered(path):
    with pytest.raises(ValueError, match=r"encoders\.mine: "):
        EncoderRegistry({"mine": path})


@pytest.mark.parametrize("name", ["concat", "mlp", "conv"])
def test_a_built_in_name_cannot_be_taken(name):
    with pytest.raises(ValueError, match=rf"encoders\.{name}: .*built-in"):
        EncoderRegistry({name: f"{__name__}:Plain"})


def test_an_unknown_name_is_refused_with_the_known_ones():
    for build in (
        lambda: EncoderRegistry().module(_spec("resnet99"), 0),
        lambda: EncoderRegistry().fixed(_spec("resnet99")),
    ):
        with pytest.raises(ValueError, match=r"encoder\.name: .*concat, .*two_tower"):
            build()


def test_a_fixed_map_takes_no_parameters():
    with pytest.raises(ValueError, match=r"encoder\.params: .*concat"):
        EncoderRegistry().fixed(_spec("concat", width=3))


SIZES = [0, -1, 8193, 1.5, True, None, "64"]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        *(("mlp", "feature_dim", value) for value in [*SIZES, [64]]),
        *(("mlp", "hidden", [value]) for value in SIZES),
        *(("mlp", "hidden", value) for value in [[], [8, 0], 64, 6.5, True, None, "64", {}]),
        *(("mlp", "heads", value) for value in ["fused", "", None, ["shared"], 1]),
        *(("mlp", "activation", value) for value in ["", "gelu", None]),
        *(("two_tower", "tower_dim", value) for value in [*SIZES, [32]]),
        *(("two_tower", "hidden", value) for value in [[0], [8, 1.5], 64, None, "64", {}]),
        *(("two_tower", "activation", value) for value in ["", "gelu", None]),
    ],
)
def test_a_bad_parameter_is_named(name, field, value):
    with pytest.raises(ValueError, match=rf"^encoder\.params\.{field}: "):
        EncoderRegistry().module(_spec(name, **{field: value}), 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("feature_dim", value) for value in SIZES),
        *(("hidden", value) for value in [*SIZES, [128]]),
        *(("channels", value) for value in [[], [16, 0], 16, None, "16"]),
        ("channels", [4, 4, 4, 4]),
        *(("heads", value) for value in ["shared", None, ["fused"]]),
    ],
)
def test_a_bad_conv_parameter_is_named(field, value):
    with pytest.raises(ValueError, match=rf"^encoder\.params\.{field}: "):
        EncoderRegistry().module(_spec("conv", shape=(8, 8), **{field: value}), 0)


def test_an_encoder_too_large_to_build_is_refused_before_it_takes_memory():
    for name, hidden in (("mlp", [8192] * 64), ("mlp", [8] * 65), ("two_tower", [8192] * 3)):
        with pytest.raises(ValueError, match=r"^encoder\.params.*at most"):
            EncoderRegistry().module(_spec(name, hidden=hidden), 0)


@pytest.mark.parametrize("name", ["mlp", "two_tower", "conv"])
def test_an_unknown_parameter_is_named(name):
    shape = (8, 8) if name == "conv" else (4,)
    for params in ({"depth": 3}, {"context_shape": [4]}, {"action_dim": 2}):
        own = EncoderSpec(name=name, params=dict(params))
        spec = dataclasses.replace(_spec(name, shape), encoder=own)
        with pytest.raises(ValueError, match=rf"^encoder\.params: .*{next(iter(params))}"):
            EncoderRegistry().module(spec, 0)


@pytest.mark.parametrize(
    ("name", "shape", "params", "field"),
    [
        ("mlp", (4,), {"heads": "shared"}, "action_dim"),
        ("conv", (8, 8), {"heads": "fused"}, r"encoder\.params\.heads"),
        ("two_tower", (4,), {}, "action_dim"),
    ],
)
def test_an_encoder_of_the_action_needs_action_features(name, shape, params, field):
    with pytest.raises(ValueError, match=rf"^{field}: .*features"):
        EncoderRegistry().module(_spec(name, shape=shape, action_dim=0, **params), 0)


@pytest.mark.parametrize("shape", [(64,), (1, 3, 8, 8)])
def test_the_conv_net_takes_images_alone(shape):
    with pytest.raises(ValueError, match=r"^context\.shape: "):
        EncoderRegistry().module(_spec("conv", shape=shape), 0)
