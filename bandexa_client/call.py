"""One HTTP call as a value: what is sent, and how its answer is read. Nothing is sent here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
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
            ValueError: It holds NaN or an infinite number; the message names the place.
            TypeError: It holds what JSON has not.
        """
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        return _encoded(self.body)

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
_DEEPEST = 64  # what is nested deeper is refused without its place; it may contain itself


def _encoded(body: object) -> bytes:
    """Return a body as JSON.

    Raises:
        ValueError: It has NaN or an infinity; the message names the place.
        TypeError: It has a value of a type that JSON has not; the message names the place.
    """
    try:
        return _ENCODER.encode(body).encode()
    except (TypeError, ValueError) as error:
        problem = _unsendable(body, "body", _DEEPEST)
        if problem is None:
            raise
        raise type(error)(problem) from error


def _unsendable(value: Any, where: str, depth: int) -> str | None:
    """Return what cannot be sent as JSON in a value, beginning with its place; None: nothing."""
    if depth == 0:
        return None
    if isinstance(value, float):
        if math.isfinite(value):
            return None
        number = "NaN" if math.isnan(value) else "infinite"
        return f"{where}: is {number}, and JSON has finite numbers; send None for what is missing"
    if value is None or isinstance(value, str | int):
        return None
    parts: Iterable[tuple[str, Any]]
    if isinstance(value, dict):
        start = "" if where == "body" else f"{where}."
        parts = ((f"{start}{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        parts = ((f"{where}[{number}]", item) for number, item in enumerate(value))
    else:
        try:
            return _unsendable(_plain(value), where, depth - 1)
        except TypeError as error:
            return f"{where}: {error}"
    found = (_unsendable(item, place, depth - 1) for place, item in parts)
    return next((problem for problem in found if problem is not None), None)


def reads_nothing(response: httpx.Response) -> None:
    """Read an answer without a body."""
