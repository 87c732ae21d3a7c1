"""A training round: what it moves, that it repeats bit for bit, and its state between rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bandexa_core.encoders import EncoderModule
from bandexa_core.encoders.torch.module import module_tensors
from bandexa_core.policies import NeuralLinearTS
from bandexa_core.posterior import GaussianPosterior, PosteriorConfig
from bandexa_core.replay import DiskReplay, RowLayout, Rows
from bandexa_core.training.encoder_trainer import EncoderTrainer, RewardHead

WAYS: dict[str, dict[str, Any]] = {
    "mlp": {"encoder": "mlp"},
    "mlp per action": {"encoder": "mlp", "params": {"heads": "per_action"}},
    "two_tower": {"encoder": "two_tower"},
    "conv per action": {"encoder": "conv", "shape": (4, 4), "dtype": "uint8"},
    "conv fused": {"encoder": "conv", "shape": (4, 4), "params": {"heads": "fused"}},
}


class Noisy(EncoderModule):
    """A user's encoder with dropout and batch statistics: it behaves otherwise when it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.output_dim = 8
        self.linear = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.3)
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)

    def forward(self, contexts: Tensor, actions: Tensor) -> Tensor:
        hidden = self.norm(self.linear(torch.cat([contexts, actions], dim=1)))
        features: Tensor = self.dropout(torch.tanh(hidden)) * self.frozen
        return features


@pytest.fixture(params=WAYS)
def way(request) -> dict[str, Any]:
    return WAYS[request.param]


@pytest.fixture
def build(make_neural):
    return lambda way: make_neural(**way)


@pytest.fixture
def rows_for(make_rows):
    """Return rows in the shape that a way's contexts have."""

    def rows(way, num, **options):
        shape, dtype = way.get("shape", (4,)), way.get("dtype", "float32")
        return make_rows(num, shape=shape, dtype=dtype, **options)

    return rows


@pytest.fixture
def heads_of():
    return lambda policy, num=4: 1 if policy.encoder.uses_action else num


def _noisy() -> NeuralLinearTS:
    torch.manual_seed(0)
    return NeuralLinearTS(Noisy(), PosteriorConfig())


def _error(policy, rows) -> float:
    """Mean squared error of the posterior mean."""
    z_ND = policy.encoder.encode(rows.contexts, rows.actions)
    return float(np.mean((z_ND @ policy.posterior.mean - rows.rewards) ** 2))


