"""A bandit whose model has learned rows that its log has lost: it is built anew, and counted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionId
from bandexa_core.spec import BanditSpec, ContextSpec
from service.observe.counters import Metrics
from service.serving import manage
from service.serving.engine import Engine
from service.serving.lifecycle import running
from service.settings import Settings
from tests.fixtures.waiting import until

SPEC = BanditSpec(policy="linear_ts", context=ContextSpec(shape=(3,)), action_dim=2)


def test_a_model_of_another_branch_is_built_anew_and_counted(tmp_path: Path) -> None:
    async def scene() -> None:
        metrics = Metrics()
        settings = Settings(data_dir=tmp_path / "data", durability="os")
        async with running(settings, metrics, EncoderRegistry()) as engine:
            made, _ = await manage.put_bandit(engine, "b", SPEC)
            await add_action(engine, "first")
            made.model.log_hash = b"of another branch"
            await add_action(engine, "second")
            await until(lambda: metrics.recoveries.value == 1, "the recovery")
            assert made.applier.failure is None
            assert made.model.position == 2
            assert metrics.diverged.value == 1

    asyncio.run(asyncio.wait_for(scene(), 60))


async def add_action(engine: Engine, name: str) -> None:
    """Add a row to the log."""
    await manage.put_actions(engine, "b", (ActionId(name),), [[1, 1]], np.ones(1, np.bool_))
