"""The servers on which scenes are played."""

from __future__ import annotations

import pytest

from tests.conformance.scenes import Stage
from tests.fixtures.servers import Server, StartServer


@pytest.fixture(scope="module")
def stage(server: Server, start_module_server: StartServer) -> Stage:
    started: list[Server] = []

    def victim() -> Server:
        if not started:
            started.append(start_module_server())
        return started[0]

    return Stage(server, victim)
