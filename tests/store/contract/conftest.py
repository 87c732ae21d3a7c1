"""Every test of this folder runs over every store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.store.protocol import EventStore
from tests.store.contract.turns import KINDS, Turns


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Turns]:
    client = Turns(request.param, tmp_path)
    yield client
    client.close()


@pytest.fixture
def store(client: Turns) -> EventStore:
    return client.open()
