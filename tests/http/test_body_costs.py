"""What the bodies that the limits allow cost: time on the event loop, and memory.

A callback of the event loop may take 50 ms of CPU, whatever the body. Memory rises by a multiple of
the body: a value of two bytes on the wire is an object of 32 bytes while it is decoded.
"""

from __future__ import annotations

import pytest

from benchmarks.proofs.bodies import BODIES, MOST_STALL_S, MOST_TIMES, costs_of

SIZE = 2_000_000


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float, int]]:
    """Seconds of the longest callback, bytes of memory, and status for each body."""
    return costs_of(tmp_path_factory.mktemp("costs") / "data", SIZE)


@pytest.mark.parametrize("name", list(BODIES))
def test_no_body_holds_the_event_loop_or_takes_much_memory(costs, name: str) -> None:
    stall_s, rise, status = costs[name]
    assert status < 500
    assert stall_s < MOST_STALL_S
    assert rise < MOST_TIMES * SIZE
