"""Service time: the wall clock less an offset, so that a clock that is set moves nothing.

Reward windows, forgetting and retention run in service time. It advances with the machine's clock
since boot, and follows the wall clock's small corrections. A larger gap between the two goes into
the offset. Times that are shown to people stay wall time; `wall_of` converts.

The store calls `note` about once a second, writes `state` down, and gives it to the next opening
(`resume`). Any thread may read the time.
"""

from __future__ import annotations

import json
import logging
import time
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)
JUMP_S = 60.0  # smaller gaps between two notes are corrections, and are followed
TRUSTED_S = 7 * 86_400.0  # a longer time without a server needs a witness, or an operator
MAX_JUMPS = 1000  # older ones are dropped, and rows before them shown with an older offset
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Jump(NamedTuple):
    """From service time `since` on, wall time is `offset` seconds ahead of service time."""

    since: float
    offset: float


class ClockState(NamedTuple):
    """What is stored of the clocks.

    Attributes:
        wall: Wall time of the note, seconds since the epoch.
        service: Service time of the note.
        elapsed: The machine's clock since boot, at the note.
        boot: The boot of the machine that `elapsed` belongs to; "" where it is not known.
        jumps: Every offset so far, oldest first.
    """

    wall: float
    service: float
    elapsed: float
    boot: str
    jumps: tuple[Jump, ...]

    @property
    def offset(self) -> float:
        """How much wall time is ahead of service time, in seconds."""
        return self.jumps[-1].offset if self.jumps else 0.0

    def wall_of(self, service: float) -> float:
        """Return the wall time that was shown at a service time."""
        at = bisect_left(self.jumps, service, key=lambda jump: jump.since)
        return service + (self.jumps[at - 1].offset if at else 0.0)

    def packed(self) -> str:
        """Return it as text."""
        return json.dumps(self)

    @classmethod
    def unpacked(cls, text: str) -> ClockState:
        """Return what `packed` packed."""
        wall, service, elapsed, boot, jumps = json.loads(text)
        return cls(wall, service, elapsed, boot, tuple(Jump(*jump) for jump in jumps))


class ServiceClock:
    """The clock of service time; calling it returns the time in seconds since the epoch.

    Args:
        wall: The wall clock, seconds since the epoch.
        elapsed: A clock that nobody sets, in seconds; it counts the time of a suspended machine.
        boot: Names the boot of the machine for which `elapsed` counts; "" where it is not known.
    """

    def __init__(
        self,
        wall: Callable[[], float] | None = None,
        elapsed: Callable[[], float] | None = None,
        boot: str | None = None,
    ) -> None:
        self.wall = wall or _wall
        self._elapsed = elapsed or _since_boot
        self._boot = _boot() if boot is None else boot
        self._jumps: tuple[Jump, ...] = ()
        self._base = self.wall(), self._elapsed()  # (service time, elapsed); replaced as a whole

    def __call__(self) -> float:
        """Return service time."""
        service, since = self._base
        return service + self._elapsed() - since

    @property
    def offset(self) -> float:
        """How much wall time is ahead of service time, in seconds."""
        return self._jumps[-1].offset if self._jumps else 0.0

    def state(self) -> ClockState:
        """Return what the next opening has to know."""
        service, since = self._base
        elapsed = self._elapsed()
        return ClockState(self.wall(), service + elapsed - since, elapsed, self._boot, self._jumps)

    def note(self) -> bool:
        """Compare the clocks; returns whether the wall clock jumped since the last call."""
        wall, elapsed = self.wall(), self._elapsed()
        service, since = self._base
        service += elapsed - since
        gap = wall - self.offset - service
        if abs(gap) <= JUMP_S:
            self._base = service + max(gap, 0.0), elapsed  # it never goes back
            return False
        self._base = service, elapsed
        self._jump(gap)
        log.warning(
            "the wall clock jumped by %+.0f s: service time does not follow it, and is now %.0f s"
            " %s it; if that time has really passed, `bandexa clock accept` makes it count",
            gap, *_distance(self.offset),
        )  # fmt: skip
        return True

    def resume(self, before: ClockState) -> None:
        """Go on from where an earlier opening ended.

        The time since then counts as far as it is trusted: what the machine's clock since boot
        saw, in one boot; up to `TRUSTED_S` without that witness.
        """
        wall, elapsed = self.wall(), self._elapsed()
        self._jumps = before.jumps
        gap = wall - before.wall
        if before.boot and before.boot == self._boot and elapsed >= before.elapsed:
            passed = elapsed - before.elapsed
        else:
            passed = gap if 0.0 <= gap <= TRUSTED_S else 0.0
        if abs(gap - passed) <= JUMP_S:
            self._base = before.service + max(gap, 0.0), elapsed  # it never goes back
            return
        self._base = before.service + passed, elapsed
        self._jump(gap - passed)
        log.warning(
            "the wall clock moved by %+.0f s since the last server ended, and %.0f s of it are"
            " trusted: service time is now %.0f s %s it; if that time has really passed,"
            " `bandexa clock accept` makes it count",
            gap, passed, *_distance(self.offset),
        )  # fmt: skip

    def accept(self) -> float:
        """Move service time up to wall time; returns by how much, 0 where it is not behind.

        It never goes back: a service time that is ahead stays ahead, which harms nothing.
        """
        wall, elapsed = self.wall(), self._elapsed()
        behind = wall - self()
        if behind <= 0.0:
            return 0.0
        self._base = wall, elapsed
        self._jump(-self.offset)
        log.warning("service time was moved ahead by %.0f s, as an operator accepted", behind)
        return behind

    def _jump(self, by: float) -> None:
        jumps = [jump for jump in self._jumps if jump.since < self._base[0]]
        self._jumps = (*jumps, Jump(self._base[0], self.offset + by))[-MAX_JUMPS:]


def _distance(offset: float) -> tuple[float, str]:
    return abs(offset), "behind" if offset > 0.0 else "ahead of"


def as_service_clock(clock: Callable[[], float] | ServiceClock | None) -> ServiceClock:
    """Return a service clock: of the machine, or one whose two clocks are the given function."""
    if clock is None or isinstance(clock, ServiceClock):
        return clock or ServiceClock()
    return ServiceClock(clock, clock, "")


def _wall() -> float:
    return time.time()


_since_boot: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")  # Linux; other clocks stop while the machine is suspended
    else time.monotonic
)


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # not Linux
        return ""
