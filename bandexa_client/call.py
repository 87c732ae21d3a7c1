"""One HTTP call as a value: what is sent, and how its answer is read. Nothing is sent here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from bandexa_client.decoding import Mismatch, as_object, decode
from bandexa_client.errors import ContractBroken, Rejected, failure, origin, rejection

T = TypeVar("T")
Read = Callable[[httpx.Response], T]
Fields = Mapping[str, object]
Prepare = Callable[[Fields], dict[str, object]]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call.

    Attributes:
        read: Reads the value of a successful answer.
        body: A JSON object or bytes to send.
        repeatable: Sending it twice has the effect of sending it once.
        slow: It may take as long as a training round.
        reports_503: An answer of status 503 may carry a value, too: a probe's.
        conditions: Headers that say when it may take effect.
    """

    method: str
    path: str
    read: Read[T]
    body: Fields | bytes | None = None
    repeatable: bool = True
    slow: bool = False
    reports_503: bool = False
    conditions: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> bytes | None:
        """Return the encoded body.

        Raises:
            ValueError: It holds NaN or an infinite number.
        """
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        return _ENCODER.encode(self.body).encode()

    def headers(self) -> dict[str, str]:
        """Return the conditions, and the headers that describe the body."""
        if self.body is None:
            return dict(self.conditions)
        kind = "octet-stream" if isinstance(self.body, bytes) else "json"
        return {"Content-Type": f"application/{kind}", **self.conditions}

    def outcome(self, response: httpx.Response) -> T:
        """Return the value that a response carries.

        Raises:
            BanditError: The response reports a failure, or does not follow the contract.
        """
        probed = self.reports_503 and response.status_code == 503
        if not response.is_success and not probed:
            raise failure(response)
        try:
            return self.read(response)
        except ValueError as error:
            if probed:  # a 503 of something else, such as a proxy
                raise failure(response) from None
            text = f"{origin(response)}: the answer does not follow the contract: {error}"
            raise ContractBroken(text) from error


def path(bandit: str, *parts: str) -> str:
    """Return the path of a bandit, or of something that belongs to it.

    Raises:
        ValueError: A part is "." or "..": whoever reads the address would leave it out.
    """
    for part in (bandit, *parts):
        if part in (".", ".."):
            raise ValueError(f"{part!r} cannot be part of an address")
    return "/".join(["/bandits", *(quote(part, safe="") for part in (bandit, *parts))])


def reads(kind: type[T], prepare: Prepare = dict) -> Read[T]:
    """Return a function that reads a response's JSON object as `kind`.

    Args:
        kind: A dataclass of `answers`.
        prepare: Makes the object's keys those of `kind`, where they differ.
    """
    return lambda response: _decode(kind, prepare, json.loads(response.content))


def reads_items(kind: type[T], num_items: int, prepare: Prepare = dict) -> Read[list[T | Rejected]]:
    """Return a function that reads the answer of a batch, item by item."""

    def read(response: httpx.Response) -> list[T | Rejected]:
        rows = decode(_Items, json.loads(response.content)).items
        if len(rows) != num_items:
            raise Mismatch(f"a batch of {num_items} items was answered with {len(rows)}")
        items: list[T | Rejected] = []
        for number, row in enumerate(rows):
            status = decode(int, row.get("code"))
            if status < 400:
                items.append(_decode(kind, prepare, row.get("answer")))
            else:
                problem = as_object(row.get("error"))
                items.append(rejection(status, problem, where=f"item {number} of a batch"))
        return items

    return read


@dataclass(frozen=True, slots=True)
class _Items:
    items: tuple[Fields, ...]


def _decode(kind: type[T], prepare: Prepare, value: object) -> T:
    return decode(kind, prepare(as_object(value)))


def _plain(value: Any) -> Any:
    """Return numpy's scalars, and arrays within lists, as Python's numbers and lists.

    A date or time becomes its ISO 8601 text, as named features of type `time` take it.
    """
    for method in ("tolist", "isoformat"):
        convert = getattr(value, method, None)
        if convert is not None:
            return convert()
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain)


def reads_nothing(response: httpx.Response) -> None:
    """Read an answer without a body."""
