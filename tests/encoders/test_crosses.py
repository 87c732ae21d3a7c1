"""The linear model on named fields: which crosses a round takes, and what becomes inputs."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry, crossing
from bandexa_core.encoders.torch.builtin import serving
from bandexa_core.encoders.torch.crosses import CrossesEncoder, CrossesServing
from bandexa_core.encoders.torch.fitted import Sample, Side
from bandexa_core.encoders.torch.module import load_module_tensors, module_tensors
from bandexa_core.ids import BanditUid
from bandexa_core.policies.factory import make_policy
from bandexa_core.schema.shared import SharedColumns
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec
from bandexa_core.spec.inputs import ActionsSpec

Array64 = NDArray[np.float64]
SIZES_X, SIZES_A = (3, 4, 2), (3, 4)  # one-hot fields of contexts and of actions
NAMES_X, NAMES_A = ("device", "country", "source"), ("kind", "brand")


def one_hot(rng: np.random.Generator, num: int, sizes: tuple[int, ...]) -> Array64:
    parts = [np.eye(size)[rng.integers(size, size=num)] for size in sizes]
    return np.concatenate(parts, axis=1)


def sample(rewards: str = "device * kind", num: int = 400, noise: float = 0.3) -> Sample:
    rng = np.random.default_rng(5)
    x, a = one_hot(rng, num, SIZES_X), one_hot(rng, num, SIZES_A)
    means = {
        "device * kind": (x[:, :3] * a[:, :3]).sum(axis=1),
        "country * brand": x[:, 3] * a[:, 3] - x[:, 4] * a[:, 4],
        "nothing": np.zeros(num),
    }[rewards]
    fields_x, fields_a = (np.repeat(np.arange(len(s)), s) for s in (SIZES_X, SIZES_A))
    return Sample(
        Side(x, fields_x, NAMES_X),
        Side(a, fields_a, NAMES_A),
        means + noise * rng.standard_normal(num),
        np.unique(a, axis=0),
        [SharedColumns(np.arange(3, 7), np.arange(3, 7))],  # country and brand
        num,
        seed=1,
    )


def encoder(**params) -> CrossesEncoder:
    return CrossesEncoder((sum(SIZES_X),), sum(SIZES_A), **params)


@pytest.mark.parametrize(
    ("rewards", "pair"), [("device * kind", (0, 0)), ("country * brand", (1, 1))]
)
def test_the_cross_that_decides_is_taken_first(rewards, pair) -> None:
    module = encoder()
    module.fit(sample(rewards))
    first = module.crosses()[0]
    assert (first.x, first.a) == pair
    assert first.gain > 0.1
    assert all(each.gain < 0.1 * first.gain for each in module.crosses()[1:])


def test_values_in_common_are_one_input() -> None:
    rows = sample("nothing", noise=0.2)
    common = (rows.x.rows[:, 3:7] * rows.a.rows[:, 3:7]).sum(axis=1)
    module = encoder()
    module.fit(rows._replace(rewards=rows.rewards + common))
    first = module.crosses()[0]
    assert (first.x, first.a, first.shared, first.inputs) == (1, 1, True, 1)


def test_chance_has_hardly_any_crosses() -> None:
    module = encoder()
    module.fit(sample("nothing"))
    assert sum(each.gain for each in module.crosses()) < 0.01


def test_a_gain_is_that_of_ridge_regressions_without_the_fold() -> None:
    """Each fold is predicted by the weights of most evidence on the other four."""
    rows = sample()
    x, a, rewards = rows.x.rows, rows.a.rows, rows.rewards - rows.rewards.mean()
    layout = crossing.Layout(rows.x.fields, rows.a.fields)
    found = crossing._Rows(x, a, rewards, layout)
    (block,) = found.normed([crossing.Block(0, 0, 9)])
    gain, error = found.gain_of(block, rewards, 1.0)
    z = (x[:, :3, None] * a[:, None, :3]).reshape(len(x), 9)
    z *= np.sqrt(crossing.OF_CROSSES / 3 / crossing.NOISE / (z**2).sum(axis=1).mean())
    gains = np.empty(len(x))
    for first in range(0, 400, 80):
        test = np.arange(first, first + 80)
        train = np.setdiff1d(np.arange(400), test)
        inner = z[train].T @ z[train] + np.eye(9)
        weights = np.linalg.solve(inner, z[train].T @ rewards[train])
        gains[test] = rewards[test] ** 2 - (rewards[test] - z[test] @ weights) ** 2
    assert gain == pytest.approx(gains.mean())
    assert error == pytest.approx(gains.std() / 20)


def test_the_budget_is_kept() -> None:
    for inputs in (1, 5, 12):
        module = encoder(inputs=inputs)
        module.fit(sample())
        taken = [block.places for block in module.chosen() if block.x != crossing.NONE]
        assert sum(taken) <= inputs
    wide = encoder(crosses=[["device", "kind"], ["country", "kind"]], inputs=8)
    wide.fit(sample())
    assert [each.inputs for each in wide.crosses()] == [4, 4]  # 9 and 12 products share them


def test_declared_crosses_are_taken_whatever_they_gain() -> None:
    module = encoder(crosses=[["source", "brand"], ["season", "kind"]])  # one was never seen
    module.fit(sample())
    assert [(each.x, each.a, each.inputs) for each in module.crosses()] == [(2, 1, 8)]
    few = encoder(crosses=[["device", "kind"]])
    few.fit(sample(num=4))
    assert [(each.x, each.a) for each in few.crosses()] == [(0, 0)]
    none = encoder(crosses="none")
    assert none.output_dim == sum(SIZES_X) + sum(SIZES_A)
    none.fit(sample())
    assert none.crosses() == []


def test_a_rare_value_is_no_larger_than_a_frequent_one() -> None:
    rows = sample()
    rows.x.rows[:, 0:3] = np.eye(3)[np.where(np.arange(400) < 2, 2, np.arange(400) % 2)]
    module = encoder()
    module.fit(rows)
    scale = module.x_scale.numpy()
    assert scale[2] == pytest.approx(scale[0])
    part = CrossesServing(module).context_part(np.eye(9, dtype=np.float32)[2])
    assert np.abs(part[:3]).max() < 3.0


def test_the_prior_is_as_wide_whatever_the_number_of_inputs() -> None:
    """A value varies a priori by what is expected of all blocks together, and no more."""
    expected = (crossing.OF_ACTIONS + crossing.OF_CONTEXTS + crossing.OF_CROSSES) / crossing.NOISE
    for pairs in ([["device", "kind"]], [[x, a] for x in NAMES_X for a in NAMES_A]):
        module = encoder(crosses=pairs)
        rows = sample(num=8)  # too few to say more
        module.fit(rows)
        z = serving(module).encode(rows.x.rows, rows.a.rows.astype(np.float32))[:, :-1]
        assert 0.2 * expected < (z**2).sum(axis=1).mean() < 1.1 * expected


def test_what_is_served_is_the_module_before_and_after_a_fit_and_a_load() -> None:
    rows = sample()
    contexts, actions = rows.x.rows.astype(np.float32), rows.a.rows.astype(np.float32)
    module = encoder(inputs=40)
    for _ in range(2):
        z = serving(module).encode(contexts, actions)
        again = module(torch.from_numpy(contexts), torch.from_numpy(actions)).numpy()
        assert z[:, :-1] == pytest.approx(again, abs=1e-12)
        other = encoder(inputs=40)
        load_module_tensors(other, module_tensors(module))
        assert other.output_dim == module.output_dim
        assert np.array_equal(serving(other).encode(contexts, actions), z)
        module.fit(rows)
    assert module.is_due(500)
    assert not module.is_due(499)


def test_folded_weights_score_as_the_features_do_after_a_fit() -> None:
    rows, rng = sample(), np.random.default_rng(1)
    module = encoder()
    module.fit(rows)
    served = serving(module)
    assert isinstance(served, CrossesServing)
    contexts, actions = rows.x.rows[:1].astype(np.float32), rows.a.rows[:9].astype(np.float32)
    weights = rng.standard_normal((5, served.feature_dim))
    queries, offsets = served.fold(served.context_part(contexts[0]), weights)
    expected = weights @ served.encode_batch(contexts[0], actions).T
    found = queries @ served.action_part(actions).T + offsets[:, None]
    assert found == pytest.approx(expected, abs=1e-12)


def test_actions_without_features_learn_a_model_of_contexts_each() -> None:
    module = CrossesEncoder((sum(SIZES_X),), 0)
    rows = sample()
    nothing = Side(np.zeros((400, 0)), np.zeros(0, np.intp), ())
    module.fit(rows._replace(a=nothing, offered=np.zeros((3, 0)), shared=[]))
    served = serving(module)
    assert not served.uses_action
    assert served.feature_dim == 10
    no_actions = np.zeros((400, 0), np.float32)
    z = served.encode(rows.x.rows, no_actions)
    assert np.linalg.matrix_rank(z[:, :-1]) == 6  # each field's columns sum to 1
    tensors = torch.from_numpy(rows.x.rows), torch.from_numpy(no_actions)
    assert np.array_equal(z[:, :-1], module(*tensors).numpy())


def test_places_that_several_columns_share_are_sums_without_actions_too() -> None:
    module = CrossesEncoder((sum(SIZES_X),), 0, inputs=4)
    contexts = np.random.default_rng(2).standard_normal((5, sum(SIZES_X)))
    no_actions = np.zeros((5, 0), np.float32)
    z = serving(module).encode(contexts, no_actions)
    assert z.shape == (5, 5)
    expected = module(torch.from_numpy(contexts), torch.from_numpy(no_actions)).numpy()
    assert z[:, :-1] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"crosses": "all"}, 'crosses: must be "auto", "none", or pairs'),
        ({"crosses": []}, "crosses: 1 to 24 pairs"),
        ({"crosses": [["device"]]}, "crosses[0]: must name a field"),
        ({"crosses": [["device", 3]]}, "crosses[0]: must name a field"),
        ({"crosses": [["device", "kind"]] * 2}, "crosses: each pair may be given once"),
        ({"crosses": [["divice", "kind"]]}, "crosses[0]: contexts have no field 'divice'"),
        ({"crosses": [["device", "kind"], ["device", "3"]]}, "crosses[1]: actions have no field"),
        ({"inputs": 0}, "inputs: must be 1 to 4096"),
        ({"inputs": 1.5}, "inputs: whole numbers"),
    ],
)
def test_wrong_parameters_are_named(params, message) -> None:
    spec = BanditSpec(
        context=ContextSpec(features={"device": "category"}),
        actions=ActionsSpec(features={"kind": "category"}),
        encoder=EncoderSpec(name="crosses", params=params),
    )
    with pytest.raises(ValueError, match=re.escape(f"encoder.params.{message}")):
        make_policy(spec, BanditUid("b"), EncoderRegistry())


def test_of_many_fields_those_that_go_with_rewards_are_looked_at() -> None:
    """1,600 pairs of fields, of wide ones of actions: few inputs, and the pair that matters."""
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2, (600, 80)).astype(float)
    a = one_hot(rng, 600, (30,) * 20)
    rewards = x[:, 7] * (a[:, :30] @ rng.standard_normal(30)) + 0.2 * rng.standard_normal(600)
    of_x, of_a = (
        Side(rows, np.arange(rows.shape[1]) // size, ()) for rows, size in ((x, 2), (a, 30))
    )
    module = CrossesEncoder((80,), 600)
    module.fit(Sample(of_x, of_a, rewards, a[:50], [], 600, seed=1))
    first = module.crosses()[0]
    assert (first.x, first.a) == (3, 0)
    assert module.output_dim <= 2 * crossing.MOST_INPUTS
