"""Policies as the service builds them, candidates without a catalogue, rows for a replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import BanditUid
from bandexa_core.policies import Candidates, LinearHead, NeuralLinearTS, make_policy
from bandexa_core.randomness import keyed_rng
from bandexa_core.replay import MemoryReplay, RowLayout, Rows
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec, PosteriorSpec, SelectionSpec
from bandexa_core.training.plan import TrainingRound

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"feature_dim": 6, "hidden": [12]},
    "two_tower": {"tower_dim": 3, "hidden": [8]},
    "conv": {"feature_dim": 6, "channels": [3], "hidden": 8},
}


def _make_spec(
    encoder: str = "concat",
    *,
    policy: str | None = None,
    shape: tuple[int, ...] = (4,),
    action_dim: int = 4,
    dtype: str = "float32",
    params: dict[str, Any] | None = None,
    posterior: dict[str, Any] | None = None,
    selection: dict[str, Any] | None = None,
    **more: Any,
) -> BanditSpec:
    name: Any = policy or ("neural_linear_ts" if encoder in SMALL else "linear_ts")
    kind: Any = dtype
    return BanditSpec(
        policy=name,
        context=ContextSpec(shape=shape, dtype=kind),
        action_dim=action_dim,
        encoder=EncoderSpec(name=encoder, params=SMALL.get(encoder, {}) | (params or {})),
        posterior=PosteriorSpec(**{"prior_mean": 0.0} | (posterior or {})),
        selection=SelectionSpec(**{"posterior_scale": 1.0} | (selection or {})),
        **{"reward_range": (0.0, 1.0)} | more,
    )


def _make(encoder: str = "concat", **options: Any) -> LinearHead:
    policy = make_policy(_make_spec(encoder, **options), BanditUid("b"), EncoderRegistry())
    assert isinstance(policy, LinearHead)
    return policy


def _make_neural(encoder: str = "mlp", **options: Any) -> NeuralLinearTS:
    policy = _make(encoder, **options)
    assert isinstance(policy, NeuralLinearTS)
    return policy


def _candidates(num: int, action_dim: int = 4, seed: int = 7) -> Candidates:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num, action_dim)).astype(np.float32)
    return Candidates(np.arange(num), features)


def _decision_rng(number: int) -> np.random.Generator:
    return keyed_rng(BanditUid("b"), 0, "decision", f"d-{number}")


def _make_rows(
    num: int,
    *,
    seed: int = 0,
    num_slots: int = 4,
    shape: tuple[int, ...] = (4,),
    action_dim: int = 4,
    dtype: str = "float32",
) -> Rows:
    """Return rows whose reward is a smooth function of context and action, with little noise.

    Slot k's action features are the k-th row of one fixed matrix.
    """
    rng = np.random.default_rng(seed)
    table = np.random.default_rng(99).normal(size=(num_slots, action_dim)).astype(np.float32)
    slots = rng.integers(0, num_slots, num)
    size = int(np.prod(shape))
    if dtype == "uint8":
        contexts: NDArray[Any] = rng.integers(0, 256, (num, *shape), np.uint8)
        x = contexts.reshape(num, size) / 127.5 - 1.0
    else:
        contexts = rng.normal(size=(num, *shape)).astype(dtype)
        x = contexts.reshape(num, size).astype(np.float64)
    mixing = np.random.default_rng(98).normal(size=(size, num_slots)) / np.sqrt(size)
    rewards = np.tanh((x @ mixing)[np.arange(num), slots]) + 0.05 * rng.normal(size=num)
    return Rows(np.arange(1, num + 1), slots, rewards, table[slots], contexts)


def _fill_replay(rows: Rows) -> MemoryReplay:
    dtype: Any = rows.contexts.dtype.name
    layout = RowLayout(rows.contexts.shape[1:], dtype, rows.actions.shape[1])
    replay = MemoryReplay(layout)
    replay.append(rows)
    return replay


def _learn_all(policy: LinearHead, rows: Rows) -> None:
    for i in range(len(rows)):
        policy.learn(rows.contexts[i], rows.actions[i], rows.slots[i], None, float(rows.rewards[i]))


def _plan(**changes: Any) -> TrainingRound:
    values: dict[str, Any] = {
        "num_rows": 0,
        "actions": np.zeros((0, 4), np.float32),
        "steps": 30,
        "batch_size": 32,
        "lr": 1e-2,
        "weight_decay": 1e-2,
        "rebuild_chunk": 64,
        "reward_scale": 1.0,
        "seed": 5,
        "num_heads": 1,
    }
    return TrainingRound(**values | changes)


def _assert_same(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(found[name], tensor), name


@pytest.fixture(scope="session")
def make_spec():
    return _make_spec


@pytest.fixture(scope="session")
def make():
    return _make


@pytest.fixture(scope="session")
def make_neural():
    return _make_neural


@pytest.fixture(scope="session")
def candidates_of():
    return _candidates


@pytest.fixture(scope="session")
def decision_rng():
    return _decision_rng


@pytest.fixture(scope="session")
def make_rows():
    return _make_rows


@pytest.fixture(scope="session")
def fill_replay():
    return _fill_replay


@pytest.fixture(scope="session")
def learn_all():
    return _learn_all


@pytest.fixture(scope="session")
def plan():
    return _plan


@pytest.fixture(scope="session")
def assert_same():
    return _assert_same


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small products gain nothing from threads, and lose much on a machine that is shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
