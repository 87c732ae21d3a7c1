"""Where an event store is: a file of SQLite, or a database of PostgreSQL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_SCHEME = re.compile(r"postgres(?:ql)?://\S+")
_PASSWORD = re.compile(r"(?<=:)[^:@/?]*(?=@)")
_USER_PASSWORD = re.compile(r":[^:@/?]*(?=@)")
_QUERY = re.compile(r"(?<=[?&])password=[^&]*&?")
_QUERY_PASSWORD = re.compile(r"(?<=[?&]password=)[^&]*")


class PostgresUrl(NamedTuple):
    """The URL of a database, as libpq writes it; its text hides the password.

    Attributes:
        url: As it was given, with the password if it has one.
    """

    url: str

    @classmethod
    def of(cls, text: str) -> PostgresUrl:
        """Return the URL of a text.

        Raises:
            ValueError: It is none.
        """
        if not is_url(text):
            raise ValueError(
                "store: write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE; several hosts"
                " are separated by commas"
            )
        return cls(text)

    def without_password(self) -> str:
        """Return it without its password."""
        user = _USER_PASSWORD.sub("", self.url, count=1)
        return _QUERY.sub("", user).replace("?&", "?").rstrip("?")

    def __str__(self) -> str:
        return _QUERY_PASSWORD.sub("***", _PASSWORD.sub("***", self.url, count=1))


StoreAddress = Path | PostgresUrl


def is_url(text: str) -> bool:
    """Whether a text has the form of a PostgreSQL URL."""
    return _SCHEME.fullmatch(text) is not None


def address_of(text: str) -> StoreAddress:
    """Return the address that a text stands for, between processes: a URL, or else a path."""
    return PostgresUrl(text) if is_url(text) else Path(text)


def address_text(address: StoreAddress) -> str:
    """Return the text of an address for another process; it may hold a password."""
    return address.url if isinstance(address, PostgresUrl) else str(address)
