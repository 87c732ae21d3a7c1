"""The errors of the store, and the base of all errors of the service.

They know nothing of HTTP: `http.problems` gives each error its status.

ServiceError
|- InvalidRequest      a field of the request is wrong; names the field
|  `- OutOfRange       a reward is outside of the bandit's range, and is refused for that
|- UnknownDecision     no decision has this id
|- Erased              the decision was erased
|- Conflict            the request contradicts the stored state
|- Unavailable         cannot be done now, may be retried
`- StoreError          the database cannot be used
   |- LogTrimmed       retention removed the requested rows
   |- StoreTaken       another server has the database
   |- StoreUnreadable  a read failed
   `- StoreDamaged     a row's checksum or hash differs
"""

from __future__ import annotations

import re
from typing import Self

from bandexa_core.errors import BandexaError
from bandexa_core.ids import BanditUid

_FIELD = re.compile(r"[\w.\[\]]+")


class ServiceError(BandexaError):
    """Base of the service's own errors."""


class InvalidRequest(ServiceError):
    """A field of the request is wrong.

    Attributes:
        field, message: Which one, and what is wrong with it.
        quotes: Whether the message has a value of an object with named features. The caller may see
            it; no log has contexts or features.
    """

    def __init__(self, field: str, message: str, *, quotes: bool = False) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.quotes = quotes

    @classmethod
    def from_value_error(cls, error: ValueError, default: str) -> Self:
        """Build it from an error of the core whose message begins with `FIELD: `."""
        field, colon, message = str(error).partition(": ")
        if colon and _FIELD.fullmatch(field):
            return cls(field, message)
        return cls(default, str(error))


class OutOfRange(InvalidRequest):
    """A reward is outside of the range that its bandit declares, and is refused for that.

    Attributes:
        uid: The bandit.
    """

    uid: BanditUid | None = None


class UnknownDecision(ServiceError):
    """No decision has this id."""

    def __init__(self, decision_id: str) -> None:
        super().__init__(f"there is no decision {decision_id!r}")


class Erased(ServiceError):
    """The decision was erased: nothing can be reported about it, or explained of it, any more."""

    def __init__(self, decision_id: str) -> None:
        super().__init__(f"decision {decision_id!r} was erased")


class Conflict(ServiceError):
    """The request contradicts the stored state."""


class Unavailable(ServiceError):
    """The request cannot be served at present; retrying later may succeed."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreError(ServiceError):
    """The database cannot be opened or written."""


class StoreTaken(StoreError):
    """Another server has the database."""


class LogTrimmed(StoreError):
    """Retention removed the requested rows from the log."""


class StoreUnreadable(StoreError):
    """A read of the database failed: it is damaged, locked, missing, or the disk refuses."""


class StoreDamaged(StoreError):
    """A row of the database is not what was written: its checksum or hash differs."""


class LogBranched(StoreDamaged):
    """A log has another row where a model has followed it: the database has lost rows of it."""
