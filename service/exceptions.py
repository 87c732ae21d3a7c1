"""What can go wrong below HTTP. `errors.py` gives each its status; nothing here knows of one.

ServiceError
|- InvalidRequest      a field of the request is wrong; names the field
|- UnsupportedBody     the body is in no encoding the service reads
|- UnknownBandit, UnknownDecision, UnknownAction, UnknownSnapshot
|- Conflict            the request contradicts what is there
|- Unavailable         cannot be done now, may be tried again
|- Unauthorized        no API key, or one that is not known
|- Forbidden           the API key is not good for this
`- StoreError          the database cannot be used
   `- LogTrimmed       rows that were asked for left the log
   `- StoreDamaged     a row is not what was written
"""

from __future__ import annotations

from bandexa_core.errors import BandexaError


class ServiceError(BandexaError):
    """Base of the service's own errors."""


class InvalidRequest(ServiceError):
    """A field of the request is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    @classmethod
    def from_value_error(cls, error: ValueError, default: str) -> InvalidRequest:
        """Build it from a core error whose message begins with the field's name and a colon."""
        field, colon, message = str(error).partition(": ")
        if colon and field.replace(".", "").replace("_", "").isalnum():
            return cls(field, message)
        return cls(default, str(error))


class UnsupportedBody(ServiceError):
    """The body is in no encoding the service reads."""


class UnknownBandit(ServiceError):
    """No bandit has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no bandit {name!r}")


class UnknownDecision(ServiceError):
    """No decision has this id."""

    def __init__(self, decision_id: str) -> None:
        super().__init__(f"there is no decision {decision_id!r}")


class UnknownAction(ServiceError):
    """The catalogue has no action of this id; `field` of the body named it, or the path (None)."""

    def __init__(self, action_id: str, field: str | None = None) -> None:
        self.field = field
        self.message = f"the bandit has no action {action_id!r}"
        super().__init__(self.message if field is None else f"{field}: {self.message}")


class UnknownSnapshot(ServiceError):
    """The bandit has no snapshot of this version."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"there is no snapshot {version}, or not any more: of each bandit the newest"
            " `keep_snapshots` of the server's settings are kept"
        )


class Conflict(ServiceError):
    """The request contradicts what is there."""


class Unavailable(ServiceError):
    """Cannot be done at present; trying again later may succeed."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unauthorized(ServiceError):
    """The request carries no API key, or one that is not known."""


class Forbidden(ServiceError):
    """The API key is not good for this."""


class StoreError(ServiceError):
    """The database cannot be opened or written."""


class LogTrimmed(StoreError):
    """Rows that were asked for left the log by its retention."""


class StoreDamaged(StoreError):
    """A row of the database is not what was written: its checksum or hash differs."""