def _bright_quadrants(rows: Rows) -> Rows:
    """Images with one quadrant lit; the reward is 1 where the slot is its number."""
    rng, top = np.random.default_rng(4), 255 if rows.contexts.dtype == np.uint8 else 1
    lit = rng.integers(0, 4, len(rows))
    images = np.zeros((len(rows), 2, 2, 2, 2))  # quadrant row, row in it, and the same for columns
    images[np.arange(len(rows)), lit // 2, :, lit % 2, :] = top
    contexts = images.reshape(-1, 4, 4).astype(rows.contexts.dtype)
    rewards = (rows.slots == lit).astype(np.float64)
    return Rows(rows.positions, rows.slots, rewards, rows.actions, contexts)


def test_the_loss_falls_on_a_problem_that_can_be_learned(
    way, build, rows_for, fill_replay, plan, heads_of
):
    policy, rows = build(way), rows_for(way, 400)
    replay = fill_replay(_bright_quadrants(rows) if way["encoder"] == "conv" else rows)
    round_plan = plan(steps=240, lr=3e-2, num_heads=heads_of(policy))
    _, metrics = policy.train(replay, {}, round_plan)
    assert metrics["loss_after"] < 0.7 * metrics["loss_before"]
    assert metrics["optimizer_steps"] == 240
    assert metrics["rows"] == 400


@pytest.mark.parametrize("encoder", ["mlp", "two_tower"])
def test_trained_features_explain_new_rows_better(
    make_neural, make_rows, fill_replay, plan, encoder
):
    policy, replay = make_neural(encoder), fill_replay(make_rows(600))
    unseen = make_rows(300, seed=1)
    policy.rebuild(replay, 256)
    before = _error(policy, unseen)
    policy.train(replay, {}, plan(steps=150))
    assert _error(policy, unseen) < 0.7 * before


def test_the_encoder_learns_through_its_own_head_not_through_the_posterior(
    way, build, rows_for, fill_replay, learn_all, plan, heads_of, assert_same
):
    """Whatever the posterior has learned, the same replay trains the same encoder."""
    fresh, learned = build(way), build(way)
    learn_all(learned, rows_for(way, 30, seed=8))
    replay = fill_replay(rows_for(way, 50))
    round_plan = plan(num_heads=heads_of(fresh), since=50)  # no row is new, so none is a test
    first, _ = fresh.train(replay, {}, round_plan)
    second, _ = learned.train(replay, {}, round_plan)
    assert_same(second, first)
    assert_same(learned.tensors(), fresh.tensors())


def test_after_a_round_the_posterior_is_that_of_the_trained_features(
    way, build, rows_for, fill_replay, plan, heads_of, assert_same
):
    policy, rows = build(way), rows_for(way, 50)
    before = policy.encoder
    z_before = before.encode(rows.contexts, rows.actions)
    policy.train(fill_replay(rows), {}, plan(num_heads=heads_of(policy)))
    z_ND = policy.encoder.encode(rows.contexts, rows.actions)
    assert not np.allclose(z_ND, z_before)
    assert np.array_equal(before.encode(rows.contexts, rows.actions), z_before)
    assert policy.posterior.num_rows == 50
    trained = policy.posterior.copy()
    policy.rebuild(fill_replay(rows), 64)
    assert_same(trained.to_tensors(), policy.posterior.to_tensors())
    if isinstance(policy.posterior, GaussianPosterior):
        np.testing.assert_allclose(trained.statistics().zz, z_ND.T @ z_ND, rtol=1e-9, atol=1e-9)


@pytest.mark.few(2)
def test_two_rounds_equal_save_load_and_the_second_round(
    way, build, rows_for, fill_replay, plan, heads_of, assert_same
):
    whole, saved, loaded = build(way), build(way), build(way)
    first_rows, rows = rows_for(way, 40), rows_for(way, 70)
    heads = heads_of(whole)
    for policy in (whole, saved):
        state, _ = policy.train(fill_replay(first_rows), {}, plan(seed=1, num_heads=heads))
    before = {name: tensor.copy() for name, tensor in state.items()}
    loaded.load_tensors({name: tensor.copy() for name, tensor in saved.tensors().items()})
    second = plan(seed=2, num_heads=heads)
    expected, metrics = whole.train(fill_replay(rows), state, second)
    found, again = loaded.train(fill_replay(rows), before, second)
    assert_same(found, expected)
    assert_same(loaded.tensors(), whole.tensors())
    assert again == metrics


def test_a_round_goes_on_where_the_state_says(make_neural, make_rows, fill_replay, plan):
    """Step counts and moments carry over; without the state a round restarts them."""
    policy, replay = make_neural("mlp"), fill_replay(make_rows(60))
    state, _ = policy.train(replay, {}, plan(steps=7))
    assert all(state[name] == 7 for name in state if name.startswith("optimizer/step/"))
    assert {f"optimizer/exp_avg/{p}" for p in ("head/weight", "head/bias")} <= state.keys()
    state, _ = policy.train(replay, state, plan(steps=5))
    assert all(state[name] == 12 for name in state if name.startswith("optimizer/step/"))
    assert any(name.startswith("optimizer/exp_avg_sq/encoder/") for name in state)


def test_what_a_round_returns_is_not_changed_by_the_next(make_neural, make_rows, fill_replay, plan):
    policy, replay = make_neural("mlp"), fill_replay(make_rows(60))
    state, _ = policy.train(replay, {}, plan())
    before = {name: tensor.copy() for name, tensor in state.items()}
    policy.train(replay, state, plan(seed=9))
    assert all(np.array_equal(state[name], before[name]) for name in before)


def test_another_seed_trains_on_other_batches(make_neural, make_rows, fill_replay, plan):
    replay, trained = fill_replay(make_rows(60)), []
    for seed in (1, 2):
        policy = make_neural("mlp")
        policy.train(replay, {}, plan(seed=seed))
        trained.append(policy.tensors()["encoder/first.weight"])
    assert not np.array_equal(*trained)


def test_a_module_trains_in_training_mode_and_serves_in_eval_mode(
    make_rows, fill_replay, plan, assert_same
):
    policy, rows = _noisy(), make_rows(60)
    policy.train(fill_replay(rows), {}, plan(steps=11))
    assert not policy.module.training
    tensors = module_tensors(policy.module)
    assert tensors["norm.num_batches_tracked"] == 11
    assert tensors["norm.running_mean"].any()
    z = policy.encoder.encode(rows.contexts, rows.actions)
    assert np.array_equal(policy.encoder.encode(rows.contexts, rows.actions), z)
    policy.rebuild(fill_replay(rows), 16)
    assert_same(module_tensors(policy.module), tensors)
    assert (tensors["frozen"] == 1).all()


def test_dropout_too_repeats_with_the_seed_and_leaves_the_global_generator_alone(
    make_rows, fill_replay, plan, assert_same
):
    """A round is a function of the snapshot and the log, an operator's own encoder's too."""
    replay, trained = fill_replay(make_rows(60)), []
    for global_seed in (1, 2):
        policy = _noisy()
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        policy.train(replay, {}, plan(seed=3))
        assert torch.equal(torch.get_rng_state(), before)
        trained.append(policy.tensors())
    assert_same(trained[1], trained[0])


def test_a_module_with_buffers_resumes_bit_for_bit(make_rows, fill_replay, plan, assert_same):
    whole, loaded, replay = _noisy(), _noisy(), fill_replay(make_rows(60))
    state, _ = whole.train(replay, {}, plan(seed=1))
    loaded.load_tensors({name: tensor.copy() for name, tensor in whole.tensors().items()})
    expected, _ = whole.train(replay, state, plan(seed=2))
    found, _ = loaded.train(replay, state, plan(seed=2))
    assert_same(found, expected)
    assert_same(loaded.tensors(), whole.tensors())


def test_a_round_from_disk_is_a_round_from_memory_bit_for_bit(
    tmp_path, make_neural, make_rows, fill_replay, plan, assert_same
):
    """The rows on disk are read ahead; that changes neither which come nor in what order."""
    rows, states = make_rows(60), []
    layout = RowLayout((4,), "float32", 4)
    with DiskReplay(tmp_path / "replay", layout, shard_size=7) as disk:
        disk.append(rows)
        for replay in (disk, fill_replay(rows)):
            policy = make_neural("mlp")
            state, _ = policy.train(replay, {}, plan(), lambda positions: positions / 60)
            states.append(state | policy.tensors())
    assert_same(*states)


def test_heads_of_new_actions_start_fresh_and_the_others_go_on(
    make_neural, make_rows, fill_replay, plan
):
    policy = make_neural("mlp", params={"heads": "per_action"})
    state, _ = policy.train(fill_replay(make_rows(60, num_slots=2)), {}, plan(num_heads=2))
    assert state["head/weight"].shape == (2, 6)
    grown = EncoderTrainer(policy.module, plan(num_heads=5, seed=11))
    grown.load_tensors(state)
    fresh = RewardHead(6, 5, 11)
    found = grown.tensors()
    assert np.array_equal(found["head/weight"][:2], state["head/weight"])
    assert np.array_equal(found["head/bias"][:2], state["head/bias"])
    assert np.array_equal(found["head/weight"][2:], fresh.weight.detach().numpy()[2:])
    assert not found["head/bias"][2:].any()
    for moment in ("exp_avg", "exp_avg_sq"):
        name = f"optimizer/{moment}/head/weight"
        assert np.array_equal(found[name][:2], state[name])
        assert not found[name][2:].any()
    after, _ = policy.train(
        fill_replay(make_rows(60, num_slots=5)), state, plan(num_heads=5, seed=11)
    )
    assert after["head/weight"].shape == (5, 6)
    assert policy.posterior.slots == (0, 1, 2, 3, 4)


def test_each_head_predicts_its_own_action():
    head = RewardHead(2, 3, 0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]))
        head.bias.copy_(torch.tensor([0.0, 10.0, 20.0]))
    features = torch.tensor([[3.0, 5.0]] * 3)
    assert head(features, torch.tensor([0, 1, 2])).tolist() == [3, 15, 36]
    shared = RewardHead(2, 1, 0)
    with torch.no_grad():
        shared.weight.copy_(torch.tensor([[1.0, 2.0]]))
        shared.bias.fill_(0.5)
    assert shared(features[:2], torch.tensor([4, -1])).tolist() == [13.5, 13.5]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("head/weight", (1, 7)),
        ("head/weight", (2, 6)),
        ("head/bias", ()),
        ("optimizer/exp_avg/encoder/first.weight", (3, 3)),
        ("optimizer/step/head/bias", (1,)),
    ],
)
def test_state_that_does_not_fit_is_refused(make_neural, make_rows, fill_replay, plan, name, shape):
    policy, replay = make_neural("mlp"), fill_replay(make_rows(40))
    state, _ = policy.train(replay, {}, plan(steps=2))
    assert name in state
    with pytest.raises(ValueError, match=r"^training state: .*has shape"):
        policy.train(replay, state | {name: np.zeros(shape, np.float32)}, plan(steps=2))


