"""Objects with named features as inputs: encodings follow the rows, and networks their columns."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.encoders.torch.conv import ConvEncoder
from bandexa_core.encoders.torch.inheriting import inherit, inherited_state, spread
from bandexa_core.encoders.torch.mlp import MLPEncoder
from bandexa_core.encoders.torch.resnet import ResNetEncoder
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


def test_threads_may_encode_actions_while_others_make_room(monkeypatch: pytest.MonkeyPatch):
    """A row that was known may be forgotten before it is read, by whichever thread."""
    monkeypatch.setattr("bandexa_core.policies.named_inputs.MOST_REMEMBERED", 8)
    inputs = fitted(60)
    rows = rows_of([{"kind": f"kind {n}"} for n in range(6)])
    expected = [inputs.actions(row[None])[0] for row in rows]

    class Forgetful(dict[bytes, Any]):
        def update(self, *_: Any) -> None:
            self.clear()

    for known in (inputs._rows, Forgetful(inputs._rows)):
        object.__setattr__(inputs, "_rows", known)
        np.testing.assert_array_equal(inputs.actions(rows), expected)
        assert len(inputs._rows) <= 8


def test_large_objects_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bandexa_core.policies.named_inputs.REMEMBERED_BYTES", 3 * SIZE)
    inputs = fitted(60)
    rows = rows_of([{"kind": f"kind {n}"} for n in range(6)])
    inputs.actions(rows)
    assert len(inputs._rows) == 0, "more at once than there is room for"
    inputs.actions(rows[:2])
    assert 0 < len(inputs._rows) <= 3


def test_rows_without_weight_leave_everything_hashed():
    inputs = inputs_of([{"age": n} for n in range(9)], [{"kind": "toy"}] * 9)
    found = unfitted().fitted(inputs._replace(weights=np.zeros(9)), rows_of([{}])[:0], 9)
    assert found.x is not None
    assert found.x.is_first
    assert found.sizes(SPEC)[0] == unfitted().sizes(SPEC)[0]


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


@pytest.mark.few(1)
@pytest.mark.parametrize("encoder", ["conv", "resnet18"])
def test_networks_of_images_keep_what_they_know_of_named_actions(encoder: str):
    """One value came and one went: as many columns as before, which mean something else."""
    make: Any = ConvEncoder if encoder == "conv" else partial(ResNetEncoder, "resnet18")
    old, new = (make((16, 16), 3, heads="fused") for _ in range(2))
    (name,) = old.input_sides()
    assert old.state_dict().keys() >= {name}
    for module in (old, new):
        torch.nn.init.normal_(module.state_dict()[name])
    fresh = new.state_dict()[name][:, 2].clone()
    inherit(new, old, {"a": np.array([2, 0, -1])})
    found, known = new.state_dict()[name], old.state_dict()[name]
    assert torch.equal(found[:, :2], known[:, [2, 0]])
    assert torch.equal(found[:, 2], fresh)


def test_initial_weights_are_as_wide_as_suits_rows_that_are_mostly_zeros():
    """Sums over rows of 200 columns, of which four are 1, vary as those of dense rows do."""
    torch.manual_seed(1)
    sparse, dense = TwoTowerEncoder((200,), 3), TwoTowerEncoder((200,), 3)
    spread(sparse, {"x": 4.0})
    rng = np.random.default_rng(1)
    few = np.zeros((400, 200), np.float32)
    for row in few:
        row[rng.choice(200, 4, replace=False)] = 1.0
    many = rng.normal(size=(400, 200)).astype(np.float32)
    with torch.no_grad():
        sums = sparse.context_tower[0](torch.from_numpy(few)).std()
        expected = dense.context_tower[0](torch.from_numpy(many)).std()
    assert 0.8 < float(sums / expected) < 1.25
    before = dense.state_dict()["context_tower.0.weight"].clone()
    spread(dense, {"x": 300.0})
    assert torch.equal(dense.state_dict()["context_tower.0.weight"], before), "never narrower"


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


def test_numbers_of_contexts_go_with_named_actions():
    """The scale of contexts says nothing of objects, before and after the first round."""
    _, actions = _shop(3)
    body = {
        "context": {"shape": [2]}, "actions": {"features": "auto"},
        "training": {"mode": "lockstep"}, "seed": 4,
    }  # fmt: skip
    client = InProcessClient("shop", body, [f"o{n}" for n in range(6)], actions)
    rounds = 0
    for step in range(100):
        x = [float(step % 2), step / 100.0]
        client.select("shop", x, decision_id=f"d{step}")
        if client.reward(f"d{step}", float(step % 3)).train_due:
            client.train("shop")
            rounds += 1
    assert rounds
    policy = client.model.policy
    assert isinstance(policy, NeuralLinearTS)
    assert policy.scaling is not None
    assert policy.scaling.num_rows
    assert client.model.extreme_action() is None
    assert not client.model.reads_log(client.model.progress.num_learned)


def test_maps_of_numbers_refuse_named_features():
    spec = BanditSpec(policy="linear_ts", context=SPEC.context, encoder=EncoderSpec(name="concat"))
    with pytest.raises(ValueError, match="concat takes numbers alone"):
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
    """The share of the best kind in the last 150 of 450 decisions is far above chance, a third."""
    contexts, actions = _shop(3)
    body = {
        "context": {"features": "auto"}, "actions": {"features": "auto"},
        "training": {"mode": "lockstep"}, "seed": 4,
    }  # fmt: skip
    client = InProcessClient("shop", body, [f"o{n}" for n in range(6)], actions)
    won = []
    for step, context in enumerate(contexts[:450]):
        chosen = client.select("shop", context, decision_id=f"d{step}")
        reward = _pays(context, actions[int(chosen.action.id[1:])])
        won.append(reward)
        if client.reward(f"d{step}", reward).train_due:
            client.train("shop")
    assert np.mean(won[-150:]) > 0.75
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


def test_the_first_round_begins_with_widened_weights():
    """One step that hardly moves them: some are beyond the bound of the usual initial weights."""
    contexts, actions = _shop(3)
    body = {
        "context": {"features": "auto"}, "actions": {"features": "auto"}, "seed": 4,
        "encoder": {"name": "two_tower"},
        "training": {"mode": "lockstep", "optimizer_steps": 1, "lr": 1e-9},
    }  # fmt: skip
    client = InProcessClient("shop", body, [f"o{n}" for n in range(6)], actions)
    for step, context in enumerate(contexts[:32]):
        client.select("shop", context, decision_id=f"d{step}")
        client.reward(f"d{step}", float(step % 2))
    client.train("shop")
    policy = client.model.policy
    assert isinstance(policy, NeuralLinearTS)
    weights = policy.module.state_dict()["context_tower.0.weight"]
    assert float(weights.abs().max()) > 1.2 / weights.shape[1] ** 0.5
