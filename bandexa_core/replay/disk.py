"""The replay on disk: records in shard files, a small state file, and a row table in memory.

    shard-00000000.rows ...  packed records (see `_records`)
    replay.json              layout, shard size, stored rows, log position followed
    replay.lock              locked with flock while the replay is open

One process uses the directory; the lock refuses a second one. One thread at a time uses the replay:
that of the trainer, or the one that prefetches for it. Reads that wait for the disk have threads of
their own.

Every flush syncs the rows and then replaces `replay.json`, which therefore never lists a row that
is not on disk. Opening truncates the files to the listed rows. The caller then follows the log from
`followed`, which restores what the crash took. A scan finds any other damage, because every row has
checksums. Deleting the directory loses nothing but time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.errors import ReplayError, ReplayLocked
from bandexa_core.filesystem import (
    FileSystem,
    LocalFileSystem,
    lock_file,
    make_dirs,
    replace_file,
)
from bandexa_core.ids import LogPosition
from bandexa_core.replay._base import TableReplay
from bandexa_core.replay._shards import READ_THREADS, ShardFiles
from bandexa_core.replay._table import RowTable
from bandexa_core.replay.protocol import RowBuffers, RowLayout, Rows

_FORMAT = 2
_STATE_FILE = "replay.json"
_LOCK_FILE = "replay.lock"


@dataclass(frozen=True, slots=True)
class _State:
    """What is on disk after a flush: the rows with index `first` to `end` - 1."""

    first: int = 0
    end: int = 0
    evicted_through: int = -1
    followed: int = 0


class DiskReplay(TableReplay):
    """A replay in a directory (see `Replay` for the contract).

    After an OSError of a write or sync, every further use raises ReplayError, because nobody knows
    what the kernel dropped. Opening the directory again starts from the last flush.

    Args:
        root: The directory, which is created when it is missing. It must not contain other files.
        layout: Shapes and dtypes of the rows; those of existing rows must be equal.
        shard_size: Rows per shard file.
        cache_shards: Largest number of open shard files.
        flush_every: Rows written or corrected between two durable flushes. A crash loses at
            most so many rows, or one append; the log restores them.
        capacity: Largest number of rows; None sets no limit. A flush deletes shard files whose
            rows are all evicted, so the files may take up to a shard and a flush more.
        read_threads: Number of threads that read what is not in the page cache.
        fs: The file system for writes; the local one by default.

    Raises:
        ValueError: A number is below 1.
        ReplayLocked: The directory is open elsewhere.
        ReplayError: The directory is damaged, has another layout, shard size or format, or
            cannot be written; delete it and rebuild it.
    """

    def __init__(
        self,
        root: Path,
        layout: RowLayout,
        *,
        shard_size: int = 2048,
        cache_shards: int = 16,
        flush_every: int = 256,
        capacity: int | None = None,
        read_threads: int = READ_THREADS,
        fs: FileSystem | None = None,
    ) -> None:
        for name, value in (
            ("shard_size", shard_size),
            ("cache_shards", cache_shards),
            ("flush_every", flush_every),
            ("read_threads", read_threads),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        super().__init__(layout, capacity, RowTable())
        self._root = root
        self._shard_size = shard_size
        self._flush_every = flush_every
        self._fs = fs or LocalFileSystem()
        self._shards = ShardFiles(root, layout, shard_size, cache_shards, read_threads, self._fs)
        self._num_unflushed = 0
        self._failure: str | None = None
        with self._writing("open"):
            make_dirs(self._fs, root)
            self._lock = _lock(root)
            try:
                self._flushed = self._open()
            except BaseException:
                self._release()
                raise

    @property
    def is_on_disk(self) -> bool:
        """True: reading rows may wait for the disk."""
        return True

    @property
    def num_bytes(self) -> int:
        """Bytes of the shard files that contain rows of the replay."""
        self._check_usable()
        if not len(self):
            return 0
        start = self._table.first // self._shard_size * self._shard_size
        return (self._table.end - start) * self._shards.record_bytes

    def flush(self) -> None:
        """Return when all rows, corrections and `followed` survive a power loss."""
        self._check_usable()
        state = self._state()
        if not self._num_unflushed and state == self._flushed:
            return
        with self._writing("flush"):
            # Rows come first: replay.json must never list a row that is not on disk. Old shards go
            # last: after a crash, all shards that replay.json lists must exist.
            self._shards.sync()
            self._save(state)
            self._shards.remove_before(state.first)
        self._num_unflushed = 0

    def close(self) -> None:
        """Flush, close all files and release the lock; a second call does nothing."""
        if self._closed:
            return
        try:
            if self._failure is None:
                self.flush()
        finally:
            self._closed = True
            self._release()

    def _write(self, indices: NDArray[np.int64], rows: Rows) -> None:
        with self._writing("append"):
            self._shards.write(indices, rows)

    def _write_rewards(self, indices: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        with self._writing("correct"):
            self._shards.write_rewards(indices, rewards)

    def _read(self, indices: NDArray[np.int64], into: RowBuffers) -> None:
        # A read may close a written descriptor and sync it first; its failure is one of a write.
        with self._writing("read"):
            self._shards.read(indices, into)

    def _scan(self, first: int, end: int, chunk: int, of: tuple[int, int]) -> Iterator[Rows]:
        for rows in super()._scan(first, end, chunk, of):
            start = int(self._table.find(rows.positions[:1])[0])
            with self._writing("read"):
                self._shards.check(start, rows)
            yield rows

    def _changed(self, num_rows: int) -> None:
        self._num_unflushed += num_rows
        if self._num_unflushed >= self._flush_every:
            self.flush()

    def _check_usable(self) -> None:
        super()._check_usable()
        if self._failure is not None:
            raise ReplayError(f"unusable since a failure ({self._failure}); open it again")

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = f"{what} of {self._root}: {error}"
            raise ReplayError(f"cannot {what} {self._root}: {error}") from error

    def _open(self) -> _State:
        path = self._root / _STATE_FILE
        if not path.exists():
            if any(self._root.glob("shard-*.rows")):
                raise ReplayError(f"{path} is missing; delete {self._root} and rebuild")
            self._save(_State())
            return _State()
        state = self._load(path)
        self._shards.recover(state.first, state.end)
        self._table = RowTable(first=state.first, evicted_through=state.evicted_through)
        headers = self._shards.headers(state.first, state.end)
        positions = headers["position"].astype(np.int64)
        if (np.diff(positions, prepend=state.evicted_through) <= 0).any():
            raise ReplayError(f"positions in {self._root} do not increase; delete it and rebuild")
        self._table.put(
            np.arange(state.first, state.end),
            positions,
            headers["slot"].astype(np.int64),
            headers["reward"].astype(np.float64),
        )
        self._table.evict_to(self._first_within_capacity(state.end))
        self._followed = LogPosition(state.followed)
        return state

    def _load(self, path: Path) -> _State:
        try:
            document = json.loads(path.read_bytes())
            stored = {key: document[key] for key in self._identity()}
            numbers = {key: document["state"][key] for key in _State.__dataclass_fields__}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ReplayError(f"{path} is damaged ({error!r}); delete and rebuild") from error
        if stored != self._identity():
            raise ReplayError(f"{path} has {stored} instead of {self._identity()}")
        if not all(type(number) is int for number in numbers.values()):
            raise ReplayError(f"{path} is damaged ({numbers}); delete and rebuild")
        state = _State(**numbers)
        if not 0 <= state.first <= state.end or state.followed < 0:
            raise ReplayError(f"{path} is damaged ({numbers}); delete and rebuild")
        return state

    def _save(self, state: _State) -> None:
        document = {**self._identity(), "state": asdict(state)}
        replace_file(self._fs, self._root / _STATE_FILE, json.dumps(document, indent=1).encode())
        self._flushed = state

    def _identity(self) -> dict[str, Any]:
        """Return the properties that must be equal for a directory to be opened."""
        return {
            "format": _FORMAT,
            "context_shape": list(self._layout.context_shape),
            "context_dtype": self._layout.context_dtype,
            "action_dim": self._layout.action_dim,
            "shard_size": self._shard_size,
        } | ({} if self._layout.action_dtype == "float32" else {"action_dtype": "uint8"})

    def _state(self) -> _State:
        table = self._table
        return _State(table.first, table.end, table.evicted_through, self._followed)

    def _release(self) -> None:
        self._shards.close()
        os.close(self._lock)


def _lock(root: Path) -> int:
    """Lock the directory; the kernel releases the lock with the descriptor, even after a crash."""
    try:
        return lock_file(root / _LOCK_FILE)
    except BlockingIOError as error:
        raise ReplayLocked(
            f"{root} is open in another process, or twice in this one: {error}"
        ) from None
