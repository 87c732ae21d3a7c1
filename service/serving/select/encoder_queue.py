"""The encoder queue: bounded micro-batching of contexts for slow encoders, off the event loop.

A network that takes longer than about a millisecond for one context (a ResNet on a CPU) would
block every request. Its contexts queue here, and one thread encodes those of one encoder together.
A full queue refuses at once with 503 rather than answer late. The items of a batch request wait
for room in half of the queue, so that single selects find room too. The queue runs on the event
loop. A crash loses nothing: a decision does not exist before it is drawn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from bandexa_core.encoders.protocol import SlowEncoder
from bandexa_core.features.byte_rows import stacked
from bandexa_core.model import ServingModel
from bandexa_core.policies import EncodedContext
from service.serving.bandit import Bandit
from service.serving.errors import EncoderBusy

MAX_PATIENT = 1000  # the most items of a batch: an idle server has room for a whole one


@dataclass(frozen=True, slots=True)
class _Waiting:
    encoder: SlowEncoder
    context: NDArray[Any]
    done: asyncio.Future[EncodedContext]


class EncoderQueue:
    """Encodes contexts in batches.

    Args:
        executor: Runs the encoder, off the event loop.
        max_batch: The most contexts encoded together.
        wait_s: Seconds that a batch waits to be filled.
        max_waiting: The most contexts in the queue; half as many patient ones join them.
    """

    def __init__(
        self, executor: Executor, *, max_batch: int, wait_s: float, max_waiting: int
    ) -> None:
        self._executor = executor
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._max_waiting = max_waiting
        self._queue: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Semaphore((max_waiting + 1) // 2)
        self._num_patient = 0

    @property
    def waiting(self) -> int:
        """Number of contexts in the queue."""
        return len(self._queue)

    async def encode(
        self, bandit: Bandit, context: NDArray[Any], *, patient: bool = False
    ) -> EncodedContext:
        """Return the context's part under the encoder that is served when the context is queued.

        A `patient` caller waits for room in the queue.

        Raises:
            EncoderBusy: The queue is full.
        """
        waiting, limit = len(self._queue), self._max_waiting
        if patient:
            waiting, limit = self._num_patient, MAX_PATIENT
        if waiting >= limit:
            raise EncoderBusy
        if not patient:
            return await self._queued(bandit.model, context)
        self._num_patient += 1
        try:
            async with self._room:
                return await self._queued(bandit.model, context)
        finally:
            self._num_patient -= 1

    async def _queued(self, model: ServingModel, context: NDArray[Any]) -> EncodedContext:
        encoder = model.slow_encoder
        assert encoder is not None, "only slow encoders need this"
        done: asyncio.Future[EncodedContext] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(encoder, model.scaled(context), done))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await done

    async def _run(self) -> None:
        try:
            while self._queue:
                if self._wait_s > 0.0 and len(self._queue) < self._max_batch:
                    await asyncio.sleep(self._wait_s)
                await self._encode(self._take())
        finally:
            self._task = None

    def _take(self) -> list[_Waiting]:
        """Return the oldest contexts of one encoder, without those of cancelled callers."""
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        while self._queue and len(batch) < self._max_batch:
            item = self._queue.popleft()
            if item.done.done():
                continue
            if batch and item.encoder is not batch[0].encoder:
                others.append(item)
            else:
                batch.append(item)
        self._queue.extendleft(reversed(others))
        return batch

    async def _encode(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        loop = asyncio.get_running_loop()
        contexts = stacked([item.context for item in batch])
        try:
            encode = batch[0].encoder.context_parts
            parts = list(await loop.run_in_executor(self._executor, encode, contexts))
            if len(parts) != len(batch):
                raise RuntimeError(f"the encoder gives {len(parts)} parts of {len(batch)} contexts")
        except Exception as error:  # the callers receive it; the queue goes on
            if len(batch) > 1:  # one context may be at fault: each is encoded alone
                for item in batch:
                    await self._encode([] if item.done.done() else [item])
            elif not batch[0].done.done():
                batch[0].done.set_exception(error)
            return
        for item, part in zip(batch, parts, strict=True):
            if not item.done.done():
                item.done.set_result(EncodedContext(part))
