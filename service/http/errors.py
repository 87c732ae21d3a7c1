"""What can go wrong at the door, before a request reaches a bandit."""

from __future__ import annotations

from collections.abc import Sequence

from service.store.errors import ServiceError


class UnsupportedBody(ServiceError):
    """The body is in no encoding the service reads."""


class InvalidBody(ServiceError):
    """Fields of a body are wrong.

    Attributes:
        errors: (field, message) for each of them, at least one.
    """

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in errors))
        self.errors = tuple(errors)


class UnknownEvaluation(ServiceError):
    """The bandit has no evaluation of this id."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no evaluation {name!r}, or not any more")


class Unauthorized(ServiceError):
    """The request carries no API key, an unknown one, or one that has ended."""


class Forbidden(ServiceError):
    """The API key lacks the scope of the call, or does not reach its bandit."""


class QuotaExceeded(ServiceError):
    """The API key may not create more than is there.

    Args:
        quota: The name of the setting of the key.
        message: How many there are, and may be.
    """

    def __init__(self, quota: str, message: str) -> None:
        super().__init__(f"{quota}: {message}")


class TooManyCalls(ServiceError):
    """The API key has made more calls than it may.

    Args:
        message: What it may.
        retry_after_s: Whole seconds after which a call is let in.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ForeignRequest(ServiceError):
    """The request comes from a web page of another site."""
