"""Measures how long the event loop stands still while a model is swapped.

An engine runs in this process as in a server, on uvloop. A coroutine wakes up every millisecond;
by how much it is late is time in which no request would have been answered. A published snapshot is
swapped in again and again (load, apply the tail, assign). After each swap the same time passes
without one, so that the noise of the machine can be separated from the stall of a swap: the longest
stall of both is reported.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionId, DecisionId
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec, TrainingSpec
from benchmarks.report import Target, arguments, report
from service.observe.counters import Metrics
from service.serving import manage
from service.serving.engine import Engine
from service.serving.lifecycle import running
from service.serving.select.commands import SelectCommand
from service.settings import load_settings
from service.store.records import RewardReport

_TICK_S = 0.001
_ACTIONS, _DIM, _ROWS = 50, 16, 300
_MS = 1e3

TARGETS = {
    "mlp_swap_stall_ms": Target(5.0, 1.0, at_most=True),
    "resnet18_swap_stall_ms": Target(None, None, at_most=True),
}


class _Pulse:
    """Wakes up every millisecond and records the longest delay."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            self._longest_s = max(self._longest_s, time.perf_counter() - before - _TICK_S)

    def longest_ms(self) -> float:
        """Return the longest delay since the last call."""
        longest, self._longest_s = self._longest_s, 0.0
        return _MS * longest

    def close(self) -> None:
        self._task.cancel()


def _spec(encoder: str) -> BanditSpec:
    training = TrainingSpec(mode="lockstep", optimizer_steps=20)
    if encoder == "mlp":
        return BanditSpec(
            policy="neural_linear_ts", context=ContextSpec(shape=(_DIM,)), action_dim=_DIM,
            encoder=EncoderSpec(name="mlp"), training=training, seed=0,
        )  # fmt: skip
    return BanditSpec(
        policy="neural_linear_ts", context=ContextSpec(shape=(28, 28), dtype="uint8"),
        encoder=EncoderSpec(name=encoder, params={"weights": "none"}), training=training, seed=0,
    )  # fmt: skip


async def _learn(engine: Engine, spec: BanditSpec, rows: int) -> None:
    rng = np.random.default_rng(0)
    shape, dtype = spec.context.shape, spec.context.dtype
    for number in range(rows):
        context = (100 * rng.standard_normal(shape)).astype(dtype)
        own_id = DecisionId(f"d{number}")
        await engine.selecting.select(SelectCommand("b", context, None, None, own_id, 1, True, b""))
        await engine.rewards.reward(
            RewardReport(own_id, float(rng.random()), None, None, time.time())
        )


async def _measure(encoder: str, swaps: int, rows: int) -> dict[str, float]:
    """Return the longest stall of each swap (median, worst), and without a swap."""
    spec = _spec(encoder)
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(None, data_dir=Path(folder), durability="os")
        async with running(settings, Metrics(), EncoderRegistry()) as engine:
            bandit, _ = await manage.put_bandit(engine, "b", spec)
            features = np.random.default_rng(1).standard_normal((_ACTIONS, spec.action_dim))
            names = tuple(ActionId(f"a{n}") for n in range(_ACTIONS))
            enabled = np.ones(_ACTIONS, np.bool_)
            await manage.put_actions(
                engine, "b", names, features if spec.action_dim else None, enabled
            )
            await _learn(engine, spec, rows)
            event = await engine.rounds.train(bandit)
            swapping, resting, taken = [], [], []
            pulse = _Pulse()
            for _ in range(swaps):
                await asyncio.sleep(0.05)
                pulse.longest_ms()
                started = time.perf_counter()
                await engine.rounds.published(bandit.record.uid, event)
                took = time.perf_counter() - started
                await asyncio.sleep(0.02)  # freeing the old model counts, too
                swapping.append(pulse.longest_ms())
                await asyncio.sleep(took + 0.02)
                resting.append(pulse.longest_ms())
                taken.append(_MS * took)
            pulse.close()
    return {
        f"{encoder}_swap_stall_ms": statistics.median(swapping),
        f"{encoder}_swap_stall_worst_ms": max(swapping),
        f"{encoder}_rest_stall_ms": statistics.median(resting),
        f"{encoder}_rest_stall_worst_ms": max(resting),
        f"{encoder}_swap_ms": statistics.median(taken),
    }


def main(argv: Sequence[str]) -> int:
    """Measure both encoders; returns the exit status."""
    parser = arguments("swap", __doc__)
    parser.add_argument("--swaps", type=int, default=30)
    given = parser.parse_args(argv)
    results: dict[str, Any] = {}
    for encoder, rows in (("mlp", _ROWS), ("resnet18", 40)):
        results |= uvloop.run(_measure(encoder, given.swaps, rows))
    return report("swap", results, given.json, targets=TARGETS)
