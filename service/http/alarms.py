"""Which bandits have an alarm: asked every two seconds by each open dashboard."""

from __future__ import annotations

import time

from service.observe.health import ALARM, bandit_findings
from service.observe.slices import in_slices
from service.serving.engine import Engine

_FRESH_FOR = 20.0  # times as long as it takes to check all bandits: a twentieth of a core at most


class Alarms:
    """The bandits with an alarm. The answer is used again for a while where there are many."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._stale_at = 0.0

    async def names(self, engine: Engine) -> list[str]:
        """Return the names of the bandits with an alarm, in order."""
        begun = time.monotonic()
        if begun >= self._stale_at:
            names = []
            async for bandit in in_slices(engine.bandits()):
                if any(found.severity == ALARM for found in bandit_findings(engine, bandit)):
                    names.append(bandit.record.name)
            self._names = names
            ended = time.monotonic()
            self._stale_at = ended + _FRESH_FOR * (ended - begun)
        return self._names
