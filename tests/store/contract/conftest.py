"""Every test of this folder runs over every store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.store.protocol import EventStore
from tests.fixtures.postgres import Cluster
from tests.store.contract.turns import KINDS, POSTGRES, Turns


@pytest.fixture(
    params=[
        pytest.param(kind, marks=pytest.mark.needs("postgres") if kind == POSTGRES else ())
        for kind in KINDS
    ]
)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Turns]:
    if request.param != POSTGRES:
        client = Turns(request.param, tmp_path)
        yield client
        client.close()
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    with cluster.empty() as url:
        client = Turns(POSTGRES, tmp_path, url=url)
        yield client
        client.close()


@pytest.fixture
def store(client: Turns) -> EventStore:
    return client.open()
