"""Neural policies on standardised inputs: what is trained on is what is served."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bandexa_core.encoders import EncoderModule, EncoderRegistry
from bandexa_core.features.scaling import InputScaling
from bandexa_core.ids import BanditUid
from bandexa_core.policies import Candidates, NeuralLinearTS, make_policy
from bandexa_core.posterior import GaussianPosterior, PosteriorConfig, Statistics
from bandexa_core.replay import Rows
from bandexa_core.training.encoder_trainer import EncoderTrainer

NUM = 400
FAR = (np.array([1.0, 5.0, 1e-3, 40.0]), np.array([1e3, -1e3, 0.0, 1e3]))  # factors, offsets


class Recorder(EncoderModule):
    """Records its inputs during training."""

    def __init__(self) -> None:
        super().__init__()
        self.output_dim = 3
        self.layer = nn.Linear(8, 3)
        self.seen: list[NDArray[Any]] = []

    def forward(self, contexts: Tensor, actions: Tensor) -> Tensor:
        joined = torch.cat([contexts, actions], dim=1)
        if self.training:
            assert contexts.dtype == actions.dtype == torch.float32
            self.seen.append(joined.detach().numpy().copy())
        return torch.tanh(self.layer(joined))


def _far(rows: Rows) -> Rows:
    """Return the same rows with contexts in awkward units."""
    contexts = (rows.contexts.astype(np.float64) * FAR[0] + FAR[1]).astype(np.float32)
    return dataclasses.replace(rows, contexts=contexts)


def _recording() -> NeuralLinearTS:
    torch.manual_seed(0)
    return NeuralLinearTS(
        Recorder(), PosteriorConfig(), scaling=InputScaling.identity((4,), 4)
    )  # fmt: skip


def _features(policy: NeuralLinearTS, rows: Rows) -> NDArray[np.float64]:
    """Return the features by the module itself, fed with inputs standardised by hand."""
    x: NDArray[Any] = rows.contexts
    a: NDArray[Any] = rows.actions
    if (scaling := policy.scaling) is not None:
        if x.dtype != np.uint8:
            x = (x.astype(np.float64) - scaling.x.mean) / scaling.x.std
        a = (a.astype(np.float64) - scaling.a.mean) / scaling.a.std
    module = policy.module.double()
    with torch.no_grad():
        contexts = torch.from_numpy(x if x.dtype == np.uint8 else x.astype(np.float64))
        features = module(contexts, torch.from_numpy(a.astype(np.float64))).numpy()
    policy.module.float()
    return np.concatenate([features, np.ones((len(rows), 1))], axis=1)


def _error(policy: NeuralLinearTS, rows: Rows) -> float:
    """Mean squared error of the posterior mean, over the variance of the rewards."""
    z_ND = _features(policy, rows)
    error = np.mean((z_ND @ policy.posterior.mean - rows.rewards) ** 2)  # type: ignore[union-attr]
    return float(error / rows.rewards.var())


@pytest.fixture
def raw_neural(make_spec):
    """Return a policy that leaves inputs as they are."""

    def build(encoder: str) -> NeuralLinearTS:
        spec = make_spec(encoder)
        raw = dataclasses.replace(
            spec, encoder=dataclasses.replace(spec.encoder, standardize=False)
        )
        policy = make_policy(raw, BanditUid("b"), EncoderRegistry())
        assert isinstance(policy, NeuralLinearTS)
        return policy

    return build


# -- what training sees ---------------------------------------------------------------------------


def test_training_sees_standardised_inputs(make_rows, fill_replay, plan, candidates_of):
    rows, catalogue = _far(make_rows(NUM)), candidates_of(6).features * 9 - 4
    policy = _recording()
    policy.train(fill_replay(rows), {}, plan(num_rows=NUM, actions=catalogue))
    assert isinstance(policy.module, Recorder)
    seen = np.concatenate(policy.module.seen)
    raw = rows.contexts.astype(np.float64)
    x = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    a = (rows.actions - catalogue.mean(axis=0)) / catalogue.std(axis=0)
    expected = np.concatenate([x, a], axis=1)
    nearest = ((seen[:, None] - expected) ** 2).sum(axis=2).min(axis=1)
    assert nearest.max() < 1e-6
    np.testing.assert_allclose(seen[:, :4].mean(axis=0), 0.0, atol=0.2)
    np.testing.assert_allclose(seen[:, :4].std(axis=0), 1.0, atol=0.15)


@pytest.mark.parametrize("encoder", ["mlp", "two_tower"])
def test_what_is_served_are_the_features_trained_on(
    make_neural, make_rows, fill_replay, plan, candidates_of, encoder
):
    policy, rows = make_neural(encoder), _far(make_rows(NUM))
    policy.train(fill_replay(rows), {}, plan(num_rows=NUM))
    z_ND = _features(policy, rows)
    sums = Statistics(z_ND.shape[1])
    sums.add(z_ND, rows.rewards)
    expected = GaussianPosterior.from_statistics(sums, policy.config)
    np.testing.assert_allclose(policy.posterior.mean, expected.mean, rtol=1e-7, atol=1e-8)
    offered = candidates_of(5)
    cached = Candidates(offered.slots, offered.features, policy.action_parts(offered.features))
    for i in range(5):
        x = rows.contexts[i]
        pairs = Rows(
            np.arange(5), offered.slots, np.zeros(5), offered.features, np.repeat(x[None], 5, 0)
        )
        means = _features(policy, pairs) @ policy.posterior.mean
        for candidates in (offered, cached):
            np.testing.assert_allclose(policy.score(x, candidates)[0], means, atol=1e-9)


@pytest.mark.few(1)
@pytest.mark.parametrize("encoder", ["mlp", "two_tower"])
def test_the_units_of_the_contexts_hardly_matter_to_what_is_learned(
    make_neural, raw_neural, make_rows, fill_replay, plan, encoder
):
    """Means of 1e3 and a feature of 1e-3: without standardising, little is learned of them."""
    rows, unseen = make_rows(NUM), make_rows(200, seed=1)
    round_plan = plan(num_rows=NUM, steps=200)
    good, far, raw = make_neural(encoder), make_neural(encoder), raw_neural(encoder)
    good.train(fill_replay(rows), {}, round_plan)
    for policy in (far, raw):
        policy.train(fill_replay(_far(rows)), {}, round_plan)
    assert _error(good, unseen) < 0.5
    assert _error(far, _far(unseen)) < 1.1 * _error(good, unseen)
    assert _error(raw, _far(unseen)) > 1.5 * _error(far, _far(unseen))


def test_where_it_is_switched_off_training_sees_raw_inputs(make_rows, fill_replay, plan):
    torch.manual_seed(0)
    policy, rows = NeuralLinearTS(Recorder(), PosteriorConfig()), make_rows(NUM)
    policy.train(fill_replay(rows), {}, plan(num_rows=NUM))
    assert isinstance(policy.module, Recorder)
    raw = {row.tobytes() for row in np.concatenate([rows.contexts, rows.actions], axis=1)}
    assert {row.tobytes() for row in np.concatenate(policy.module.seen)} <= raw
    assert policy.scaling is None


# -- whose moments, and when ----------------------------------------------------------------------


def test_a_scaling_is_computed_at_doublings_and_constant_between(
    make_neural, make_rows, fill_replay, plan
):
    policy = make_neural("mlp")
    state: dict[str, Any] = {}
    kept = []
    for num in (7, 40, 72, 80, 159, 160):
        rows = make_rows(num)
        state, _ = policy.train(fill_replay(rows), state, plan(num_rows=num, steps=2))
        kept.append(policy.scaling.num_rows)
        if policy.scaling.num_rows == num:
            mean = rows.contexts.astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(policy.scaling.x.mean, mean, rtol=1e-9)
    assert kept == [0, 40, 40, 80, 80, 160]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_size_of_the_chunks_it_is_read_in_does_not_matter(
    make_neural, make_rows, fill_replay, plan, chunk
):
    policy, rows = make_neural("mlp"), _far(make_rows(100))
    policy.train(fill_replay(rows), {}, plan(num_rows=100, steps=1, rebuild_chunk=chunk))
    for found, inputs in (("x", rows.contexts), ("a", rows.actions)):
        wide = inputs.astype(np.float64)
        scale = getattr(policy.scaling, found)
        mean, std = scale.mean, scale.std
        np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(std, wide.std(axis=0), rtol=1e-9)


def test_rows_that_were_forgotten_in_part_weigh_that_much(
    make_neural, make_rows, fill_replay, plan
):
    policy, rows = make_neural("mlp"), make_rows(100)

    def weights(positions: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where(positions <= 60, 0.125, 1.0)

    policy.train(fill_replay(rows), {}, plan(num_rows=100, steps=1), weights)
    share = np.repeat([0.125, 1.0], [60, 40])
    mean = np.average(rows.contexts.astype(np.float64), axis=0, weights=share)
    np.testing.assert_allclose(policy.scaling.x.mean, mean, rtol=1e-9)


@pytest.mark.parametrize(("num", "by_catalogue"), [(0, False), (1, False), (2, True)])
def test_actions_are_standardised_by_the_catalogue_where_it_has_several(
    make_neural, make_rows, fill_replay, plan, candidates_of, num, by_catalogue
):
    policy, rows, actions = make_neural("mlp"), make_rows(100), candidates_of(num).features
    policy.train(fill_replay(rows), {}, plan(num_rows=100, steps=1, actions=actions))
    expected = actions if by_catalogue else rows.actions
    np.testing.assert_allclose(policy.scaling.a.mean, expected.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_actions_without_features_have_nothing_to_standardize(
    make_neural, make_rows, fill_replay, plan
):
    policy = make_neural("mlp", action_dim=0, params={"heads": "per_action"})
    rows = make_rows(100, action_dim=0)
    actions = np.zeros((4, 0), np.float32)
    policy.train(fill_replay(rows), {}, plan(num_rows=100, steps=1, actions=actions, num_heads=4))
    assert policy.scaling.num_rows == 100
    means, _ = policy.score(rows.contexts[0], Candidates(np.arange(4), actions))
    assert np.isfinite(means).all()


def test_bytes_stay_as_they_are_while_actions_are_scaled(make_neural, make_rows, fill_replay, plan):
    policy, rows = make_neural("mlp", dtype="uint8"), make_rows(100, dtype="uint8")
    policy.train(fill_replay(rows), {}, plan(num_rows=100, steps=5))
    assert np.array_equal(policy.scaling.x.std, np.ones(4))
    assert not np.allclose(policy.scaling.a.std, 1.0)
    x, offered = rows.contexts[0], Candidates(rows.slots[:3], rows.actions[:3])
    pairs = Rows(
        rows.positions[:3], rows.slots[:3], np.zeros(3), offered.features, np.repeat(x[None], 3, 0)
    )
    means = _features(policy, pairs) @ policy.posterior.mean
    np.testing.assert_allclose(policy.score(x, offered)[0], means, atol=1e-9)


@pytest.mark.parametrize("heads", ["per_action", "fused"])
def test_an_encoder_of_images_gets_them_as_they_are(make_neural, heads):
    policy = make_neural("conv", shape=(6, 6), params={"heads": heads})
    assert policy.scaling is None


# -- snapshots ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["mlp", "two_tower"])
def test_two_rounds_equal_save_load_and_the_second_round(
    make_neural, make_rows, fill_replay, plan, learn_all, assert_same, encoder
):
    """The scaling of a snapshot is used until the next doubling, and then recomputed."""
    early, late = _far(make_rows(50)), _far(make_rows(110, seed=2))
    policy, loaded = make_neural(encoder), make_neural(encoder)
    state, _ = policy.train(fill_replay(early), {}, plan(num_rows=50))
    assert policy.tensors()["scaling/num_rows"] == 50
    loaded.load_tensors(policy.tensors())
    for num_rows in (90, 110):
        round_plan = plan(num_rows=num_rows, seed=num_rows)
        first, _ = policy.train(fill_replay(late), state, round_plan)
        second, _ = loaded.train(fill_replay(late), state, round_plan)
        assert_same(second, first)
        assert_same(loaded.tensors(), policy.tensors())
        state = first
    assert loaded.scaling.num_rows == 110
    for each in (policy, loaded):
        learn_all(each, early)
    assert_same(loaded.tensors(), policy.tensors())


# -- rewards and learning rate --------------------------------------------------------------------


def test_rewards_are_trained_on_in_units_of_their_range(
    make_neural, make_rows, fill_replay, plan, assert_same
):
    """In 1024ths, exactly, so that dividing by the range undoes it bit for bit."""
    rows = make_rows(100)
    large = dataclasses.replace(rows, rewards=rows.rewards * 1024.0)
    one, other = make_neural("mlp"), make_neural("mlp")
    first, _ = one.train(fill_replay(rows), {}, plan(num_rows=100))
    second, _ = other.train(fill_replay(large), {}, plan(num_rows=100, reward_scale=1024.0))
    assert_same(second, first)
    for name, tensor in one.tensors().items():
        if not name.startswith("posterior/"):
            assert np.array_equal(other.tensors()[name], tensor), name
    np.testing.assert_allclose(other.posterior.mean, 1024.0 * one.posterior.mean, rtol=1e-6)


def test_the_learning_rate_falls_within_a_round_and_restarts_in_the_next(
    make_neural, make_rows, fill_replay, plan
):
    module, replay = make_neural("mlp").module, fill_replay(make_rows(50))
    state: dict[str, Any] = {}
    for _ in range(2):
        trainer = EncoderTrainer(module, plan(steps=10, lr=2.0))
        trainer.load_tensors(state)
        rates: list[float] = []
        trainer.optimizer.register_step_pre_hook(
            lambda optimizer, *_, rates=rates: rates.append(optimizer.param_groups[0]["lr"])
        )
        trainer.run(replay)
        np.testing.assert_allclose(rates, [2.0 - 0.18 * step for step in range(10)], rtol=1e-12)
        state = trainer.tensors()
