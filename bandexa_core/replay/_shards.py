"""The shard files of a disk replay: fixed-size records, a fixed number of them per file.

Row `index` is record `index % shard_size` of shard `index // shard_size`; `_records` has the layout
of a record. Checksums are checked when rows are read for a rebuild (`check`): what the posterior is
made of is what was written.
Owned by one DiskReplay and its thread. What the page cache holds is read by that thread, which is
fastest; what it does not hold is read by several, so that the disk has many requests at a time. A
crash may tear whatever was not synced; the replay's state file says which rows were.
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
    are_whole,
    bytes_of,
    record_dtype,
    records_of,
    reward_fields,
)
from bandexa_core.replay.protocol import RowBuffers, RowLayout, Rows

_SHARD_NAME = re.compile(r"shard-(\d{8,})\.rows")
_WRITE_BYTES = 8 * 2**20
# One preadv call takes at most IOV_MAX = 1024 buffers (three a row) and 2 GiB.
_READ_ROWS = 340
_READ_BYTES = 2**30
# Up to this size records are read whole and copied out, which is cheaper than to scatter them.
_COPIED_BYTES = 4096
# Measured with 1 to 16 on random rows of 150 KB of a cold virtual disk: more than 8 gain nothing.
READ_THREADS = 8
# Linux: read only what is in the page cache, and start reading the rest.
_CACHED_ONLY: int | None = getattr(os, "RWF_NOWAIT", None)


class _Read(NamedTuple):
    """One preadv call: `num_bytes` from `offset` of a shard into `buffers`."""

    shard: int
    offset: int
    num_bytes: int
    buffers: list[memoryview]


class ShardFiles:
    """Reads and writes records by row index, with at most `cache_shards` descriptors open."""

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
        self._dirty: set[int] = set()  # written since their last sync
        self._num_shards = 0  # shards below this number exist, or were evicted
        self._names_changed = False
        self._cached_only = _CACHED_ONLY
        self._readers: ThreadPoolExecutor | None = None  # started by the first read that waits

    def recover(self, first: int, end: int) -> None:
        """Cut the files back to the rows `first` to `end` - 1.

        Raises:
            ReplayError: one of those rows is not there.
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
        """Compare the rows from index `first` on, as they were read, with their checksums.

        Raises:
            ReplayError: One is not what was written.
        """
        whole = are_whole(self.headers(first, first + len(rows)), rows)
        if not whole.all():
            bad = first + int(np.argmin(whole))
            raise ReplayError(f"row {bad} in {self._root} is damaged; delete it and rebuild")

    def write(self, indices: NDArray[np.int64], rows: Rows) -> None:
        """Write whole records at increasing indices, making new shards as they are reached."""
        chunk = max(1, _WRITE_BYTES // self.record_bytes)
        for shard, low, high in self._runs(indices, chunk):
            records = records_of(rows.part(slice(low, high)), self._record)
            offset = int(indices[low]) % self._shard_size * self.record_bytes
            self._write(shard, bytes_of(records), offset)

    def write_rewards(self, indices: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        """Rewrite the reward field of records at increasing indices."""
        fields = reward_fields(rewards)
        values, step = memoryview(fields.tobytes()), fields.itemsize
        for number, index in enumerate(indices.tolist()):
            shard, row = divmod(index, self._shard_size)
            offset = row * self.record_bytes + REWARD_OFFSET
            self._write(shard, values[step * number : step * (number + 1)], offset)

    def read(self, indices: NDArray[np.int64], into: RowBuffers) -> None:
        """Copy action features and contexts at sorted indices, which may repeat, to `into`."""
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
        """Return when all records written so far, and the names of new shards, are on disk."""
        for shard in sorted(self._dirty):
            self._sync(shard)
        if self._names_changed:
            self._fs.sync_dir(self._root)
            self._names_changed = False

    def remove_before(self, first: int) -> None:
        """Unlink the shards all of whose rows come before index `first`."""
        lowest = first // self._shard_size
        for shard in self._stored_shards():
            if shard < lowest:
                self._forget(shard)
                self._fs.remove_file(self._path(shard))
                del self._paths[shard]

    def close(self) -> None:
        """Close all descriptors without syncing, and end the threads."""
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _path(self, shard: int) -> Path:
        path = self._paths.get(shard)  # a batch may open a hundred shards: joining paths shows
        if path is None:
            path = self._paths[shard] = self._root / f"shard-{shard:08d}.rows"
        return path

    def _stored_shards(self) -> list[int]:
        matches = (_SHARD_NAME.fullmatch(name) for name in os.listdir(self._root))
        return sorted(int(match[1]) for match in matches if match)

    def _runs(self, indices: NDArray[np.int64], most: int) -> Iterator[tuple[int, int, int]]:
        """Return (shard, start, stop)s: `indices[start:stop]`, at most so many, are neighbours."""
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

        Payloads go straight there, the header bytes between two of them to a scratch buffer,
        which several threads may scribble on at a time.
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
        """Read the records at increasing indices, at most so many neighbours by one call.

        Cached ones are read at once, the others together once all of them are known.
        `buffers_of(start, stop)` gives what `distinct[start:stop]` are read into. This loop is what
        a batch of small rows costs, so that it makes no objects it can do without.
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
                    flags = self._cached_only = None  # no telling what this file system caches
            waiting.append(_Read(shard, offsets[start], num_bytes, buffers))
        self._wait_for(waiting)

    def _wait_for(self, reads: list[_Read]) -> None:
        """Do reads in threads, so many shards at a time as may be open."""
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
        wait(futures)  # all of them, error or not: descriptors and buffers are the caller's again
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
        """Return the shard's descriptor, closing the least recently used one for it."""
        fd = self._fds.pop(shard, None)
        if fd is None:
            while len(self._fds) >= self._cache_shards:
                oldest = next(iter(self._fds))
                # A write error is reported to descriptors that are open when it happens: once a
                # dirty file is closed, a later sync of it could miss the loss.
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
