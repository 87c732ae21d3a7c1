"""Token buckets that the processes of one server have in common, in a file that all have mapped.

A bucket is a slot of the file: a digest of the key's name, rate and burst, the calls that are left,
and when they were counted, by a clock that all processes of the machine have. A call locks its slot
for some microseconds. The lock of a process that is killed ends with it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

SLOTS = 4096  # keys with a rate; of more than that, some share a bucket
_SLOT = struct.Struct("=16sdd")
_EMPTY = bytes(16)


class BucketTable:
    """The file; the first process that names it makes it.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, SLOTS * _SLOT.size)  # the same size for all: nothing is cut off
        self.bytes = mmap.mmap(self._fd, SLOTS * _SLOT.size)

    @contextmanager
    def locked(self, offset: int, size: int = _SLOT.size) -> Iterator[None]:
        """Hold a part of the file alone."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, size, offset)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, size, offset)

    def offset(self, name: str, rate: float, burst: float, now: float) -> int:
        """Return where the bucket of a key is; a new one is full."""
        digest = blake2b(f"{name} {rate!r} {burst!r}".encode(), digest_size=16).digest()
        first = int.from_bytes(digest[:4]) % SLOTS
        with self.locked(0, SLOTS * _SLOT.size):
            for step in range(SLOTS):
                offset = (first + step) % SLOTS * _SLOT.size
                known = self.bytes[offset : offset + len(_EMPTY)]
                if known == digest:
                    return offset
                if known == _EMPTY:
                    _SLOT.pack_into(self.bytes, offset, digest, burst, now)
                    return offset
        return first * _SLOT.size


class SharedBucket:
    """See `Bucket`.

    Args:
        table: Where it is.
        name: Of its key.
        rate: Calls a second.
        burst: The most calls at once.
    """

    __slots__ = ("_offset", "_table", "burst", "rate")

    def __init__(self, table: BucketTable, name: str, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._table = table
        self._offset = table.offset(name, rate, burst, time.monotonic())

    def take(self) -> float:
        """Take a call out of it; returns 0, or in how many seconds the next one is let in."""
        return self._take(1.0, at_once=True)

    def owe(self, calls: int) -> None:
        """Take more calls for one that was let in, also those that are gained later."""
        self._take(float(calls), at_once=False)

    def _take(self, calls: float, *, at_once: bool) -> float:
        table, offset = self._table, self._offset
        with table.locked(offset):
            digest, tokens, at = _SLOT.unpack_from(table.bytes, offset)
            now = time.monotonic()
            tokens = min(self.burst, tokens + max(0.0, now - at) * self.rate)
            refused = at_once and tokens < calls
            _SLOT.pack_into(table.bytes, offset, digest, tokens - calls * (not refused), now)
        return (calls - tokens) / self.rate if refused else 0.0
