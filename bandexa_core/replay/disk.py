"""The replay on disk: records in shard files, a small state file, a row table in RAM.

Used by one process (a lock on the directory refuses a second) and one thread of it at a time: the
trainer, or the thread that prefetches for it. Reads that wait for the disk have their own threads.
`replay.json` is replaced at every flush after the rows were synced, so it never tells of a row that
is not on disk. Opening cuts the files back to the rows it tells of; the caller then follows the log
from `followed` again, which brings back what the crash took. Damage from elsewhere is found when
a scan meets it (every row has checksums); deleting the directory loses nothing but time.

    shard-00000000.rows ...  packed records (see `_shards`)
    replay.json              layout, shard size, rows kept, log position followed
    replay.lock              held with flock while the replay is open
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
    """What was on disk at a flush: the rows with index `first` to `end` - 1."""

    first: int = 0
    end: int = 0
    evicted_through: int = -1
    followed: int = 0


class DiskReplay(TableReplay):
    """A replay in a directory of its own (see `Replay` for the contract).

    After OSError from a write or a sync the object refuses further use (ReplayError): what the
    kernel dropped is unknown. Opening the directory again starts from the last flush.
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
        """Open the replay at `root`, making the directory when it is absent.

        Args:
            root: the directory; it holds this replay and nothing else.
            layout: the shapes of the rows, equal to those stored there.
            shard_size: rows per shard file.
            cache_shards: how many shard files are kept open at most.
            flush_every: rows written or corrected between two durable flushes. A crash takes at
                most this many rows (or one append), which the log gives back.
            capacity: most rows kept, None for all. Whole shard files go, at a flush, once all of
                their rows are out, so the files may take up to a shard and a flush more.
            read_threads: how many threads read what the page cache does not hold.
            fs: the writes; this machine's by default.

        Raises:
            ValueError: a number is below 1.
            ReplayLocked: the directory is open elsewhere.
            ReplayError: it is damaged, holds another layout, shard size or format, or cannot be
                written; delete it and rebuild.
        """
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
        """True: reading ahead pays."""
        return True

    @property
    def num_bytes(self) -> int:
        """Bytes of the shard files that hold kept rows."""
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
            # The rows first: replay.json must never tell of a row that is not on disk. Old shards
            # last: the replay.json that a crash leaves behind must find all shards it tells of.
            self._shards.sync()
            self._save(state)
            self._shards.remove_before(state.first)
        self._num_unflushed = 0

    def close(self) -> None:
        """Flush, close all files and let go of the lock; a second call does nothing."""
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
        # Reading may close a dirty descriptor and therefore sync it: a failure counts as a write's.
        with self._writing("read"):
            self._shards.read(indices, into)

    def _scan(self, first: int, end: int, chunk: int) -> Iterator[Rows]:
        for rows in super()._scan(first, end, chunk):
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
            raise ReplayError(f"{path} holds {stored}, asked for {self._identity()}")
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
        """Return what a directory must agree on to be opened."""
        return {
            "format": _FORMAT,
            "context_shape": list(self._layout.context_shape),
            "context_dtype": self._layout.context_dtype,
            "action_dim": self._layout.action_dim,
            "shard_size": self._shard_size,
        }

    def _state(self) -> _State:
        table = self._table
        return _State(table.first, table.end, table.evicted_through, self._followed)

    def _release(self) -> None:
        self._shards.close()
        os.close(self._lock)


def _lock(root: Path) -> int:
    """Take the directory's lock; the kernel lets go of it with the descriptor, crash included."""
    try:
        return lock_file(root / _LOCK_FILE)
    except BlockingIOError as error:
        raise ReplayLocked(
            f"{root} is open in another process, or twice in this one: {error}"
        ) from None
