"""Full collections wait for a moment without requests, and come then."""

import asyncio
import gc
import time
import weakref

from service.serving.collection import WORTH, collecting_when_idle


class _Cycle:
    def __init__(self) -> None:
        self.own = self


def _old_garbage() -> weakref.ref[_Cycle]:
    """Return a reference to garbage that only a full collection finds."""
    cycle = _Cycle()
    for _ in range(WORTH + 2):
        gc.collect(1)
    return weakref.ref(cycle)


def _make_young_objects() -> None:
    """Cause enough collections of young objects for a full one to be due by the usual rule."""
    for _ in range(40):
        kept: list[list[int]] = [[] for _ in range(100_000)]
        del kept


async def _busy_then_idle() -> None:
    async with collecting_when_idle():
        garbage = _old_garbage()
        _make_young_objects()
        assert garbage() is not None
        deadline = time.monotonic() + 60.0
        while garbage() is not None and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert garbage() is None


def test_old_garbage_stays_while_the_loop_is_busy_and_goes_once_it_is_idle() -> None:
    usual = gc.get_threshold()
    asyncio.run(_busy_then_idle())
    assert gc.get_threshold() == usual
