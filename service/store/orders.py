"""What servers and trainers on other machines say to each other, by a database.

It needs the driver of PostgreSQL: import it where a store is a database.
"""

from __future__ import annotations

from service.store.address import PostgresUrl
from service.store.postgres.faults import as_unreadable
from service.store.postgres.leases import Leases, process_name, training
from service.store.postgres.orders import OpenOrder, Orders, OrderState
from service.store.postgres.register import Connected

__all__ = ["OpenOrder", "OrderState", "Orders", "TrainingLeases", "orders_at", "process_name"]


def orders_at(url: PostgresUrl) -> Orders:
    """Return the orders of a database; it is connected to when they are used."""
    return Orders(Connected(url))


class TrainingLeases:
    """The leases of a trainer, each for the rounds of one bandit.

    Every method raises StoreUnreadable where the database is away.

    Args:
        url: The database.
        holder: The trainer.
    """

    def __init__(self, url: PostgresUrl, holder: str) -> None:
        self._leases = Leases(Connected(url), holder)

    def lease(self, uid: str, ttl_s: float) -> int | None:
        """Take a bandit; see `Leases.lease`."""
        with as_unreadable():
            return self._leases.lease(training(uid), ttl_s)

    def renew(self, uid: str, epoch: int, ttl_s: float) -> bool:
        """Hold a bandit; see `Leases.renew`."""
        with as_unreadable():
            return self._leases.renew(training(uid), epoch, ttl_s)

    def release(self, uid: str, epoch: int) -> bool:
        """Give a bandit back; see `Leases.release`."""
        with as_unreadable():
            return self._leases.release(training(uid), epoch)


def fence_name(uid: str) -> str:
    """Return the name of the lease that a trainer of a bandit has."""
    return training(uid)
