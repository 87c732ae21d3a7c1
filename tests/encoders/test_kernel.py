"""The kernel encoder against the Gaussian process that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import check_grad

from bandexa_core.encoders import EncoderRegistry, evidence
from bandexa_core.encoders.evidence import Kernel, fit_kernel
from bandexa_core.encoders.torch.builtin import serving
from bandexa_core.encoders.torch.kernel import KernelEncoder
from bandexa_core.ids import BanditUid
from bandexa_core.inputs_spec import ActionsSpec
from bandexa_core.policies.factory import make_policy
from bandexa_core.policies.neural_linear_ts import NeuralLinearTS
from bandexa_core.spec import BanditSpec, ContextSpec

Array64 = NDArray[np.float64]
FIELDS = (np.array([0, 0, 1, 2]), np.array([0, 1, 1]))


def data(num: int = 60, *, noise: float = 0.1) -> tuple[Array64, Array64, Array64, Array64]:
    rng = np.random.default_rng(3)
    offered = rng.standard_normal((7, 3))
    x, a = rng.standard_normal((num, 4)), offered[rng.integers(7, size=num)]
    return x, a, x[:, 2] * a[:, 0] + noise * rng.standard_normal(num), offered


def whole_kernel(
    kernel: Kernel, x: Array64, a: Array64, other_x: Array64, other_a: Array64
) -> Array64:
    b, c, d, f, g = kernel.weights
    of_x = kernel.x.scaled(x) @ kernel.x.scaled(other_x).T
    of_a = kernel.a.scaled(a) @ kernel.a.scaled(other_a).T
    same = (a[:, None] == other_a[None]).all(axis=2).astype(float)
    found: Array64 = b * of_x + c * of_a + d * same + of_x * (f * of_a + g * same)
    return found


def test_the_slope_of_the_evidence_is_that_of_its_value() -> None:
    x, a, rewards, offered = data()
    sides = [evidence._usual(x, FIELDS[0]), evidence._usual(offered, FIELDS[1])]
    found = evidence._Evidence(
        sides[0][0].scaled(x), sides[1][0].scaled(a), a, rewards, sides[0][1], sides[1][1]
    )
    at = np.random.default_rng(0).normal(0.0, 0.3, 3 + 2 + 5 + 1)
    error = check_grad(lambda logs: found(logs)[0], lambda logs: found(logs)[1], at)
    assert error < 1e-4 * np.abs(found(at)[1]).max()


def test_noise_and_the_field_that_matters_are_found() -> None:
    x, a, rewards, offered = data(400)
    kernel = fit_kernel(x, a, rewards, offered, FIELDS, np.random.default_rng(0))
    assert kernel.noise < 0.1
    scale = kernel.x.scale * x.std(axis=0)
    assert scale[2] > 1.2 * scale[[0, 1, 3]].max()
    chance = np.random.default_rng(1).standard_normal(400)
    assert fit_kernel(x, a, chance, offered, FIELDS, np.random.default_rng(0)).noise > 0.7


def test_equal_rewards_leave_the_prior() -> None:
    x, a, _, offered = data()
    kernel = fit_kernel(x, a, np.ones(len(x)), offered, FIELDS, np.random.default_rng(0))
    assert kernel.weights.tolist() == list(evidence.WEIGHTS)


def test_features_have_the_kernel_as_their_products() -> None:
    """With all pairs as landmarks the features are exact: z z' = k / noise."""
    x, a, _, offered = data(40)
    kernel = fit_kernel(x, a, data(40)[2], offered, FIELDS, np.random.default_rng(0))
    module = KernelEncoder((4,), 3, landmarks=40, features=40)
    module._install(kernel, x, a)
    z = module(torch.from_numpy(x), torch.from_numpy(a)).numpy()
    assert z @ z.T == pytest.approx(whole_kernel(kernel, x, a, x, a) / kernel.noise, abs=1e-6)


def test_what_is_served_is_the_module() -> None:
    x, a, rewards, offered = data()
    module = KernelEncoder((4,), 3, landmarks=64, features=20)
    module.fit(x, a, rewards, offered, FIELDS, len(x), seed=1)
    encoder = serving(module)
    contexts, actions = x.astype(np.float32), a.astype(np.float32)
    z = encoder.encode(contexts, actions)
    again = module(torch.from_numpy(contexts), torch.from_numpy(actions)).numpy()
    assert z[:, :-1] == pytest.approx(again, abs=1e-9)
    assert encoder.encode_batch(contexts[0], actions) == pytest.approx(
        encoder.encode(np.repeat(contexts[:1], len(actions), axis=0), actions), abs=1e-9
    )
    assert z.shape == (60, 21)
    assert module.is_due(75)
    assert not module.is_due(74)


def test_fewer_rows_than_landmarks() -> None:
    x, a, rewards, offered = data(5)
    module = KernelEncoder((4,), 3)
    module.fit(x, a, rewards, offered, FIELDS, 5, seed=1)
    z = module(torch.from_numpy(x), torch.from_numpy(a))
    assert torch.isfinite(z).all()
    assert module.output_dim == 160


@pytest.mark.parametrize(
    ("params", "message"), [({"features": 9, "landmarks": 8}, "features: at most as many")]
)
def test_parameters_are_checked(params: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KernelEncoder((4,), 3, **params)


def test_bandits_with_names_on_both_sides_get_it() -> None:
    spec = BanditSpec(context=ContextSpec(features="auto"), actions=ActionsSpec(features="auto"))
    policy = make_policy(spec, BanditUid("u"), EncoderRegistry())
    assert isinstance(policy, NeuralLinearTS)
    assert type(policy.module) is KernelEncoder
    assert spec.posterior_scale == 0.4
    numbers = BanditSpec(context=ContextSpec(shape=(3,)), action_dim=2)
    assert numbers.posterior_scale == 0.2
