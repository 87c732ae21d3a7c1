"""While the disk takes no writes, the log says once that reward windows are not closed."""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any

import pytest

import service.serving.rewards
from bandexa_core.encoders import EncoderRegistry
from service.observe.counters import Metrics
from service.serving.engine import Engine
from service.serving.lifecycle import running
from service.settings import Settings
from tests.fixtures.waiting import until

MESSAGE = "reward windows cannot be closed"


def test_an_outage_is_reported_once_and_the_next_one_again(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(service.serving.rewards, "WINDOWS_CHECKED_S", 0.01)
    caplog.set_level(logging.WARNING)
    asyncio.run(two_outages(Settings(data_dir=tmp_path / "data", durability="os"), caplog))


async def two_outages(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with running(settings, Metrics(), EncoderRegistry()) as engine:
        checks = counted(engine)
        for number in (1, 2):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
            engine.store.sync(lambda result, error: None)  # writes, where a check may not
            await until(lambda: engine.failure() is not None, "an outage")
            await more(checks, 20)
            reported = [record for record in caplog.records if MESSAGE in record.message]
            assert len(reported) == number
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            await until(lambda: engine.failure() is None, "the end of the outage")
            await more(checks, 2)


def counted(engine: Engine) -> list[None]:
    """Have every check of the windows counted."""
    checks: list[None] = []
    check = engine.store.due_windows

    def counting(*arguments: Any) -> None:
        checks.append(None)
        check(*arguments)

    engine.store.due_windows = counting  # type: ignore[method-assign,assignment]
    return checks


async def more(checks: list[None], num: int) -> None:
    wanted = len(checks) + num
    await until(lambda: len(checks) >= wanted, f"{num} checks")
