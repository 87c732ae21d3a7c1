"""A server that stops while threads still read its database: each read ends before its close."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from bandexa_core.encoders import EncoderRegistry
from service.observe.counters import Metrics
from service.serving.lifecycle import running
from service.settings import Settings
from service.store.sqlite.reader import StoreReader
from tests.fixtures.waiting import until


def test_retention_reads_to_the_end_before_its_connection_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, may_go_on = threading.Event(), threading.Event()
    read = StoreReader.used_bytes
    found: list[int] = []

    def slow(reader: StoreReader) -> int:
        reading.set()
        assert may_go_on.wait(30)
        found.append(read(reader))  # a closed connection would raise, or end the process
        return found[-1]

    monkeypatch.setattr(StoreReader, "used_bytes", slow)

    async def start_and_stop() -> None:
        settings = Settings(data_dir=tmp_path / "data", durability="os")
        async with running(settings, Metrics(), EncoderRegistry()):
            await until(reading.is_set, "a read of retention")
            asyncio.get_running_loop().call_later(0.05, may_go_on.set)

    asyncio.run(start_and_stop())
    assert len(found) == 1
    assert found[0] > 0
