"""A cache of the activations that the frozen part of an encoder returns for replay rows.

It lives in the trainer process, and one thread uses it. Like the replay beside it, it is derived
and disposable: opening the file empties it, training fills it up to its limit, and nothing is
synced. All activations are rounded to half precision, whether they are cached or not, so that the
cache does not change what training sees. Shapes: N rows, Y the activations of one row.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bandexa_core.errors import ReplayError

log = logging.getLogger(__name__)
Half = NDArray[np.float16]


class ActivationCache:
    """Rows of float16 by log position, in one file.

    Args:
        path: The file; it is created or emptied.
        max_bytes: Largest size of the file.

    Raises:
        ReplayError: The file cannot be created.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self.max_bytes = max_bytes
        self._full = False
        self._key: str | None = None
        self._records: dict[int, int] = {}
        self._shape: tuple[int, ...] = ()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise ReplayError(f"{path}: {error}") from error

    @property
    def num_bytes(self) -> int:
        """Size of the file in bytes."""
        return os.fstat(self._file).st_size

    def __len__(self) -> int:
        """Return the number of cached rows."""
        return len(self._records)

    def get(
        self,
        key: str,
        positions: NDArray[np.int64],
        compute: Callable[[NDArray[np.int64]], Half],
    ) -> Half:
        """Return the activations of rows, (N, *Y).

        Args:
            key: Identifies the frozen part; another key than before empties the cache.
            positions: The log positions of the rows, (N,).
            compute: Returns the activations of the rows at some indices of `positions`.

        Raises:
            ReplayError: The file cannot be read.
        """
        if key != self._key:
            self._start_over(key)
        wanted, inverse = np.unique(positions, return_inverse=True)
        first = np.zeros(len(wanted), np.int64)
        first[inverse[::-1]] = np.arange(len(positions))[::-1]
        known = np.array([position in self._records for position in wanted.tolist()])
        fresh = (
            np.ascontiguousarray(compute(first[~known]), np.float16) if not known.all() else None
        )
        if fresh is not None:
            self._shape = fresh.shape[1:]
        out = np.empty((len(wanted), *self._shape), np.float16)
        if fresh is not None:
            out[~known] = fresh
            self._store(wanted[~known], fresh)
        for index in np.flatnonzero(known):
            self._read(self._records[int(wanted[index])], out[index])
        return out[inverse]

    def close(self) -> None:
        """Close and remove the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._path.unlink(missing_ok=True)

    def _start_over(self, key: str) -> None:
        self._key = key
        self._records.clear()
        os.ftruncate(self._file, 0)

    def _store(self, positions: NDArray[np.int64], rows: Half) -> None:
        if self._full:
            return
        size = rows[0].nbytes
        room = max(0, self.max_bytes // size - len(self._records))
        try:
            for position, row in zip(positions[:room].tolist(), rows, strict=False):
                record = len(self._records)
                if os.pwrite(self._file, row.data.cast("B"), record * size) != size:
                    raise OSError("the row was written in part")
                self._records[position] = record
        except OSError as error:  # such as a full disk; the cached rows remain usable
            log.warning("%s: no more activations are stored: %s", self._path, error)
            self._full = True

    def _read(self, record: int, out: Half) -> None:
        try:
            read = os.preadv(self._file, [out.data.cast("B")], record * out.nbytes)
        except OSError as error:
            raise ReplayError(f"{self._path}: {error}") from error
        if read != out.nbytes:
            raise ReplayError(f"{self._path}: the file is shorter than it was")
