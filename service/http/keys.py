"""API keys as they are configured: names, hashes and scopes; never the keys themselves.

A key is 256 random bits. It cannot be guessed, so one round of SHA-256 protects it from readers of
the settings. Nothing is written. `reloading` reads them anew when their file changes.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.http.rates import Rates
from service.settings import KeySetting, Settings

KEY_PREFIX = "bx_"
ENDS_SOON = timedelta(days=14)


class _KeysFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    keys: Annotated[tuple[KeySetting, ...], Field(min_length=1)]


class Keys:
    """All keys of a server; without keys, every caller may do everything.

    Attributes:
        rates: Counts the calls of keys with a rate. What a key owes outlives a new reading of the
            keys that leaves its rate as it was.

    Raises:
        ValueError: Two keys share a name or a hash.
    """

    def __init__(self, keys: Sequence[KeySetting]) -> None:
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in keys]
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                named = [key.name for key in keys if getattr(key, field) == twice]
                raise ValueError(f"keys: {field} of {' and '.join(named)} is the same")
        self._keys = tuple(keys)
        self.rates = Rates()

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __iter__(self) -> Iterator[KeySetting]:
        return iter(self._keys)

    @property
    def names(self) -> tuple[str, ...]:
        """The holders' names."""
        return tuple(key.name for key in self._keys)

    def ending(self, now: datetime) -> list[str]:
        """Return what to say of the keys that have ended, or end within two weeks."""
        return [
            f"the key {key.name!r} {'ended' if key.expires <= now else 'ends'} at"
            f" {key.expires.isoformat()}"
            for key in self._keys
            if key.expires is not None and key.expires - now < ENDS_SOON
        ]

    def replace(self, other: Keys) -> None:
        """Take the keys of `other` from now on."""
        self._keys = other._keys
        self.rates.forget(self._keys)

    def holder(self, key: str) -> KeySetting | None:
        """Return the settings of a key, None for an unknown one; always in the same time."""
        hashed = hash_of(key)
        found = None
        for candidate in self._keys:
            if hmac.compare_digest(candidate.sha256, hashed):
                found = candidate
        return found


def new_key() -> str:
    """Return a new key: 256 bits from the system's random generator."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Return the hash that settings hold of a key: SHA-256 of its UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def load_keys(keys: Sequence[KeySetting] | None, keys_file: Path | None) -> Keys:
    """Return the keys of the settings and of the file that they name.

    Raises:
        ValueError: The file cannot be read or is malformed, or two keys are alike; the message
            names the field.
    """
    from_file: Sequence[KeySetting] = ()
    if keys_file is not None:
        try:
            from_file = _KeysFile.model_validate(tomllib.loads(keys_file.read_text())).keys
        except ValidationError as error:
            raise ValueError(f"keys_file: {keys_file}: {error}") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise ValueError(f"keys_file: {keys_file}: {error}") from error
    return Keys([*(keys or ()), *from_file])


def keys_of(settings: Settings) -> Keys:
    """Return the keys that a server with these settings asks callers for.

    Raises:
        ValueError: See `load_keys` and `refuse_exposure`.
    """
    keys = load_keys(settings.keys, settings.keys_file)
    refuse_exposure(settings.host, keys, settings.allow_anonymous)
    return keys


def refuse_exposure(host: str, keys: Keys, allow_anonymous: bool) -> None:
    """Refuse settings that open a server to other machines without keys.

    Raises:
        ValueError: They do, without `allow_anonymous`; or they allow anonymous callers although
            there are keys.
    """
    if keys and allow_anonymous:
        raise ValueError("allow_anonymous: contradicts keys; drop one of the two")
    if not keys and not allow_anonymous and not is_loopback(host):
        raise ValueError(
            f"host: {host} can be reached from other machines and there are no API keys; make some"
            " with `bandexa keygen`, or set allow_anonymous = true"
        )


def refuse_unknown(names: Iterable[str], keys: Keys) -> None:
    """Refuse settings that give bandits to keys that there are not: a slip would mix two bandits.

    Raises:
        ValueError: A name is that of no key.
    """
    for name in names:
        if name not in keys.names:
            raise ValueError(f"personalizer.keys: {name!r} is the name of no key")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
