"""Batches for training, read from a replay on disk by a thread while the last one is used.

Runs in the process that trains. The thread draws exactly as a plain loop of `sample` would: the
same generator, in the same order, so training does not depend on who reads. Nothing is kept.
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

# One batch in use, one ready and one being read: a slow read is not waited for at once.
_NUM_BUFFERS = 3


class PrefetchedBatches:
    """An iterator over random batches, the next ones read ahead into a ring of buffers.

    A batch holds until the next is asked for: its memory is then read into again. Until `close`,
    neither the replay nor the generator may be used by anyone else; after an early close, the
    generator is ahead by the batches that were drawn and not used.
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
            replay: what batches are drawn from.
            rng: source of the draws.
            batch_size: rows of a batch.
            num_batches: how many batches there are.
            cumulative_N: as for `Replay.sample`.
            allocate: makes an array of a shape and a dtype name; pinned memory is copied to a
                device faster.

        Raises:
            ValueError: `batch_size` or `num_batches` is below 1. What `sample` raises comes out
                where the batch is asked for.
        """
        for name, value in (("batch_size", batch_size), ("num_batches", num_batches)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self._replay = replay
        self._rng = rng
        self._batch_size = batch_size
        self._num_batches = num_batches
        self._cumulative_N = cumulative_N
        self._free: SimpleQueue[RowBuffers | None] = SimpleQueue()  # None wakes the thread to end
        self._ready: SimpleQueue[tuple[Rows, RowBuffers] | Exception | None] = SimpleQueue()
        self._in_use: RowBuffers | None = None
        self._ended = False
        self._closing = False
        for _ in range(min(_NUM_BUFFERS, num_batches)):
            self._free.put(RowBuffers.for_rows(replay.layout, batch_size, allocate))
        self._thread = threading.Thread(target=self._draw, name="replay-prefetch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the read in progress and end the thread; a second call does nothing."""
        self._closing = True
        self._free.put(None)
        self._thread.join()

    def __iter__(self) -> Iterator[Rows]:
        return self

    def __next__(self) -> Rows:
        """Return the next batch; the one before is overwritten from now on."""
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
        except Exception as error:  # raised again in the thread that asks for the batch
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
    """Return so many random batches, to be used in a with block: read ahead if they are on disk.

    The rows are the same either way. A batch holds until the next is asked for. See
    `PrefetchedBatches` for the arguments.
    """
    if replay.is_on_disk:
        return PrefetchedBatches(
            replay, rng, batch_size, num_batches, cumulative_N, allocate=allocate
        )
    batches = (replay.sample(rng, batch_size, cumulative_N) for _ in range(num_batches))
    return nullcontext(batches)