def test_an_absurd_row_does_not_ruin_the_encoder(make_neural, make_rows, fill_replay, plan):
    """Its batches overflow in float32 and are passed over."""
    policy, rows = make_neural("mlp", dtype="float64"), make_rows(40, dtype="float64")
    rows.contexts[3] = 1e300
    before = policy.tensors()["encoder/first.weight"]
    _, metrics = policy.train(fill_replay(rows), {}, plan(steps=20, batch_size=8))
    after = policy.tensors()
    assert all(np.isfinite(tensor).all() for tensor in after.values())
    assert not np.array_equal(after["encoder/first.weight"], before)
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_learning_rate_falls_to_a_tenth_within_each_round(
    make_neural, make_rows, fill_replay, plan
):
    policy, replay = make_neural("mlp"), fill_replay(make_rows(60))
    for _ in range(2):
        trainer = EncoderTrainer(policy.module, plan(steps=10, lr=0.5))
        trainer.run(replay)
        last_step = 0.5 * (1.0 - 0.9 * 9 / 10)
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(last_step, rel=1e-12)
    constant, falling = (make_neural("mlp") for _ in range(2))
    for _ in range(10):  # rounds of one step never come to a lower rate
        EncoderTrainer(constant.module, plan(steps=1)).run(replay)
    EncoderTrainer(falling.module, plan(steps=10)).run(replay)
    one, other = module_tensors(constant.module), module_tensors(falling.module)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_rewards_and_their_range_in_other_units_train_the_same_encoder(
    make_neural, make_rows, fill_replay, plan
):
    rows = make_rows(60)
    larger = Rows(rows.positions, rows.slots, 8.0 * rows.rewards, rows.actions, rows.contexts)
    trained = []
    for given, scale in ((rows, 1.0), (larger, 8.0)):  # a power of two changes no digit
        policy = make_neural("mlp")
        EncoderTrainer(policy.module, plan(reward_scale=scale)).run(fill_replay(given))
        trained.append(module_tensors(policy.module))
    for name, tensor in trained[0].items():
        assert np.array_equal(tensor, trained[1][name]), name
