"""The shard files of a disk replay: records of a fixed size, and a fixed number of them per file.

Row `index` is record `index % shard_size` of shard `index // shard_size`; `_records` defines the
layout. Rows that are read for a rebuild are checked against their checksums (`check`), so that the
posterior is built from what was written.

One DiskReplay owns the files and uses them in one thread. This thread reads the records in the page
cache, which is fastest. Several threads read the others, so that the disk has many requests at a
time. A crash may tear everything that was not synced; the state file of the replay lists the rows
that were.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.errors import ReplayError
from bandexa_core.filesystem import FileSystem
from bandexa_core.replay._records import (
    HEADER,
    REWARD_OFFSET,
    are_intact,
    bytes_of,
    record_dtype,
    records_of,
    reward_fields,
)
from bandexa_core.replay.protocol import RowBuffers, RowLayout, Rows

_SHARD_NAME = re.compile(r"shard-(\d{8,})\.rows")
_WRITE_BYTES = 8 * 2**20
# One preadv call takes at most IOV_MAX = 1024 buffers (three per row) and 2 GiB.
_READ_ROWS = 340
_READ_BYTES = 2**30
# Up to this size it is cheaper to read records as a whole and copy fields than to scatter them.
_COPIED_BYTES = 4096
# Measured with 1 to 16 threads and random rows of 150 KB on a cold virtual disk: more than 8 gain
# nothing.
READ_THREADS = 8
# Linux: read only from the page cache, and start reading ahead for the rest.
_CACHED_ONLY: int | None = getattr(os, "RWF_NOWAIT", None)


class _Read(NamedTuple):
    """One preadv call: read `num_bytes` at `offset` of a shard into `buffers`."""

    shard: int
    offset: int
    num_bytes: int
    buffers: list[memoryview]


class ShardFiles:
    """Reads and writes records by row index, with at most `cache_shards` open files."""

    def __init__(
        self,
        root: Path,
        layout: RowLayout,
        shard_size: int,
        cache_shards: int,
        read_threads: int,
        fs: FileSystem,
    ) -> None:
        self._root = root
        self._layout = layout
        self._shard_size = shard_size
        self._cache_shards = cache_shards
        self._read_threads = read_threads
        self._fs = fs
        self._record = record_dtype(layout)
        self.record_bytes = self._record.itemsize
        self._paths: dict[int, Path] = {}
        self._fds: dict[int, int] = {}  # least recently used first
        self._dirty: set[int] = set()  # written since the last sync
        self._num_shards = 0  # lower shards exist or were evicted
        self._names_changed = False
        self._cached_only = _CACHED_ONLY
        self._readers: ThreadPoolExecutor | None = (
            None  # started by the first read that has to wait
        )

    def recover(self, first: int, end: int) -> None:
        """Truncate the files to the rows `first` to `end` - 1.

        Raises:
            ReplayError: One of these rows is missing.
        """
        lowest, beyond = first // self._shard_size, -(-end // self._shard_size)
        if first == end:
            beyond = lowest
        for shard in self._stored_shards():
            if not lowest <= shard < beyond:
                self._fs.remove_file(self._path(shard))
        for shard in range(lowest, beyond):
            num_rows = min(self._shard_size, end - shard * self._shard_size)
            self._cut(shard, num_rows * self.record_bytes)
        self._num_shards = beyond

    def headers(self, first: int, end: int) -> NDArray[np.void]:
        """Return position, slot, reward and checksums of the rows `first` to `end` - 1."""
        headers = np.empty(end - first, HEADER)
        target = bytes_of(headers)
        step = HEADER.itemsize
        for index in range(first, end):
            shard, row = divmod(index, self._shard_size)
            at = (index - first) * step
            into = [target[at : at + step]]
            self._fill(self._fd(shard), _Read(shard, row * self.record_bytes, step, into))
        return headers

    def check(self, first: int, rows: Rows) -> None:
        """Check rows that were read from index `first` on against their checksums.

        Raises:
            ReplayError: A row differs from what was written.
        """
        intact = are_intact(self.headers(first, first + len(rows)), rows)
        if not intact.all():
            bad = first + int(np.argmin(intact))
            raise ReplayError(f"row {bad} in {self._root} is damaged; delete it and rebuild")

    def write(self, indices: NDArray[np.int64], rows: Rows) -> None:
        """Write records at increasing indices, and create shards as needed."""
        chunk = max(1, _WRITE_BYTES // self.record_bytes)
        for shard, low, high in self._runs(indices, chunk):
            records = records_of(rows.part(slice(low, high)), self._record)
            offset = int(indices[low]) % self._shard_size * self.record_bytes
            self._write(shard, bytes_of(records), offset)

    def write_rewards(self, indices: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        """Rewrite the rewards of records at increasing indices."""
        fields = reward_fields(rewards)
        values, step = memoryview(fields.tobytes()), fields.itemsize
        for number, index in enumerate(indices.tolist()):
            shard, row = divmod(index, self._shard_size)
            offset = row * self.record_bytes + REWARD_OFFSET
            self._write(shard, values[step * number : step * (number + 1)], offset)

    def read(self, indices: NDArray[np.int64], into: RowBuffers) -> None:
        """Copy action features and contexts at sorted indices, possibly repeated, to `into`."""
        num_rows = len(indices)
        distinct, places = np.unique(indices, return_index=True)
        if self.record_bytes <= _COPIED_BYTES:
            records = self._copied(distinct)
            if len(distinct) < num_rows:
                records = records[np.searchsorted(distinct, indices)]
            into.actions[...] = records["action"]
            into.contexts[...] = records["context"]
            return
        self._scatter(distinct, places, into)
        if len(distinct) < num_rows:
            source = np.repeat(places, np.diff(places, append=num_rows))
            repeated = np.flatnonzero(source != np.arange(num_rows))
            into.actions[repeated] = into.actions[source[repeated]]
            into.contexts[repeated] = into.contexts[source[repeated]]

    def sync(self) -> None:
        """Return when all written records and the names of new shards are on disk."""
        for shard in sorted(self._dirty):
            self._sync(shard)
        if self._names_changed:
            self._fs.sync_dir(self._root)
            self._names_changed = False

    def remove_before(self, first: int) -> None:
        """Delete the shards whose rows all have an index below `first`."""
        lowest = first // self._shard_size
        for shard in self._stored_shards():
            if shard < lowest:
                self._forget(shard)
                self._fs.remove_file(self._path(shard))
                del self._paths[shard]

    def close(self) -> None:
        """Close all files without syncing, and end the threads."""
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _path(self, shard: int) -> Path:
        path = self._paths.get(shard)  # joining paths is slow, and a batch may open 100 shards
        if path is None:
            path = self._paths[shard] = self._root / f"shard-{shard:08d}.rows"
        return path

    def _stored_shards(self) -> list[int]:
        matches = (_SHARD_NAME.fullmatch(name) for name in os.listdir(self._root))
        return sorted(int(match[1]) for match in matches if match)

    def _runs(self, indices: NDArray[np.int64], most: int) -> Iterator[tuple[int, int, int]]:
        """Return (shard, start, stop) of runs of neighbours, each of at most `most` indices."""
        if not len(indices):
            return iter(())
        breaks = (np.diff(indices) != 1) | (indices[1:] % self._shard_size == 0)
        starts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
        stops = np.append(starts[1:], len(indices))
        if (stops - starts > most).any():
            bounds = zip(starts.tolist(), stops.tolist(), strict=True)
            starts = np.concatenate([np.arange(*bound, most) for bound in bounds])
            stops = np.append(starts[1:], len(indices))
        shards = indices[starts] // self._shard_size
        return zip(shards.tolist(), starts.tolist(), stops.tolist(), strict=True)

    def _copied(self, distinct: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the records at increasing indices."""
        records = np.empty(len(distinct), self._record)
        target, size = bytes_of(records), self.record_bytes
        most = _READ_BYTES // size
        self._gather(distinct, most, lambda start, stop: [target[start * size : stop * size]])
        return records

    def _scatter(
        self, distinct: NDArray[np.int64], places: NDArray[np.int64], into: RowBuffers
    ) -> None:
        """Read the row at index `distinct[i]` into row `places[i]` of `into`.

        Payloads are read directly into `into`. The headers between them go to one scratch buffer,
        which is never read, so that several threads may write to it at a time.
        """
        targets = [
            (bytes_of(array.reshape(-1)), array[0].nbytes)
            for array in (into.actions, into.contexts)
            if array.nbytes
        ]
        header = memoryview(bytearray(HEADER.itemsize))
        rows = places.tolist()

        def buffers(start: int, stop: int) -> list[memoryview]:
            found = []
            for row in rows[start:stop]:
                found.append(header)
                for target, step in targets:
                    found.append(target[row * step : row * step + step])
            return found

        self._gather(distinct, max(1, min(_READ_ROWS, _READ_BYTES // self.record_bytes)), buffers)

    def _gather(
        self,
        distinct: NDArray[np.int64],
        most: int,
        buffers_of: Callable[[int, int], list[memoryview]],
    ) -> None:
        """Read the records at increasing indices, at most `most` neighbours per call.

        Records in the page cache are read at once, the others together at the end.
        `buffers_of(start, stop)` returns the buffers for `distinct[start:stop]`. This loop
        dominates the time of a batch of small rows and therefore avoids creating objects.
        """
        waiting: list[_Read] = []
        preadv, flags, size = os.preadv, self._cached_only, self.record_bytes
        offsets = (distinct % self._shard_size * size).tolist()
        last, fd = -1, -1
        for shard, start, stop in self._runs(distinct, most):
            buffers, num_bytes = buffers_of(start, stop), (stop - start) * size
            if flags is not None:
                if shard != last:
                    last, fd = shard, self._fd(shard)
                try:
                    if preadv(fd, buffers, offsets[start], flags) == num_bytes:
                        continue
                except BlockingIOError:
                    pass
                except OSError as error:
                    if error.errno != errno.EOPNOTSUPP:
                        raise
                    flags = self._cached_only = (
                        None  # this file system cannot report what it caches
                    )
            waiting.append(_Read(shard, offsets[start], num_bytes, buffers))
        self._wait_for(waiting)

    def _wait_for(self, reads: list[_Read]) -> None:
        """Read in threads, from at most as many shards at a time as may be open."""
        start = 0
        while start < len(reads):
            fds: dict[int, int] = {}
            stop = start
            while stop < len(reads):
                shard = reads[stop].shard
                if shard not in fds:
                    if len(fds) == self._cache_shards:
                        break
                    fds[shard] = self._fd(shard)
                stop += 1
            self._fill_all(fds, reads[start:stop])
            start = stop

    def _fill_all(self, fds: dict[int, int], reads: list[_Read]) -> None:
        num_parts = min(self._read_threads, len(reads))
        if num_parts == 1:
            self._fill_each(fds, reads)
            return
        if self._readers is None:
            self._readers = ThreadPoolExecutor(self._read_threads, "replay-read")
        parts = [reads[number::num_parts] for number in range(num_parts)]
        futures = [self._readers.submit(self._fill_each, fds, part) for part in parts]
        wait(futures)  # for all, even after an error: the caller reuses descriptors and buffers
        for future in futures:
            future.result()

    def _fill_each(self, fds: dict[int, int], reads: list[_Read]) -> None:
        for read in reads:
            self._fill(fds[read.shard], read)

    def _cut(self, shard: int, num_bytes: int) -> None:
        path = self._path(shard)
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            raise ReplayError(f"{path} is missing; delete {self._root} and rebuild") from None
        if found < num_bytes:
            raise ReplayError(
                f"{path} has {found} of {num_bytes} bytes; delete {self._root} and rebuild"
            )
        if found > num_bytes:
            self._fs.truncate(self._fd(shard), num_bytes)

    def _fd(self, shard: int, *, create: bool = False) -> int:
        """Return the descriptor of a shard; the least recently used one may be closed for it."""
        fd = self._fds.pop(shard, None)
        if fd is None:
            while len(self._fds) >= self._cache_shards:
                oldest = next(iter(self._fds))
                # The kernel reports a failed write to descriptors that are open at that time. If a
                # written file were closed before its sync, a later sync could miss the loss.
                self._sync(oldest)
                self._forget(oldest)
            fd = self._fs.open_file(self._path(shard), create=create)
        self._fds[shard] = fd
        return fd

    def _forget(self, shard: int) -> None:
        self._dirty.discard(shard)
        fd = self._fds.pop(shard, None)
        if fd is not None:
            os.close(fd)

    def _sync(self, shard: int) -> None:
        if shard in self._dirty:
            self._fs.sync_file(self._fds[shard])
            self._dirty.discard(shard)

    def _write(self, shard: int, data: memoryview, offset: int) -> None:
        created = shard >= self._num_shards
        fd = self._fd(shard, create=created)
        if created:
            self._num_shards = shard + 1
            self._names_changed = True
        self._dirty.add(shard)
        self._fs.write(fd, data, offset)

    def _fill(self, fd: int, read: _Read) -> None:
        if os.preadv(fd, read.buffers, read.offset) != read.num_bytes:
            row = read.offset // self.record_bytes
            raise ReplayError(f"{self._path(read.shard)} ends before row {row} does")
