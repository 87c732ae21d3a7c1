"""Training batches that a thread reads ahead from a replay on disk.

It runs in the trainer process. The thread draws exactly like a plain loop over `sample`, from the
same generator in the same order, so that training does not depend on the thread. Nothing is stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bandexa_core.errors import ClosedError
from bandexa_core.replay.protocol import RowBuffers, Rows, TrainingRows

# One batch is in use, one is ready and one is being read, so that one slow read causes no wait.
_NUM_BUFFERS = 3


class PrefetchedBatches:
    """An iterator over random batches, which a thread reads ahead into a ring of buffers.

    A batch is valid until the next one is requested, which reuses its memory. Nothing else may use
    the replay or the generator until `close`. After an early close, the generator has advanced by
    the batches that were drawn and not used.
    """

    def __init__(
        self,
        replay: TrainingRows,
        rng: np.random.Generator,
        batch_size: int,
        num_batches: int,
        cumulative_N: NDArray[np.float64] | None = None,
        *,
        allocate: Callable[[tuple[int, ...], str], NDArray[Any]] = np.empty,
    ) -> None:
        """Start reading.

        Args:
            replay: The rows to draw from.
            rng: Source of the draws.
            batch_size: Number of rows of a batch.
            num_batches: Number of batches.
            cumulative_N: See `TrainingRows.sample`.
            allocate: Returns an array of a shape and a dtype name. Pinned memory is copied to a
                device faster.

        Raises:
            ValueError: `batch_size` or `num_batches` is below 1. Exceptions of `sample` are raised
                by the call that requests the batch.
        """
        for name, value in (("batch_size", batch_size), ("num_batches", num_batches)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self._replay = replay
        self._rng = rng
        self._batch_size = batch_size
        self._num_batches = num_batches
        self._cumulative_N = cumulative_N
        self._free: SimpleQueue[RowBuffers | None] = SimpleQueue()  # None ends the thread
        self._ready: SimpleQueue[tuple[Rows, RowBuffers] | Exception | None] = SimpleQueue()
        self._in_use: RowBuffers | None = None
        self._ended = False
        self._closing = False
        for _ in range(min(_NUM_BUFFERS, num_batches)):
            self._free.put(RowBuffers.for_rows(replay.layout, batch_size, allocate))
        self._thread = threading.Thread(target=self._draw, name="replay-prefetch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the current read and end the thread; a second call does nothing."""
        self._closing = True
        self._free.put(None)
        self._thread.join()

    def __iter__(self) -> Iterator[Rows]:
        return self

    def __next__(self) -> Rows:
        """Return the next batch; the memory of the one before is reused from now on."""
        if self._closing:
            raise ClosedError("these batches are closed")
        if self._in_use is not None:
            self._free.put(self._in_use)
            self._in_use = None
        item = None if self._ended else self._ready.get()
        if isinstance(item, tuple):
            rows, self._in_use = item
            return rows
        self._ended = True
        if item is None:
            raise StopIteration
        raise item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _draw(self) -> None:
        try:
            for _ in range(self._num_batches):
                buffers = self._free.get()
                if buffers is None or self._closing:
                    return
                rows = self._replay.sample(
                    self._rng, self._batch_size, self._cumulative_N, out=buffers
                )
                self._ready.put((rows, buffers))
        except Exception as error:  # the thread that requests the batch raises it
            self._ready.put(error)
        else:
            self._ready.put(None)


def training_batches(
    replay: TrainingRows,
    rng: np.random.Generator,
    batch_size: int,
    num_batches: int,
    cumulative_N: NDArray[np.float64] | None = None,
    *,
    allocate: Callable[[tuple[int, ...], str], NDArray[Any]] = np.empty,
) -> AbstractContextManager[Iterator[Rows]]:
    """Return random batches for use in a with block, read ahead when the rows are on disk.

    The rows are the same in both cases. A batch is valid until the next one is requested. See
    `PrefetchedBatches` for the arguments.
    """
    if replay.is_on_disk:
        return PrefetchedBatches(
            replay, rng, batch_size, num_batches, cumulative_N, allocate=allocate
        )
    batches = (replay.sample(rng, batch_size, cumulative_N) for _ in range(num_batches))
    return nullcontext(batches)
