"""The shard files of a disk replay: fixed-size records, a fixed number of them per file.

Row `index` is record `index % shard_size` of shard `index // shard_size`. A record is packed and
little endian: position int64, slot int64, reward float64, A action features float32, the context.
Owned by one DiskReplay and its thread. A crash may tear whatever was not synced; the replay's
state file says which rows were.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bandexa_core.errors import ReplayError
from bandexa_core.filesystem import FileSystem
from bandexa_core.replay.protocol import RowLayout, Rows

_SHARD_NAME = re.compile(r"shard-(\d{8,})\.rows")
_HEADER = np.dtype([("position", "<i8"), ("slot", "<i8"), ("reward", "<f8")])
_REWARD_OFFSET = 16
_WRITE_BYTES = 8 * 2**20
# One preadv call takes at most IOV_MAX = 1024 buffers (three a row) and 2 GiB.
_READ_ROWS = 340
_READ_BYTES = 2**30


class ShardFiles:
    """Reads and writes records by row index, with at most `cache_shards` descriptors open."""

    def __init__(
        self, root: Path, layout: RowLayout, shard_size: int, cache_shards: int, fs: FileSystem
    ) -> None:
        self._root = root
        self._layout = layout
        self._shard_size = shard_size
        self._cache_shards = cache_shards
        self._fs = fs
        dtype = np.dtype(layout.context_dtype).newbyteorder("<")
        self._record = np.dtype(
            [
                *((name, _HEADER[name]) for name in _HEADER.names or ()),
                ("action", "<f4", (layout.action_dim,)),
                ("context", dtype, layout.context_shape),
            ]
        )
        self.record_bytes = self._record.itemsize
        self._paths: dict[int, Path] = {}
        self._fds: dict[int, int] = {}  # least recently used first
        self._dirty: set[int] = set()  # written since their last sync
        self._num_shards = 0  # shards below this number exist, or were evicted
        self._names_changed = False

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
        """Return position, slot and reward of the rows `first` to `end` - 1."""
        headers = np.empty(end - first, _HEADER)
        target = _bytes_of(headers)
        step = _HEADER.itemsize
        for index in range(first, end):
            shard, row = divmod(index, self._shard_size)
            at = (index - first) * step
            self._read_into(shard, row, [target[at : at + step]], step)
        return headers

    def write(self, indices: NDArray[np.int64], rows: Rows) -> None:
        """Write whole records at increasing indices, making new shards as they are reached."""
        chunk = max(1, _WRITE_BYTES // self.record_bytes)
        for shard, start, stop in self._runs(indices):
            for low in range(start, stop, chunk):
                piece = slice(low, min(low + chunk, stop))
                records = np.empty(piece.stop - low, self._record)
                records["position"] = rows.positions[piece]
                records["slot"] = rows.slots[piece]
                records["reward"] = rows.rewards[piece]
                records["action"] = rows.actions[piece]
                records["context"] = rows.contexts[piece]
                offset = int(indices[low]) % self._shard_size * self.record_bytes
                self._write(shard, _bytes_of(records), offset)

    def write_rewards(self, indices: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        """Rewrite the reward field of records at increasing indices."""
        values = memoryview(rewards.astype("<f8").tobytes())
        for number, index in enumerate(indices.tolist()):
            shard, row = divmod(index, self._shard_size)
            offset = row * self.record_bytes + _REWARD_OFFSET
            self._write(shard, values[8 * number : 8 * number + 8], offset)

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
        """Return action features and contexts at sorted indices, which may repeat.

        Neighbouring records are read by one call, straight into the arrays that are returned:
        the 24 header bytes between two payloads go to a scratch buffer.
        """
        layout, num_rows = self._layout, len(indices)
        actions = np.empty((num_rows, layout.action_dim), np.float32)
        contexts: NDArray[np.generic] = np.empty(
            (num_rows, *layout.context_shape), layout.context_dtype
        )
        distinct, places = np.unique(indices, return_index=True)
        targets = [
            (_bytes_of(array.reshape(-1)), array[0].nbytes)
            for array in (actions, contexts)
            if array.nbytes
        ]
        header = memoryview(bytearray(_HEADER.itemsize))
        record_bytes = self.record_bytes
        most = max(1, min(_READ_ROWS, _READ_BYTES // record_bytes))
        records, places_list = (distinct % self._shard_size).tolist(), places.tolist()
        for shard, start, stop in self._runs(distinct):
            for low in range(start, stop, most):
                run = places_list[low : min(low + most, stop)]
                buffers: list[memoryview] = []
                for place in run:
                    buffers.append(header)
                    for target, step in targets:
                        buffers.append(target[place * step : place * step + step])
                self._read_into(shard, records[low], buffers, len(run) * record_bytes)
        if len(distinct) < num_rows:
            source = np.repeat(places, np.diff(places, append=num_rows))
            repeated = np.flatnonzero(source != np.arange(num_rows))
            actions[repeated] = actions[source[repeated]]
            contexts[repeated] = contexts[source[repeated]]
        return actions, contexts

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
        """Close all descriptors without syncing."""
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

    def _runs(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """Yield (shard, start, stop): `indices[start:stop]` are neighbours in one shard."""
        if not len(indices):
            return
        breaks = (np.diff(indices) != 1) | (indices[1:] % self._shard_size == 0)
        starts = [0, *(np.flatnonzero(breaks) + 1).tolist()]
        shards = (indices[starts] // self._shard_size).tolist()
        yield from zip(shards, starts, [*starts[1:], len(indices)], strict=True)

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

    def _read_into(self, shard: int, row: int, buffers: list[memoryview], num_bytes: int) -> None:
        """Fill `buffers` from record `row` on; the one place where shard files are read."""
        if os.preadv(self._fd(shard), buffers, row * self.record_bytes) != num_bytes:
            raise ReplayError(f"{self._path(shard)} ends before row {row} does")


def _bytes_of(array: NDArray[np.generic]) -> memoryview:
    """Return the bytes of a contiguous one-dimensional array, sharing its memory."""
    return memoryview(array.view(np.uint8).data)
