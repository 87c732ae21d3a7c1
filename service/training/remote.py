"""Rounds by trainers on other machines: the server orders them, and waits for their answers.

It stands in the place of the supervisor of a child. An order is a row of the database, which any
trainer takes; several bandits may be trained at once. The rows are looked at on a thread, so that
an outage of the database delays rounds and nothing else. A trainer that dies loses its lease, and
another one begins its round again. Orders outlive the server: what was published meanwhile is
served by the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time

from bandexa_core.ids import BanditUid
from service.observe.counters import Metrics
from service.store.address import PostgresUrl
from service.store.errors import StoreError
from service.store.orders import OrderState, orders_at, process_name
from service.training.errors import BanditGone, RoundFailed, ServerEnds
from service.training.messages import (
    Event,
    Gone,
    Heartbeat,
    Published,
    event_in,
    line_of,
)
from service.training.requests import RoundRequests, RoundSource, published_by

log = logging.getLogger(__name__)
LOOK_S = 0.2
AGAIN_S = 1.0  # after a look that failed


class RemoteTrainers(RoundRequests):
    """See `TrainerSupervisor`, whose attributes these are.

    Args:
        url: The database that the trainers read.
        rounds: Orders rounds and swaps their models in.
        metrics: Counts completed and failed rounds.
    """

    def __init__(self, url: PostgresUrl, rounds: RoundSource, metrics: Metrics) -> None:
        super().__init__(rounds, metrics)
        self._orders = orders_at(url)
        self._name = process_name()
        self._tasks: dict[BanditUid, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._asked: dict[BanditUid, tuple[str, asyncio.Future[Event]]] = {}
        self._untaken: dict[BanditUid, float] = {}  # since when
        self._beats: dict[BanditUid, tuple[float, Heartbeat | None]] = {}  # of those taken
        self._swapping: set[BanditUid] = set()
        self.resident_bytes = 0

    # -- state --------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """None: it is another machine's."""
        return None

    @property
    def busy_with(self) -> BanditUid | None:
        """The bandit that has been in training for the longest time."""
        return next(iter(self._beats), None)

    @property
    def state(self) -> str:
        """One of stopped, starting, idle, training."""
        if self._looking is None or self._looking.done():
            return "stopped"
        if self._beats or self._swapping:
            return "training"
        return "starting" if self._untaken else "idle"

    @property
    def phase(self) -> str:
        """One of `PHASES`."""
        if self._beats:
            _, beat = next(iter(self._beats.values()))
            return "replay" if beat is None else beat.phase
        return "swap" if self._swapping else self.state

    @property
    def waiting(self) -> int:
        """Number of bandits whose rounds no trainer has begun."""
        return len(self._waiting) + len(self._untaken)

    @property
    def silent_s(self) -> float:
        """Seconds since the last heartbeat of the round that is silent for the longest time."""
        return max((time.monotonic() - at for at, _ in self._beats.values()), default=0.0)

    @property
    def down_s(self) -> float:
        """Seconds for which an order has waited while no trainer was at work; 0 when one is."""
        if self._beats or self._swapping or not self._untaken:
            return 0.0
        return time.monotonic() - min(self._untaken.values())

    def is_queued(self, uid: BanditUid) -> bool:
        """Whether a round of the bandit is queued or under way."""
        return uid in self._waiting or uid in self._tasks

    # -- for the service ----------------------------------------------------------------------

    def start(self) -> None:
        """Look at the orders from here on."""
        self._looking = asyncio.create_task(self._look(), name="remote-trainers")

    async def close(self) -> None:
        """Fail what is waited for; calling it again does nothing."""
        self._closed = True
        tasks = [*self._tasks.values(), *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reject_all(ServerEnds())

    def _queue(self, uid: BanditUid) -> None:
        if uid not in self._tasks:
            self._tasks[uid] = asyncio.create_task(self._serve(uid), name=f"round-{uid}")

    async def forget(self, uid: BanditUid) -> bool:
        """Forget a deleted bandit; False: its files are the server's to remove."""
        self._forget(uid)
        return False

    # -- rounds -------------------------------------------------------------------------------

    async def _serve(self, uid: BanditUid) -> None:
        """Have all rounds of a bandit done that are asked for, one after the other."""
        try:
            while uid in self._waiting:
                await self._answer(uid)
        finally:
            del self._tasks[uid]

    async def _round(self, uid: BanditUid) -> Published:
        order = await self._source.order_for(uid)
        if order is None:
            raise BanditGone("the bandit was deleted")
        number, message = secrets.token_hex(8), line_of(order).decode()
        answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.to_thread(self._orders.ask, uid, number, message, self._name)
            self._untaken[uid] = time.monotonic()
            self._asked[uid] = number, answer
            event = await answer
        except StoreError as error:
            raise RoundFailed(f"the round cannot be ordered: {error}") from error
        finally:
            self._asked.pop(uid, None)
            self._untaken.pop(uid, None)
            self._beats.pop(uid, None)
        published = published_by(event)
        self._metrics.round_seconds.observe(published.metrics["round_seconds"])
        self._swapping.add(uid)
        try:
            await self._source.published(uid, published)
        finally:
            self._swapping.discard(uid)
        return published

    # -- the orders ---------------------------------------------------------------------------

    async def _look(self) -> None:
        away = False
        while True:
            await asyncio.sleep(AGAIN_S if away else LOOK_S)
            if not self._asked:
                continue
            try:
                asked = {uid: number for uid, (number, _) in self._asked.items()}
                states = await asyncio.to_thread(self._orders.look, list(asked))
                for found in states:
                    self._take(found)
                for uid in asked.keys() - {found.uid for found in states}:
                    self._end_deleted(uid, asked[uid])
                away = False
            except StoreError as error:
                if not away:
                    log.error("the orders of training rounds cannot be read: %s", error)
                away = True
            except Exception:  # the top of the loop: without it no round would end
                log.exception("the orders of training rounds cannot be understood")
                away = True

    def _end_deleted(self, uid: BanditUid, asked: str) -> None:
        """Answer an order that went with its bandit."""
        number, answer = self._asked.get(uid, ("", None))
        if answer is not None and number == asked and not answer.done():
            answer.set_result(Gone())

    def _take(self, found: OrderState) -> None:
        """Note how far an order is."""
        number, answer = self._asked.get(found.uid, ("", None))
        if answer is None or found.number != number or answer.done():
            return
        if found.outcome is not None:
            answer.set_result(event_in(found.outcome))
            return
        if found.taken_by is None:
            return
        self._untaken.pop(found.uid, None)
        beat = None if found.beat is None else event_in(found.beat)
        with contextlib.suppress(KeyError):
            if self._beats[found.uid][1] == beat:
                return
        assert beat is None or isinstance(beat, Heartbeat), beat
        self._beats[found.uid] = time.monotonic(), beat
        if beat is not None:
            self.resident_bytes = beat.resident_bytes
            if beat.replay_rows is not None and beat.replay_bytes is not None:
                self.replays[found.uid] = beat.replay_rows, beat.replay_bytes
