"""A bandit that is deleted while its new snapshot is loaded: the rounds of all others go on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionId
from bandexa_core.spec import BanditSpec, ContextSpec
from service.observe.counters import Metrics
from service.serving import manage
from service.serving.engine import Engine
from service.serving.lifecycle import running
from service.serving.swap import ROWS_ON_LOOP, Swapper
from service.settings import Settings
from service.training.errors import BanditGone
from tests.fixtures.waiting import until

SPEC = BanditSpec(policy="linear_ts", context=ContextSpec(shape=(2,)), action_dim=2)


def test_rounds_go_on_after_a_bandit_is_deleted_in_the_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, may_go_on = threading.Event(), threading.Event()
    load = Swapper._load

    def slow(self: Swapper, *arguments: Any) -> Any:
        model = load(self, *arguments)
        loaded.set()
        assert may_go_on.wait(30)
        return model

    monkeypatch.setattr(Swapper, "_load", slow)

    async def scene() -> None:
        settings = Settings(data_dir=tmp_path / "data", durability="os")
        async with running(settings, Metrics(), EncoderRegistry()) as engine:
            try:
                for name in ("deleted", "other"):
                    await manage.put_bandit(engine, name, SPEC)
                    await add_actions(engine, name, 1)
                training = asyncio.create_task(engine.rounds.train(engine.bandit("deleted")))
                await until(loaded.is_set, "a snapshot that is loaded")
                await add_actions(engine, "deleted", 2 * ROWS_ON_LOOP)
                await manage.delete_bandit(engine, "deleted")
            finally:
                may_go_on.set()
            with pytest.raises(BanditGone):
                await training
            assert (await engine.rounds.train(engine.bandit("other"))).version == 1

    asyncio.run(asyncio.wait_for(scene(), 60))


async def add_actions(engine: Engine, name: str, num_rows: int) -> None:
    """Add a row to the log per action."""
    for number in range(num_rows):
        ids = (ActionId(f"{number}"),)
        await manage.put_actions(engine, name, ids, [[number, 1]], np.ones(1, np.bool_))
