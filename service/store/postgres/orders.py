"""Orders of training rounds: a server writes one for each bandit, a trainer takes and answers it.

A bandit has one order at a time; a later one replaces it, and it goes with its bandit. Messages are
texts of whoever uses this. Every method raises StoreUnreadable where the database is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bandexa_core.ids import BanditUid
from service.store.postgres.faults import as_unreadable
from service.store.postgres.leases import held, training
from service.store.postgres.register import Connected

_ASK = """
INSERT INTO orders AS o VALUES ($1, $2, $3, clock_timestamp(), $4, 0, NULL, NULL, NULL)
ON CONFLICT (uid) DO UPDATE SET number = excluded.number, message = excluded.message,
  asked = excluded.asked, asked_by = excluded.asked_by, tries = 0, taken_by = NULL, beat = NULL,
  outcome = NULL
"""
_OPEN = """
SELECT o.uid, o.number, o.message FROM orders AS o WHERE o.outcome IS NULL AND NOT EXISTS (
  SELECT FROM leases AS l WHERE l.name = 'train/' || o.uid AND l.until > clock_timestamp()
  AND l.holder <> '')
ORDER BY o.asked, o.uid
"""
_LOOK = "SELECT uid, number, taken_by, beat, outcome FROM orders WHERE uid = ANY ($1)"
_TAKE = f"""
UPDATE orders SET tries = tries + 1, taken_by = $5, beat = NULL
WHERE uid = $1 AND number = $2 AND outcome IS NULL AND {held("$3", "$4")} RETURNING tries
"""
_BEAT = """
UPDATE orders SET beat = CASE WHEN number = $2 AND outcome IS NULL THEN $3 ELSE beat END
WHERE uid = $1 RETURNING uid
"""
_FINISH = f"""
UPDATE orders SET outcome = $5
WHERE uid = $1 AND number = $2 AND outcome IS NULL AND {held("$3", "$4")} RETURNING uid
"""


class OpenOrder(NamedTuple):
    """An order that no trainer works on.

    Attributes:
        uid: The bandit.
        number: Never that of another order.
        message: What is asked for.
    """

    uid: BanditUid
    number: str
    message: str


class OrderState(NamedTuple):
    """How far an order is.

    Attributes:
        uid: The bandit.
        number: See `OpenOrder`.
        taken_by: The trainer that works on it, or did; None: none so far.
        beat: Its last sign of work.
        outcome: Its answer; None: it has not ended.
    """

    uid: BanditUid
    number: str
    taken_by: str | None
    beat: str | None
    outcome: str | None


class Orders:
    """The orders of a database.

    Args:
        db: A connection to it.
    """

    def __init__(self, db: Connected) -> None:
        self._db = db

    def ask(self, uid: BanditUid, number: str, message: str, by: str) -> None:
        """Order a round; it replaces an earlier order of the bandit."""
        with as_unreadable():
            self._db.fetch(_ASK, uid, number, message, by)

    def look(self, uids: Sequence[BanditUid]) -> list[OrderState]:
        """Return how far the orders of these bandits are."""
        with as_unreadable():
            return [OrderState(*row) for row in self._db.fetch(_LOOK, list(uids))]

    def open(self) -> list[OpenOrder]:
        """Return the orders that nobody works on, the oldest first."""
        with as_unreadable():
            return [OpenOrder(*row) for row in self._db.fetch(_OPEN)]

    def take(self, order: OpenOrder, epoch: int, by: str) -> int | None:
        """Begin to work on an order; returns how many have, None: it is not there any more."""
        with as_unreadable():
            found = self._db.fetch(_TAKE, order.uid, order.number, training(order.uid), epoch, by)
        return int(found[0][0]) if found else None

    def beat(self, order: OpenOrder, text: str) -> bool:
        """Say how far the work is; False: the bandit was deleted, and its order with it."""
        with as_unreadable():
            return bool(self._db.fetch(_BEAT, order.uid, order.number, text))

    def finish(self, order: OpenOrder, epoch: int, outcome: str) -> bool:
        """Answer an order; False: it was replaced, or the lease is lost."""
        with as_unreadable():
            name = training(order.uid)
            return bool(self._db.fetch(_FINISH, order.uid, order.number, name, epoch, outcome))
