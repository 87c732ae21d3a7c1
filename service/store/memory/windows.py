"""The open reward windows, in watched time: service time less the time nobody watched."""

from __future__ import annotations

from collections.abc import Iterable

from bandexa_core.ids import DecisionKey
from service.store.protocol import UNWATCHED_S


class Windows:
    """Opens, finds and closes windows.

    Attributes:
        offset: How much watched time is behind service time, in seconds.
        closes: When each open window closes, in watched time.
        matures: When each decision is mature, of those that are so within their windows.
    """

    def __init__(self) -> None:
        self.offset = 0.0
        self.closes: dict[DecisionKey, float] = {}
        self.matures: dict[DecisionKey, float] = {}
        self._watched: float | None = None  # when `watch` was called last

    def open(self, key: DecisionKey, closes: float, matures: float | None) -> None:
        """Open a window; `closes`: the service time at which it would close."""
        self.closes[key] = closes - self.offset
        if matures is not None:
            self.matures[key] = matures - self.offset

    def watch(self, now: float, newest: float | None) -> None:
        """Note that the windows are checked now.

        Args:
            now: Service time.
            newest: When the newest decision with an open window was made; None without one. Before
                the first call, the time until then does not count as unwatched.
        """
        if self._watched is None:
            unwatched, most = (0.0 if newest is None else now - newest), 0.0
        else:
            unwatched, most = now - self._watched, UNWATCHED_S
        if unwatched > most:
            self.offset += unwatched
        self._watched = now

    def due(self, now: float) -> list[tuple[float, DecisionKey]]:
        """Return (closes, key) of the windows that are over, in the order in which they close."""
        return self._until(self.closes, now)

    def mature(self, now: float) -> list[tuple[float, DecisionKey]]:
        """Return (matures, key) of the decisions that are mature, in that order."""
        return self._until(self.matures, now)

    def _until(
        self, times: dict[DecisionKey, float], now: float
    ) -> list[tuple[float, DecisionKey]]:
        until = now - self.offset
        return sorted((time, key) for key, time in times.items() if time <= until)

    def close(self, key: DecisionKey, closes: float) -> None:
        """Remove a window as `due` returned it."""
        if self.closes.get(key) == closes:
            del self.closes[key]

    def matured(self, key: DecisionKey) -> None:
        """Note that a decision is mature."""
        self.matures.pop(key, None)

    def forget(self, keys: Iterable[DecisionKey]) -> None:
        """Remove the windows of decisions that are gone."""
        for key in keys:
            self.closes.pop(key, None)
            self.matures.pop(key, None)
