"""Objects with named features as inputs: encodings follow the rows, and networks their columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.encoders.torch.inheriting import inherit, inherited_state
from bandexa_core.encoders.torch.mlp import MLPEncoder
from bandexa_core.encoders.torch.two_tower import TwoTowerEncoder
from bandexa_core.ids import BanditUid
from bandexa_core.policies.factory import make_policy
from bandexa_core.policies.named_inputs import NamedInputs, object_of, padded
from bandexa_core.policies.neural_linear_ts import NeuralLinearTS
from bandexa_core.policies.standardizing import InputRows
from bandexa_core.schema import to_bytes
from bandexa_core.spec import ActionsSpec, BanditSpec, ContextSpec, EncoderSpec
from benchmarks.in_process import InProcessClient

SIZE = 256
SPEC = BanditSpec(
    context=ContextSpec(features="auto", max_bytes=SIZE),
    actions=ActionsSpec(features="auto", max_bytes=SIZE),
    seed=1,
)


def rows_of(objects: list[dict[str, Any]]) -> np.ndarray:
    return np.stack([padded(to_bytes(value), SIZE) for value in objects])


def inputs_of(contexts: list[dict[str, Any]], actions: list[dict[str, Any]]) -> InputRows:
    return InputRows(rows_of(contexts), rows_of(actions), None, 0)


def unfitted(spec: BanditSpec = SPEC) -> NamedInputs:
    found = NamedInputs.initial(spec)
    assert found is not None
    return found


def fitted(num: int, devices: tuple[str, ...] = ("phone", "desk")) -> NamedInputs:
    contexts = [{"device": devices[n % len(devices)], "age": 20 + n % 7} for n in range(num)]
    actions = [{"kind": ("book", "toy", "gift")[n % 3]} for n in range(num)]
    return unfitted().fitted(inputs_of(contexts, actions), rows_of(actions[:3]), num)


def test_an_object_is_logged_as_its_bytes_and_read_back():
    value = {"b": [1, "x"], "a": {"c": None}}
    row = padded(to_bytes(value), SIZE)
    assert row.shape == (SIZE,)
    assert row.dtype == np.uint8
    assert object_of(row) == value
    assert object_of(np.zeros(SIZE, np.uint8)) == {}, "an erased one"
    with pytest.raises(ValueError, match="has 12 bytes as JSON, at most 8 are allowed"):
        padded(b"123456789012", 8)


def test_a_bandit_without_named_features_has_no_encodings():
    assert NamedInputs.initial(BanditSpec(context=ContextSpec(shape=(2,)))) is None


def test_encodings_are_fitted_again_when_the_rows_have_grown_by_a_quarter():
    assert unfitted().is_due(1)
    inputs = fitted(100)
    assert inputs.num_rows == 100
    assert not inputs.is_due(125)
    assert inputs.is_due(126)


def test_equal_actions_have_equal_rows_whatever_is_encoded_with_them():
    inputs = fitted(60)
    rows = rows_of([{"kind": "toy"}, {"kind": "book"}, {"kind": "toy"}, {"kind": "unheard of"}])
    together = inputs.actions(rows)
    assert np.array_equal(together[0], together[2])
    for row, alone in zip(rows, together, strict=True):
        assert np.array_equal(inputs.actions(row[None])[0], alone)
    assert inputs.actions(rows[:0]).shape == (0, together.shape[1])


def test_one_context_is_encoded_as_in_a_batch():
    inputs = fitted(60)
    rows = rows_of([{"device": "phone", "age": 21}, {"age": "none"}])
    many = inputs.contexts(rows)
    assert np.array_equal(inputs.contexts(rows[1]), many[1])
    assert many.dtype == np.float32


def test_where_nothing_varies_there_is_one_column_of_zeros():
    contexts, actions = [{"device": "phone"}] * 40, [{"kind": "toy"}] * 40
    inputs = unfitted().fitted(inputs_of(contexts, actions), rows_of(actions[:1]), 40)
    assert inputs.sizes(SPEC) == ((1,), 1)
    assert not inputs.contexts(rows_of(contexts[:2])).any()


def test_encodings_come_back_from_a_snapshot():
    before = fitted(60)
    after = unfitted().loaded(before.tensors())
    rows = rows_of([{"device": "desk", "age": 24}])
    assert np.array_equal(after.contexts(rows), before.contexts(rows))
    assert after.num_rows == before.num_rows
    with pytest.raises(ValueError, match="others"):
        before.loaded({"x": before.tensors()["x"]})
    declared = BanditSpec(context=ContextSpec(features={"age": "number"}), actions=SPEC.actions)
    with pytest.raises(ValueError, match="other features"):
        unfitted(declared).loaded(before.tensors())


@pytest.mark.parametrize("encoder", ["mlp", "two_tower"])
def test_a_network_with_more_columns_answers_as_before_where_they_are_zero(encoder: str):
    """Columns stay under their names, wherever they stand; new ones have weights of their own."""
    small, large = fitted(60), fitted(90, devices=("phone", "desk", "car"))
    places = large.places(small)
    torch.manual_seed(0)
    if encoder == "mlp":
        old: Any = MLPEncoder(*small.sizes(SPEC), elementwise=False)
        new: Any = MLPEncoder(*large.sizes(SPEC), elementwise=False)
    else:
        old, new = TwoTowerEncoder(*small.sizes(SPEC)), TwoTowerEncoder(*large.sizes(SPEC))
    inherit(new, old, places)
    rng = np.random.default_rng(2)
    x = np.zeros((5, *large.sizes(SPEC)[0]), np.float32)
    a = np.zeros((5, large.sizes(SPEC)[1]), np.float32)
    x_before = rng.normal(size=(5, *small.sizes(SPEC)[0])).astype(np.float32)
    a_before = rng.normal(size=(5, small.sizes(SPEC)[1])).astype(np.float32)
    for now, known, side in ((x, x_before, "x"), (a, a_before, "a")):
        stay = places[side] >= 0
        assert stay.sum() == known.shape[1], "no column has gone"
        now[:, stay] = known[:, places[side][stay]]
    assert len(places["x"]) > x_before.shape[1], "one has come"
    with torch.no_grad():
        expected = old(torch.from_numpy(x_before), torch.from_numpy(a_before))
        found = new(torch.from_numpy(x), torch.from_numpy(a))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_moments_of_the_optimizer_follow_their_columns():
    small, large = fitted(60), fitted(90, devices=("phone", "desk", "car"))
    places = large.places(small)
    old, new = TwoTowerEncoder(*small.sizes(SPEC)), TwoTowerEncoder(*large.sizes(SPEC))
    width = small.sizes(SPEC)[0][0]
    moments = np.tile(np.arange(width, dtype=np.float32), (64, 1)) + 1.0
    name = "optimizer/exp_avg/encoder/context_tower.0.weight"
    state = {name: moments, "optimizer/step/encoder/context_tower.0.weight": np.array(3.0)}
    found = inherited_state(state, new, old, places)
    stay = places["x"] >= 0
    np.testing.assert_array_equal(found[name][0, stay], places["x"][stay] + 1.0)
    assert not found[name][:, ~stay].any()
    assert found["optimizer/step/encoder/context_tower.0.weight"] == 3.0


def test_linear_policies_refuse_named_features():
    spec = BanditSpec(policy="linear_ts", context=SPEC.context, encoder=EncoderSpec(name="concat"))
    with pytest.raises(ValueError, match="policy: named features need a network"):
        make_policy(spec, BanditUid("b"), EncoderRegistry())


def _shop(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    contexts = [
        {
            "device": ("phone", "desk", "tablet")[int(rng.integers(3))],
            "user": {"age": int(rng.integers(18, 80)) if rng.random() < 0.8 else None},
            "tags": ["new"] if rng.random() < 0.5 else [],
        }
        for _ in range(600)
    ]
    kinds = ("book", "toy", "gift")
    actions = [{"kind": kinds[n % 3], "price": 5.0 + n} for n in range(6)]
    return contexts, actions


def _pays(context: dict[str, Any], action: dict[str, Any]) -> float:
    """A kind for each device: what suits is a product of context and action."""
    suits = {"phone": "book", "desk": "toy", "tablet": "gift"}
    return float(suits[context["device"]] == action["kind"])


def test_a_bandit_learns_from_objects_and_goes_on_from_its_snapshot():
    """The share of the best kind in the last 200 of 600 decisions is far above chance, a third."""
    contexts, actions = _shop(3)
    body = {
        "context": {"features": "auto"}, "actions": {"features": "auto"},
        "training": {"mode": "lockstep"}, "seed": 4,
    }  # fmt: skip
    client = InProcessClient("shop", body, [f"o{n}" for n in range(6)], actions)
    won = []
    for step, context in enumerate(contexts):
        chosen = client.select("shop", context, decision_id=f"d{step}")
        reward = _pays(context, actions[int(chosen.action.id[1:])])
        won.append(reward)
        if client.reward(f"d{step}", reward).train_due:
            client.train("shop")
    assert np.mean(won[-200:]) > 0.75
    policy = client.model.policy
    assert isinstance(policy, NeuralLinearTS)
    assert policy.named is not None
    assert policy.named.x is not None
    assert "device=phone" in policy.named.x.columns
    other = make_policy(client.model.spec, client.model.uid, EncoderRegistry())
    assert isinstance(other, NeuralLinearTS)
    other.load_tensors(policy.tensors())
    row = np.stack([padded(to_bytes(contexts[0]), 1024)])
    offers = client.model.enabled_features
    z_before = policy.features(np.repeat(row, len(offers), axis=0), offers)
    np.testing.assert_array_equal(
        other.features(np.repeat(row, len(offers), axis=0), offers), z_before
    )
