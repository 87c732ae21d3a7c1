"""Counts that one thread makes and another reads: no lock, no labels to look up.

A select is observed half a dozen times, which costs as much as one counter and one histogram of
prometheus_client. These are turned into metrics when they are read (`exposition`). A reader may
see the latest observation in one number and not yet in another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

SECONDS = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0,
)  # fmt: skip


class Tally:
    """A histogram. `counts` has one number per bound (values up to it), and one beyond the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[float, int]]:
        """Return (bound, how many values were at most that), the last one infinite."""
        seen, out = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            out.append((bound, seen))
        return out


class StageTimes:
    """Where the time of a select goes, in seconds; used on the event loop."""

    __slots__ = ("commit", "decode", "draw", "encode", "total")

    def __init__(self) -> None:
        self.decode = Tally()
        self.encode = Tally()
        self.draw = Tally()
        self.commit = Tally()
        self.total = Tally()

    def observe(self, decode_s: float, encode_s: float, draw_s: float, commit_s: float) -> None:
        """Count one select."""
        self.decode.observe(decode_s)
        self.encode.observe(encode_s)
        self.draw.observe(draw_s)
        self.commit.observe(commit_s)
        self.total.observe(decode_s + encode_s + draw_s + commit_s)

    def by_name(self) -> dict[str, Tally]:
        """Return the stages, without the total."""
        return {name: getattr(self, name) for name in ("decode", "encode", "draw", "commit")}


class WriterTimes:
    """What the store's writer thread takes, one observation per group that it commits."""

    __slots__ = ("checkpoint", "commit", "operations", "sync")

    def __init__(self) -> None:
        self.operations = Tally([2.0**n for n in range(11)])
        self.commit = Tally()
        self.sync = Tally()
        self.checkpoint = Tally()
