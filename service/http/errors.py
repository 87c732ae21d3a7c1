"""What can go wrong at the door: no API key, too few scopes, an unknown body encoding."""

from __future__ import annotations

from service.store.errors import ServiceError


class UnsupportedBody(ServiceError):
    """The body is in no encoding the service reads."""


class Unauthorized(ServiceError):
    """The request carries no API key, or one that is not known."""


class Forbidden(ServiceError):
    """The API key is not good for this."""
