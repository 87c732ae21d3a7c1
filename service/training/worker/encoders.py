"""Train one encoder: the part of a round that needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from bandexa_core.encoders.torch.module import PrefixModule
from bandexa_core.model import ServingModel, plan_round
from bandexa_core.policies.neural_linear_ts import NeuralLinearTS
from bandexa_core.replay import ExtendedReplay, Replay
from bandexa_core.replay.activations import ActivationCache
from bandexa_core.training.ranks import Ranks
from service.training.worker.device import device_of
from service.training.worker.heartbeat import Heartbeats


def train(
    model: ServingModel,
    rows: Replay | ExtendedReplay,
    training: dict[str, NDArray[Any]],
    num_learned: int,
    device: str,
    *,
    cache: Callable[[], ActivationCache | None],
    beats: Heartbeats,
    ranks: Ranks,
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """Train the encoder of `model` for one round and rebuild its posterior.

    Args:
        model: The model whose encoder is trained, in place.
        rows: The rewarded decisions.
        training: Head and optimizer state of the round before.
        num_learned: Learned values so far.
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        cache: Returns the cache of frozen activations, where the bandit has one.
        beats: Reports how far the round is.
        ranks: The processes that share the round.

    Returns:
        Head and optimizer state for the next round, and the round's metrics.
    """
    policy = model.policy
    assert isinstance(policy, NeuralLinearTS), "only a learned encoder is trained"
    replay = rows.replay if isinstance(rows, ExtendedReplay) else rows
    beats.set_replay(len(rows), replay.num_bytes)
    weights = model.row_weights
    evicted: dict[str, float] = {}
    if isinstance(rows, ExtendedReplay):
        weights = rows.weights(weights)
        evicted = rows.counts()
    activations = cache() if isinstance(policy.module, PrefixModule) else None
    plan = plan_round(model, num_learned, device_of(ranks, device))
    state, metrics = policy.train(rows, training, plan, weights, activations, beats, ranks)
    return state, metrics | evicted
