"""A server of two workers for all tests that bring bandits and decision ids of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.workers.crew import Crew, crew_of


@pytest.fixture(scope="session")
def crew(start_session_server, api_of) -> Iterator[Crew]:
    # A connection that is closed would be opened again at any worker.
    server = start_session_server(None, "--workers", 2, env={"BANDEXA_KEEP_ALIVE_S": "3600"})
    with crew_of(server, 2, api_of) as crew:
        yield crew
