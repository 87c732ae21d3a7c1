"""The kernel encoder against the Gaussian process that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import check_grad

from bandexa_core.encoders import EncoderRegistry, evidence
from bandexa_core.encoders.evidence import Kernel, fit_kernel
from bandexa_core.encoders.sharing import MOST_PAIRS, MOST_VALUES, SharedValues
from bandexa_core.encoders.torch.builtin import serving
from bandexa_core.encoders.torch.fitted import Sample, Side
from bandexa_core.encoders.torch.kernel import KernelEncoder
from bandexa_core.ids import BanditUid
from bandexa_core.policies.factory import make_policy
from bandexa_core.policies.neural_linear_ts import NeuralLinearTS
from bandexa_core.schema import Encoding, Features, fit
from bandexa_core.schema.shared import SharedColumns, shared_columns
from bandexa_core.spec import BanditSpec, ContextSpec
from bandexa_core.spec.inputs import ActionsSpec

Array64 = NDArray[np.float64]
FIELDS = (np.array([0, 0, 1, 2]), np.array([0, 1, 1]))
# The first two columns of contexts stand for the values of the last two of actions.
PAIRS = [
    SharedColumns(np.array([0, 1]), np.array([1, 2])),
    SharedColumns(np.array([3]), np.array([0])),
]


def data(num: int = 60, *, noise: float = 0.1) -> tuple[Array64, Array64, Array64, Array64]:
    rng = np.random.default_rng(3)
    offered = rng.standard_normal((7, 3))
    x, a = rng.standard_normal((num, 4)), offered[rng.integers(7, size=num)]
    return x, a, x[:, 2] * a[:, 0] + noise * rng.standard_normal(num), offered


def sample(x: Array64, a: Array64, rewards: Array64, offered: Array64) -> Sample:
    of_x, of_a = Side(x, FIELDS[0], ()), Side(a, FIELDS[1], ())
    return Sample(of_x, of_a, rewards, offered, PAIRS, len(x), seed=1)


def shared_of(x: Array64, offered: Array64) -> SharedValues:
    return SharedValues.fitted(PAIRS, x, offered)


def fitted(x: Array64, a: Array64, rewards: Array64, offered: Array64) -> Kernel:
    rows = shared_of(x, offered).of(x, a)
    return fit_kernel(x, a, rows, rewards, offered, FIELDS, np.random.default_rng(0))


def whole_kernel(kernel: Kernel, x: Array64, a: Array64, offered: Array64) -> Array64:
    other_x, other_a = x, a
    (b, c, d, f, g), of_shared = kernel.weights[:5], kernel.weights[5:]
    of_x = kernel.x.scaled(x) @ kernel.x.scaled(other_x).T
    of_a = kernel.a.scaled(a) @ kernel.a.scaled(other_a).T
    same = (a[:, None] == other_a[None]).all(axis=2).astype(float)
    found: Array64 = b * of_x + c * of_a + d * same + of_x * (f * of_a + g * same)
    for weight, (places_x, places_a) in zip(of_shared, PAIRS, strict=True):
        every = np.array([one[places_x] @ other[places_a] for one in x for other in offered])
        common = ((x[:, places_x] * a[:, places_a]).sum(axis=1) - every.mean()) / every.std()
        found += weight * np.outer(common, common)
    return found


def test_the_slope_of_the_evidence_is_that_of_its_value() -> None:
    x, a, rewards, offered = data()
    sides = [evidence.usual_columns(x, FIELDS[0]), evidence.usual_columns(offered, FIELDS[1])]
    found = evidence._Evidence(
        sides[0][0].scaled(x),
        sides[1][0].scaled(a),
        a,
        shared_of(x, offered).of(x, a),
        rewards,
        sides[0][1],
        sides[1][1],
    )
    at = np.random.default_rng(0).normal(0.0, 0.3, 3 + 2 + 5 + 2 + 1)
    error = check_grad(lambda logs: found(logs)[0], lambda logs: found(logs)[1], at)
    assert error < 1e-4 * np.abs(found(at)[1]).max()


def test_noise_and_the_field_that_matters_are_found() -> None:
    x, a, rewards, offered = data(400)
    kernel = fitted(x, a, rewards, offered)
    assert kernel.noise < 0.1
    scale = kernel.x.scale * x.std(axis=0)
    assert scale[2] > 1.2 * scale[[0, 1, 3]].max()
    chance = np.random.default_rng(1).standard_normal(400)
    assert fitted(x, a, chance, offered).noise > 0.7


def test_equal_rewards_leave_the_prior() -> None:
    x, a, _, offered = data()
    kernel = fitted(x, a, np.ones(len(x)), offered)
    share = evidence.SHARED_WEIGHT / len(PAIRS)
    assert kernel.weights.tolist() == [*evidence.WEIGHTS, share, share]


def test_features_have_the_kernel_as_their_products() -> None:
    """With all pairs as landmarks the features are exact: z z' = k / noise."""
    x, a, rewards, offered = data(40)
    kernel = fitted(x, a, rewards, offered)
    module = KernelEncoder((4,), 3, landmarks=40, features=40)
    module._install(kernel, shared_of(x, offered), x, a)
    z = module(torch.from_numpy(x), torch.from_numpy(a)).numpy()
    assert z @ z.T == pytest.approx(whole_kernel(kernel, x, a, offered) / kernel.noise, abs=1e-6)


