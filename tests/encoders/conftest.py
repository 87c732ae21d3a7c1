"""Every built-in encoder as a case of one contract, built as the service builds it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bandexa_core.encoders import Encoder, EncoderModule, EncoderRegistry
from bandexa_core.encoders.torch.builtin import serving
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec


@dataclass(frozen=True)
class EncoderCase:
    """One way to configure an encoder, with the relative precision it repeats to."""

    label: str
    name: str
    shape: tuple[int, ...]
    action_dim: int
    feature_dim: int
    params: dict[str, Any] = field(default_factory=dict)
    precision: float = 1e-8

    def spec(self, **params: Any) -> BanditSpec:
        learned = EncoderRegistry().is_learned(self.name)
        return BanditSpec(
            policy="neural_linear_ts" if learned else "linear_ts",
            context=ContextSpec(shape=self.shape),
            action_dim=self.action_dim,
            encoder=EncoderSpec(name=self.name, params=self.params | params),
        )

    def build(self, seed: int = 3) -> Encoder:
        spec, registry = self.spec(), EncoderRegistry()
        if registry.is_learned(self.name):
            return serving(registry.module(spec, seed))
        return registry.fixed(spec)

    def contexts(self, num: int, seed: int = 0, dtype: str = "float32") -> NDArray[Any]:
        rng = np.random.default_rng(seed)
        if dtype == "uint8":
            return rng.integers(0, 256, (num, *self.shape), np.uint8)
        return rng.normal(size=(num, *self.shape)).astype(dtype)

    def actions(self, num: int, seed: int = 1) -> NDArray[np.float32]:
        return np.random.default_rng(seed).normal(size=(num, self.action_dim)).astype(np.float32)

    def assert_close(self, found: NDArray[Any], expected: NDArray[Any]) -> None:
        scale = float(np.abs(expected).max(initial=1.0))
        np.testing.assert_allclose(
            found, expected, rtol=self.precision, atol=self.precision * scale
        )


MLP = {"feature_dim": 7, "hidden": [9, 5]}
RESNET = {"feature_dim": 7, "hidden": 10}
CONV = {"feature_dim": 7, "channels": [3, 4], "hidden": 10}
CASES = [
    EncoderCase("per_action", "per_action", (2, 3), 0, 7),
    EncoderCase("concat", "concat", (2, 3), 4, 11),
    EncoderCase("concat without features", "concat", (3,), 0, 4),
    EncoderCase("interactions", "interactions", (2, 3), 6, 19),
    EncoderCase("bilinear", "bilinear", (2, 3), 4, 35),
    EncoderCase("mlp shared", "mlp", (2, 3), 4, 8, MLP),
    EncoderCase("mlp shared, equal sizes", "mlp", (2, 3), 6, 8, MLP | {"activation": "relu"}),
    EncoderCase("mlp per action", "mlp", (6,), 0, 8, MLP | {"heads": "per_action"}),
    EncoderCase("two_tower", "two_tower", (2, 3), 4, 16, {"tower_dim": 5, "hidden": [8]}),
    EncoderCase("kernel", "kernel", (2, 3), 4, 8, {"landmarks": 9, "features": 7}),
    EncoderCase("crosses", "crosses", (2, 3), 4, 35),
    EncoderCase("crosses, hashed", "crosses", (2, 3), 4, 14, {"inputs": 9}),
    EncoderCase("crosses per action", "crosses", (2, 3), 0, 7),
    EncoderCase("conv per action", "conv", (9, 8), 0, 8, CONV, 1e-5),
    EncoderCase("conv fused, colour", "conv", (3, 8, 9), 4, 8, CONV | {"heads": "fused"}, 1e-5),
    EncoderCase("resnet per action", "resnet18", (3, 9, 8), 0, 8, RESNET, 1e-5),
    EncoderCase("resnet fused", "resnet18", (3, 9, 8), 4, 8, RESNET, 1e-5),
]


def _label(case: EncoderCase) -> str:
    return case.label


def _cases(*names: str) -> list[EncoderCase]:
    return [case for case in CASES if case.name in names]


@pytest.fixture(params=CASES, ids=_label, scope="session")
def case(request) -> EncoderCase:
    chosen: EncoderCase = request.param
    return chosen


@pytest.fixture(params=_cases("mlp", "two_tower", "conv"), ids=_label, scope="session")
def learned_case(request) -> EncoderCase:
    chosen: EncoderCase = request.param
    return chosen


@pytest.fixture(
    params=_cases(
        "concat", "interactions", "bilinear", "mlp", "two_tower", "kernel", "crosses", "resnet18"
    ),
    ids=_label,
    scope="session",
)
def split_case(request) -> EncoderCase:
    chosen: EncoderCase = request.param
    return chosen


@pytest.fixture(
    params=_cases("concat", "interactions", "bilinear", "two_tower", "crosses"),
    ids=_label,
    scope="session",
)
def folding_case(request) -> EncoderCase:
    chosen: EncoderCase = request.param
    return chosen


@pytest.fixture(scope="session")
def cased_names() -> set[str]:
    return {case.name for case in CASES}


@pytest.fixture(scope="session")
def encoder_of():
    """Return a case's encoder, built once: serving encoders are immutable."""
    built: dict[str, Encoder] = {}

    def build(case: EncoderCase) -> Encoder:
        if case.label not in built:
            built[case.label] = case.build()
        return built[case.label]

    return build


@pytest.fixture(scope="session")
def make_resnet():
    """Build a ResNet as the service does: `make_resnet(name, shape, dtype, action_dim, ...)`.

    Its initial weights are drawn once, and copied for each test.
    """
    made: dict[str, EncoderModule] = {}

    def make(
        name: str = "resnet18",
        shape: tuple[int, ...] = (28, 28),
        dtype: Any = "uint8",
        action_dim: int = 0,
        *,
        files: dict[str, Any] | None = None,
        seed: int = 3,
        **params: Any,
    ) -> EncoderModule:
        spec = BanditSpec(
            policy="neural_linear_ts",
            context=ContextSpec(shape=shape, dtype=dtype),
            action_dim=action_dim,
            encoder=EncoderSpec(name=name, params={"image_size": 32} | params),
        )
        if params.get("weights", "none") != "none":  # what is loaded may change
            return EncoderRegistry(weights=files).module(spec, seed).eval()
        key = f"{spec} {seed}"
        if key not in made:
            made[key] = EncoderRegistry().module(spec, seed).eval()
        return copy.deepcopy(made[key])

    return make


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small products gain nothing from threads, and lose much on a machine that is shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
