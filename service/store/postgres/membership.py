"""A server among those that share a database: its number, and which of them is the keeper.

Each has the lease of a number, by which its keys of decisions differ from those of the others, and
one has the lease of the *keeper*, who alone trains, closes windows, applies retention and
administers bandits. A thread renews them. A keeper that does not renew its lease, because it was
paused or cut off, has lost it to the next that asks.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from hashlib import blake2b

from service.observe.counters import SharedCount
from service.store.address import PostgresUrl
from service.store.errors import StoreError
from service.store.postgres.connection import Session
from service.store.postgres.faults import ERRORS, describe
from service.store.postgres.leases import KEEPER, Leases
from service.store.postgres.schema import open_writer

log = logging.getLogger(__name__)
RENEWALS = 5  # within the time of a lease
_NUMBER = "server/"
_SECRET = "SELECT value FROM meta WHERE key = 'secret'"
_AT = " at "  # between the name of a holder and its URL


class Membership:
    """The leases of one server; used on the thread that it starts, but for its attributes.

    Args:
        url: The database.
        servers: How many servers may share it.
        name: A name of this server that no other one has; the same after its process was replaced.
        own_url: Where other servers reach it.
        lease_s: How long a lease holds that is not renewed.
        diverged: Counts how often the models of this server were of another branch of the log.

    Attributes:
        number: From 0 on, below `servers`.
        diverged: As given.
        servers: As given.
        live: How many servers have a number now; at least this one.
        secret: What only the servers of this database know.
        epoch: Of the keeper's lease; None: another server is the keeper.
        keeper_url: Where the keeper is reached; None: there is none now, or it is this one.
        lost: Why this process has to end; None while it holds what it started with.
        is_promoted: Whether it ends to start again as the keeper.

    Raises:
        StoreError: The database cannot be used, or has as many servers as may share it.
    """

    def __init__(
        self,
        url: PostgresUrl,
        servers: int,
        name: str,
        own_url: str,
        lease_s: float,
        diverged: SharedCount,
    ) -> None:
        self.diverged = diverged
        self._url = url
        self._lease_s = lease_s
        self.servers = servers
        self._holder = f"{name}{_AT}{own_url}"
        self.lost: str | None = None
        self.is_promoted = False
        self.keeper_url: str | None = None
        open_writer(url, shared=True).close()  # the tables are there, and of this release
        self._session = Session(url, own_loop=True)
        self._leases = Leases(self._session, self._holder)
        try:
            self.number, self._number_epoch = self._number_within()
            self.epoch = self._leases.lease(KEEPER, self._lease_s)
            self.live = self._count()
            ((stored,),) = self._session.fetch(_SECRET)
            self.secret = blake2b(b"servers", key=bytes.fromhex(stored)).hexdigest()
            self._find_keeper()
        except (*ERRORS, StoreError) as error:
            self._session.close()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{url}: {describe(error)}") from error
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._thread.start()

    def _take_number(self) -> tuple[int, int] | None:
        held = {each.name: each.holder for each in self._leases.found(_NUMBER) if each.left_s > 0}
        names = [f"{_NUMBER}{number}" for number in range(self.servers)]
        own = [number for number, name in enumerate(names) if held.get(name) == self._holder]
        for number in (*own, *(n for n, name in enumerate(names) if name not in held)):
            epoch = self._leases.lease(names[number], self._lease_s)
            if epoch is not None:
                return number, epoch
        return None

    def _number_within(self) -> tuple[int, int]:
        """Take a number; one that a killed server had is free after the time of a lease."""
        until = time.monotonic() + self._lease_s + 1.0
        while (taken := self._take_number()) is None:
            if time.monotonic() > until:
                raise StoreError(f"{self._url} has {self.servers} servers: set `servers` to more")
            time.sleep(self._lease_s / RENEWALS)
        return taken

    def _count(self) -> int:
        return max(1, sum(each.left_s > 0 for each in self._leases.found(_NUMBER)))

    @property
    def is_keeper(self) -> bool:
        """Whether this server is the keeper."""
        return self.epoch is not None

    def end(self) -> None:
        """Give the leases back, but for those that the next process of this server takes up."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._renew()
            self._ending.wait()
            if not self.is_promoted and not self._session.is_closed:
                self._leases.release(f"{_NUMBER}{self.number}", self._number_epoch)
                if self.epoch is not None:
                    self._leases.release(KEEPER, self.epoch)
        except ERRORS as error:
            log.warning("the leases of this server end by themselves: %s", describe(error))
        finally:
            self._session.close()

    def _renew(self) -> None:
        while not self._ending.wait(self._lease_s / RENEWALS):
            try:
                if self._session.is_closed:
                    self._session = Session(self._url, own_loop=True)
                    self._leases = Leases(self._session, self._holder)
                self._turn()
            except ERRORS as error:
                log.warning("the leases of this server cannot be renewed: %s", describe(error))
                with suppress(*ERRORS):
                    self._session.close()
            if self.lost is not None:
                return

    def _turn(self) -> None:
        if not self._leases.renew(f"{_NUMBER}{self.number}", self._number_epoch, self._lease_s):
            self.lost = "another server has taken the number of this one, which was away"
        elif self.epoch is not None:
            if not self._leases.renew(KEEPER, self.epoch, self._lease_s):
                self.lost = "another server is the keeper now: this one was away"
        elif self.is_promoted or self._keeper_is_away():
            # Prolonged until the next process has it, which may take a while.
            epoch = self._leases.lease(KEEPER, self._lease_s)
            if epoch is not None and not self.is_promoted:
                log.warning("this server becomes the keeper: it starts again as that")
                self.is_promoted = True
        self.live = self._count()
        self._find_keeper()

    def _keeper_is_away(self) -> bool:
        """Whether the keeper's lease has ended; to try to take it would wait for the keeper."""
        return all(each.left_s <= 0 for each in self._leases.found(KEEPER))

    def _find_keeper(self) -> None:
        for each in self._leases.found(KEEPER):
            away = each.left_s <= 0 or each.holder == self._holder or _AT not in each.holder
            self.keeper_url = None if away else each.holder.partition(_AT)[2]
