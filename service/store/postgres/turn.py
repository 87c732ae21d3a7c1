"""Waits for the lock of a database that another server has, and takes nothing meanwhile.

A look at the locks suffices, so that the other server can take its own again after it was lost. It
also goes first after an outage of the database: it has its models in memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from service.store.address import PostgresUrl
from service.store.postgres.connection import Session
from service.store.postgres.faults import ERRORS, describe
from service.store.postgres.schema import LOCK

log = logging.getLogger(__name__)
LOOKS_EVERY_S = 0.25
# So many looks at a free lock, one after the other, let the server of before connect again: where
# its connection alone ended, and where the database was away. Time in which this process stands
# still does not count.
FREE_LOOKS = 7
LOOKS_AFTER_OUTAGE = 13
_IS_TAKEN = """
SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid::bigint = $1 AND objid = current_schema()::regnamespace::oid)
"""


def wait_for_turn(url: PostgresUrl, waiting: Callable[[], None]) -> None:
    """Return once no server has had a database for some time.

    Args:
        url: The database.
        waiting: Called before each look; what it raises ends the wait.
    """
    session: Session | None = None
    num_free, was_away = 0, False
    try:
        while True:
            waiting()
            try:
                if session is None:
                    session = Session(url, own_loop=True)
                ((is_taken,),) = session.fetch(_IS_TAKEN, LOCK)
            except ERRORS as error:
                if session is not None or not was_away:
                    log.warning("standby: the database is away: %s", describe(error))
                if session is not None:
                    session.close()
                    session = None
                was_away, is_taken = True, True
            if is_taken:
                num_free = 0
                was_away = was_away and session is None
            else:
                num_free += 1
                if num_free >= (LOOKS_AFTER_OUTAGE if was_away else FREE_LOOKS):
                    return
            time.sleep(LOOKS_EVERY_S)
    finally:
        if session is not None:
            session.close()