def test_what_is_served_is_the_module() -> None:
    x, a, rewards, offered = data()
    module = KernelEncoder((4,), 3, landmarks=64, features=20)
    module.fit(sample(x, a, rewards, offered))
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


def test_a_pair_of_fields_that_decides_is_found() -> None:
    x, a, _, offered = data(400)
    common = shared_of(x, offered).of(x, a)
    chance = np.random.default_rng(1).standard_normal(400)
    kernel = fitted(x, a, common[:, 0] + 0.3 * chance, offered)
    assert kernel.weights[5] > 3.0 * kernel.weights[6]


def test_pairs_are_few_and_vary() -> None:
    x, _, _, offered = data()
    one = SharedColumns(np.array([0]), np.array([0]))
    assert len(SharedValues.fitted([one] * 20, x, offered).scale) == MOST_PAIRS
    wide = SharedColumns(*np.zeros((2, MOST_VALUES), np.intp))
    assert SharedValues.fitted([wide, one], x, offered).x.tolist() == wide.x.tolist()
    assert not len(SharedValues.fitted([one], np.zeros_like(x), offered).scale)
    for share in (1.0, 0.1, 1.0 / 3.0, 3.0**-0.5):  # equal sums deviate by rounding
        rows = np.full((100, 1), share)
        assert not len(SharedValues.fitted([one], rows, rows).scale)


def test_fields_with_values_in_common_are_found_by_their_words() -> None:
    several, one = {"type": "categories"}, {"type": "category"}
    of_contexts = Features.from_json({"likes": several, "at": one, "old": {"type": "number"}})
    of_actions = Features.from_json({"tags": several, "kind": one})
    contexts = [
        {"likes": ["red", "big"], "at": "red", "old": 3},
        {"likes": ["old"], "at": "shop", "old": 4},
    ]
    actions = [{"tags": ["big", "red"], "kind": "old"}, {"tags": ["red"], "kind": "new"}]
    x, a = fit(of_contexts, contexts, least_rows=1), fit(of_actions, actions, least_rows=1)
    found = [
        {(x.columns[at], a.columns[other]) for at, other in zip(*pair, strict=True)}
        for pair in shared_columns(x, a)
    ]
    assert found[0] == {("likes=big", "tags=big"), ("likes=red", "tags=red")}
    assert sorted(found[1:], key=str) == [{("at=red", "tags=red")}, {("likes=old", "kind=old")}]
    assert shared_columns(Encoding.initial(of_contexts), a) == []


def test_fewer_rows_than_landmarks() -> None:
    x, a, rewards, offered = data(5)
    module = KernelEncoder((4,), 3)
    module.fit(sample(x, a, rewards, offered))
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
