"""What the frozen part of an encoder gives for replay rows, kept in half precision.

Lives in the trainer, used by one thread. Derived and disposable like the replay beside it: the
file is emptied when it is opened, grows as training draws rows, and stops growing at its limit.
Nothing is synced. Activations always pass through half precision, kept or not, so that training
sees the same numbers either way. Shapes: N rows, Y one row's activations.
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
        path: The file; it is emptied.
        max_bytes: Size it never exceeds.

    Raises:
        ReplayError: The file cannot be made; or, from `get`, read.
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
        """Bytes in the file."""
        return os.fstat(self._file).st_size

    def __len__(self) -> int:
        """Return the number of rows kept."""
        return len(self._records)

    def get(
        self,
        key: str,
        positions: NDArray[np.int64],
        compute: Callable[[NDArray[np.int64]], Half],
    ) -> Half:
        """Return the activations of rows, (N, *Y).

        Args:
            key: Names the frozen part; under another one than before nothing is kept any more.
            positions: The rows' log positions, (N,).
            compute: Gives the activations of the rows with these indexes into `positions`.
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
            self._keep(wanted[~known], fresh)
        for index in np.flatnonzero(known):
            self._read(self._records[int(wanted[index])], out[index])
        return out[inverse]

    def close(self) -> None:
        """Let go of the file and remove it; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._path.unlink(missing_ok=True)

    def _start_over(self, key: str) -> None:
        self._key = key
        self._records.clear()
        os.ftruncate(self._file, 0)

    def _keep(self, positions: NDArray[np.int64], rows: Half) -> None:
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
        except OSError as error:  # a full disk: what is there stays of use
            log.warning("%s: no more activations are kept: %s", self._path, error)
            self._full = True

    def _read(self, record: int, out: Half) -> None:
        try:
            read = os.preadv(self._file, [out.data.cast("B")], record * out.nbytes)
        except OSError as error:
            raise ReplayError(f"{self._path}: {error}") from error
        if read != out.nbytes:
            raise ReplayError(f"{self._path}: the file is shorter than it was")
