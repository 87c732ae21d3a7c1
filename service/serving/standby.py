"""A server that stands by: another one has the database, and this one serves once that has ended.

What would keep it from serving is found at its start, not at the moment when it is needed: that the
other one has its snapshots where this one does not find them, that the data directory belongs to
another log, or that the database has a newer format.
"""

from __future__ import annotations

import logging
import time

from bandexa_core.errors import SnapshotError
from service.serving.progress import StartProgress
from service.settings import Settings
from service.store.address import PostgresUrl
from service.store.errors import StoreError
from service.store.opening import log_uid, require_openable
from service.store.placing import note_store
from service.store.snapshots import require_noted

log = logging.getLogger(__name__)
CREATED_WITHIN_S = 5.0  # two servers may start together, and one of them creates the tables


class Standby:
    """Called while the other server has the database; see `store.opening.wait_for_turn`.

    Args:
        settings: This server's.
        address: The database.
        progress: Says that it waits, and when it has to end.
    """

    def __init__(self, settings: Settings, address: PostgresUrl, progress: StartProgress) -> None:
        self._settings = settings
        self._address = address
        self._progress = progress
        self._since = time.monotonic()
        self._checked = False
        log.warning("standby: another server has %s; this one serves once it ends", address)

    def __call__(self) -> None:
        """Go on waiting.

        Raises:
            StartGivenUp: This server has to end.
            StoreError: It could not serve this database.
        """
        self._progress.stand_by(time.monotonic() - self._since)
        self._progress.heed()
        if self._checked:
            return
        try:
            self._check()
        except (SnapshotError, StoreError) as error:
            if time.monotonic() - self._since < CREATED_WITHIN_S:
                return
            raise StoreError(f"standby: {error}") from error
        self._checked = True

    def ended(self) -> None:
        """Note that the wait is over."""
        waited_s = time.monotonic() - self._since
        log.warning("standby: no server has the database any more, after %.1f s", waited_s)
        self._progress.stand_by(None)

    def _check(self) -> None:
        require_openable(self._address)
        note_store(self._settings.data_dir, self._address, log_uid(self._address))
        assert self._settings.snapshot_store is not None, "the settings are checked"
        require_noted(self._address, self._settings.snapshot_store)
