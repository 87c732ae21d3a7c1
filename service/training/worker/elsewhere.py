"""A trainer on any machine: it takes orders from the database, one at a time, until a signal.

The main thread trains. Before a round it takes the lease of the bandit, and publishes only while it
has it. A thread renews the lease, for as long as the round gives signs of work; so a trainer that
hangs, is paused or is cut off loses the bandit to another one, and what it would publish is
refused. Its replays and its cache of snapshots are derived, and may be deleted between two runs.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bandexa_core.errors import SnapshotError, SnapshotRefused
from bandexa_core.ids import BanditUid
from bandexa_core.snapshots.registered import Fence
from service.store.address import PostgresUrl
from service.store.errors import StoreError, StoreUnreadable
from service.store.orders import OpenOrder, TrainingLeases, fence_name, orders_at, process_name
from service.store.snapshots import are_shared
from service.training.errors import BanditGone
from service.training.messages import (
    Configuration,
    Event,
    Failed,
    Gone,
    Heartbeat,
    RoundOrder,
    line_of,
    order_in,
)
from service.training.worker.heartbeat import Heartbeats
from service.training.worker.peer import share_rounds
from service.training.worker.ranks import (
    LOST,
    JoinedRanks,
    RankLost,
    RoundRanks,
    StartedRanks,
    torchrun_ranks,
)
from service.training.worker.trainer import Trainer

log = logging.getLogger(__name__)
MAX_TRIES = 3  # of trainers that die in a round
LOOK_S = 0.25
AGAIN_S = 1.0  # after a look that failed
TIDY_S = 300.0  # between two looks for deleted bandits


class RemoteTrainer:
    """Takes orders, and carries them out.

    Args:
        url: The database.
        configuration: The directories, and how to train.
        lease_s: Time after which another trainer takes over from one that has ended.
        hung_s: Time without a sign of work after which a round is given up.
        ranks: The processes that share its rounds; this one is rank 0.

    Raises:
        StoreError: The snapshots of the database are not shared, or it cannot be read.
    """

    def __init__(
        self,
        url: PostgresUrl,
        configuration: Configuration,
        lease_s: float,
        hung_s: float,
        ranks: RoundRanks | None = None,
    ) -> None:
        try:
            shared = are_shared(url)
        except SnapshotError as error:
            raise StoreUnreadable(str(error)) from error
        if not shared:
            raise StoreError(
                f"the snapshots of {url} are in a server's directory: set `snapshot_store` for that"
                " server, to postgresql for example, and start it once"
            )
        self._name = process_name()
        self._lease_s, self._hung_s = lease_s, hung_s
        self._orders = orders_at(url)
        self._leases = TrainingLeases(url, self._name)
        self._order: OpenOrder | None = None
        # All ranks of torchrun start again where one leaves a round: it is trained to its end.
        self._leaves_rounds = not isinstance(ranks, JoinedRanks)
        self._beaten = 0.0
        self._trainer = Trainer(configuration, Heartbeats(self._beat), ranks)
        self._tidied = time.monotonic()

    def run(self) -> None:
        """Train until SystemExit is raised; an outage of the database is waited out."""
        away = False
        while True:
            try:
                if not self._next():
                    self._tidy()
                    time.sleep(LOOK_S)
                away = False
            except StoreError as error:
                if not away:
                    log.error("orders cannot be read, and are tried again: %s", error)
                away = True
                time.sleep(AGAIN_S)

    def _next(self) -> bool:
        """Carry out the oldest order that nobody works on; False: there is none."""
        for order in self._orders.open():
            epoch = self._leases.lease(order.uid, self._lease_s)
            if epoch is None:  # another trainer was faster
                continue
            with self._held(order, epoch):
                tries = self._orders.take(order, epoch, self._name)
                if tries is None:
                    continue
                if tries > MAX_TRIES:
                    self._answer(order, epoch, Failed(f"{MAX_TRIES} trainers died in this round"))
                else:
                    self._carry_out(order, epoch)
            return True
        return False

    def _carry_out(self, order: OpenOrder, epoch: int) -> None:
        message = order_in(order.message)
        assert isinstance(message, RoundOrder), message
        log.info("a round of %s begins, to row %d", order.uid, message.position)
        self._order, self._trainer.fence = order, Fence(fence_name(order.uid), epoch)
        try:
            self._answer(order, epoch, self._trainer.round(message))
        except BanditGone:
            self._answer(order, epoch, Gone())
        except RankLost as error:  # whoever started this process starts it again
            log.error("the round of %s is left: %s", order.uid, error)
            raise SystemExit(LOST) from error
        except SnapshotRefused as error:
            log.warning("what the round of %s has learned is not published: %s", order.uid, error)
            self._answer(order, epoch, Failed(str(error)))
        except StoreError as error:
            log.error("the round of %s is given up: %s", order.uid, error)
            time.sleep(AGAIN_S)
        except Exception as error:  # the top of the loop: the server counts what is answered
            if self._trainer.is_gone(order.uid):
                self._answer(order, epoch, Gone())
                return
            log.exception("round failed")
            self._answer(order, epoch, Failed(f"{type(error).__name__}: {error}"))
        finally:
            self._order = None

    def _answer(self, order: OpenOrder, epoch: int, event: Event) -> None:
        if not self._orders.finish(order, epoch, line_of(event).decode()):
            log.warning("the round of %s is not wanted any more, or another trainer has it",
                        order.uid)  # fmt: skip

    # -- signs of work, and the lease ---------------------------------------------------------

    def _beat(self, beat: Heartbeat) -> None:
        self._beaten = time.monotonic()
        if self._order is None:
            return
        try:
            is_there = self._orders.beat(self._order, line_of(beat).decode())
        except StoreError as error:  # the round goes on: what it needs of the store may be there
            log.warning("a heartbeat is not noted: %s", error)
            return
        if not is_there and self._leaves_rounds:
            raise BanditGone("the bandit was deleted during the round")

    @contextmanager
    def _held(self, order: OpenOrder, epoch: int) -> Iterator[None]:
        """Hold the lease of a bandit, and give it back at the exit."""
        self._beaten = time.monotonic()
        ends = threading.Event()
        thread = threading.Thread(
            target=self._renew, args=(order.uid, epoch, ends), name="lease", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ends.set()
            try:
                self._leases.release(order.uid, epoch)
            except StoreError as error:
                log.warning("the lease of %s ends by itself: %s", order.uid, error)

    def _renew(self, uid: BanditUid, epoch: int, ends: threading.Event) -> None:
        while not ends.wait(self._lease_s / 3):
            if time.monotonic() - self._beaten > self._hung_s:
                log.error("no sign of work for %.0f s: %s is left to others", self._hung_s, uid)
                return
            try:
                if not self._leases.renew(uid, epoch, self._lease_s):
                    log.warning("another trainer has %s: what this one publishes is refused", uid)
                    return
            except StoreError as error:
                log.warning("the lease of %s is not renewed: %s", uid, error)

    def _tidy(self) -> None:
        """Remove the replays of deleted bandits, now and then."""
        if time.monotonic() - self._tidied > TIDY_S:
            self._tidied = time.monotonic()
            self._trainer.forget_deleted()


def end_by_signal() -> None:
    """Have SIGTERM and SIGINT end this process at once; what it holds is given back."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)


def run(url: PostgresUrl, configuration: Configuration, lease_s: float, hung_s: float) -> None:
    """Train until a signal; see `RemoteTrainer`. Under `torchrun`, ranks after 0 follow rank 0."""
    os.nice(configuration.niceness)
    ranks: RoundRanks = torchrun_ranks(configuration, os.environ)
    if isinstance(ranks, JoinedRanks) and ranks.rank:
        log.info("rank %d of %d follows rank 0", ranks.rank, ranks.size)
        share_rounds(Trainer(configuration, Heartbeats(lambda beat: None), ranks), ranks)
    if ranks.size == 1 and configuration.processes > 1:
        ranks = StartedRanks(configuration)
    trainer = RemoteTrainer(url, configuration, lease_s, hung_s, ranks)
    end_by_signal()
    log.info("the trainer takes orders from %s", url)
    trainer.run()
