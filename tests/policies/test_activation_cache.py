"""Training through cached frozen activations: the same to half precision, computed once a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bandexa_core.encoders.torch.module import PrefixModule
from bandexa_core.replay import MemoryReplay, RowLayout, Rows
from bandexa_core.replay.activations import ActivationCache
from bandexa_core.training.encoder_trainer import EncoderTrainer
from bandexa_core.training.plan import TrainingRound


class Prefixed(PrefixModule):
    """A frozen layer below one that is trained; counts the rows that pass the frozen one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.output_dim = 4
        self.frozen = torch.nn.Linear(6, 8).requires_grad_(False)
        self.rest = torch.nn.Linear(8, 4)
        self.rows_frozen = 0

    @torch.no_grad()
    def frozen_activations(self, contexts: Tensor) -> Tensor:
        self.rows_frozen += len(contexts)
        out: Tensor = torch.tanh(self.frozen(contexts))
        return out

    def frozen_key(self) -> str:
        return "this"

    def context_part_from(self, activations: Tensor) -> Tensor:
        out: Tensor = self.rest(activations)
        return out

    def action_part(self, actions: Tensor) -> Tensor:
        return actions.new_zeros((len(actions), 0))

    def combine(self, context_parts: Tensor, action_parts: Tensor) -> Tensor:
        return torch.tanh(context_parts.expand(len(action_parts), -1))


PLAN = TrainingRound(
    num_rows=50, actions=np.zeros((0, 0), np.float32), steps=40, batch_size=16, lr=1e-2,
    weight_decay=0.0, rebuild_chunk=16, reward_scale=1.0, seed=5, num_heads=1,
)  # fmt: skip


@pytest.fixture
def replay():
    rng = np.random.default_rng(1)
    contexts = rng.standard_normal((50, 6)).astype(np.float32)
    replay = MemoryReplay(RowLayout((6,), "float32", 0))
    replay.append(
        Rows(
            np.arange(50), np.zeros(50, np.int64), contexts[:, 0].astype(np.float64),
            np.zeros((50, 0), np.float32), contexts,
        )
    )  # fmt: skip
    return replay


def test_cached_activations_train_the_same_to_half_precision(replay, tmp_path):
    plain, cached = Prefixed(), Prefixed()
    cache = ActivationCache(tmp_path / "activations", 1 << 20)
    before = EncoderTrainer(plain, PLAN).run(replay)
    after = EncoderTrainer(cached, PLAN).run(replay, activations=cache)
    assert after["loss_after"] == pytest.approx(before["loss_after"], rel=1e-2)
    assert after["loss_after"] < 0.9 * after["loss_before"]
    torch.testing.assert_close(cached.rest.weight, plain.rest.weight, rtol=0.0, atol=5e-3)
    assert plain.rows_frozen == 40 * 16
    assert cached.rows_frozen == len(cache) <= 50
    cache.close()


def test_a_second_round_passes_nothing_through_the_frozen_part_again(replay, tmp_path):
    module = Prefixed()
    cache = ActivationCache(tmp_path / "activations", 1 << 20)
    EncoderTrainer(module, PLAN).run(replay, activations=cache)
    known = module.rows_frozen
    EncoderTrainer(module, PLAN).run(replay, activations=cache)
    assert module.rows_frozen == known
    cache.close()


def test_the_numbers_do_not_depend_on_what_the_cache_could_keep(replay, tmp_path):
    weights = []
    for limit in (1 << 20, 16 * 7, 0):
        module = Prefixed()
        cache = ActivationCache(tmp_path / "activations", limit)
        EncoderTrainer(module, PLAN).run(replay, activations=cache)
        weights.append(module.rest.weight.detach().clone())
        cache.close()
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=0.0, atol=1e-4)
