"""Which call of Personalizer a path is, in all of its generations.

| generation | path |
|---|---|
| v1.0 | `/personalizer/v1.0/...` |
| v1.1-preview.1 to .3 | `/personalizer/v1.1-preview.N/...` |
| 2022-09-01-preview | `/personalizer/...?api-version=2022-09-01-preview` |

An endpoint that ends in a slash makes some clients send two of them at the start. Ids of events are
percent-encoded and may have any character, a slash too, so the path is split as it was sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, unquote_to_bytes

from starlette.exceptions import HTTPException
from starlette.types import Scope

from service.store.errors import InvalidRequest

Generation = Literal["v1.0", "v1.1", "2022"]
Name = Literal[
    "rank", "reward", "activate", "multislot_rank", "multislot_reward", "multislot_activate",
    "get_service", "put_service", "get_model_properties", "delete_model", "other",
]  # fmt: skip
API_VERSION = "2022-09-01-preview"
_ROOT = re.compile(rb"/+personalizer(?:/+(.*))?", re.DOTALL)
_VERSION = re.compile(rb"v1\.(?:0|1-preview\.[123])")
_WORDS = re.compile(rb"v\d", re.IGNORECASE)
ALL: tuple[Generation, ...] = ("v1.0", "v1.1", "2022")
LATER: tuple[Generation, ...] = ("v1.1", "2022")

# Path -> method -> call, and the generations that have it.
_PLAIN: dict[bytes, tuple[tuple[Generation, ...], dict[str, Name]]] = {
    b"rank": (ALL, {"POST": "rank"}),
    b"multislot/rank": (LATER, {"POST": "multislot_rank"}),
    b"configurations/service": (ALL, {"GET": "get_service", "PUT": "put_service"}),
    b"configurations/policy": (
        ALL, {"GET": "other", "PUT": "other", "DELETE": "other"},
    ),
    b"model": (ALL, {"GET": "other", "PUT": "other", "DELETE": "delete_model"}),
    b"model/properties": (ALL, {"GET": "get_model_properties"}),
    b"logs/properties": (ALL, {"GET": "other"}),
    b"logs": (ALL, {"DELETE": "other"}),
    b"logs/interactions": (LATER, {"POST": "other"}),
    b"logs/observations": (LATER, {"POST": "other"}),
    b"configurations/applyFromEvaluation": (ALL, {"POST": "other"}),
    b"metrics/learning": (("v1.0",), {"GET": "other"}),
    b"evaluations": (ALL, {"GET": "other", "POST": "other"}),
    b"featureImportances": (("2022",), {"GET": "other"}),
}  # fmt: skip
_EVENTS: tuple[tuple[re.Pattern[bytes], tuple[Generation, ...], Name], ...] = (
    (re.compile(rb"events/(.+)/reward", re.DOTALL), ALL, "reward"),
    (re.compile(rb"events/(.+)/activate", re.DOTALL), ALL, "activate"),
    (re.compile(rb"multislot/events/(.+)/reward", re.DOTALL), LATER, "multislot_reward"),
    (re.compile(rb"multislot/events/(.+)/activate", re.DOTALL), LATER, "multislot_activate"),
)
_NAMED: tuple[tuple[re.Pattern[bytes], tuple[Generation, ...], tuple[str, ...]], ...] = (
    (re.compile(rb"evaluations/[^/]+"), ALL, ("GET", "PUT", "DELETE")),
    (re.compile(rb"featureImportances/[^/]+"), ("2022",), ("GET", "PUT", "DELETE")),
)


@dataclass(frozen=True, slots=True)
class Call:
    """A call: what it is, of which generation, and the event that its path names."""

    name: Name
    generation: Generation
    event: str | None = None
    path: str = ""


def is_personalizer(scope: Scope) -> bool:
    """Whether a request is one of these paths."""
    path: str = scope["path"]
    rest = path.lstrip("/")
    return rest.startswith("personalizer") and rest[12:13] in ("", "/")


def call_of(scope: Scope) -> Call:
    """Return which call a request is.

    Raises:
        HTTPException: 404: there is no such path; 405: it has not got this method.
        InvalidRequest: The version of the API is missing or unknown, or the id of the event is no
            text.
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    found = _ROOT.fullmatch(raw)
    rest = (found[1] if found else None) or b""
    generation: Generation = "2022"
    first, _, behind = rest.partition(b"/")
    if _VERSION.fullmatch(first):
        generation, rest = ("v1.0" if first == b"v1.0" else "v1.1"), behind
    elif _WORDS.match(first):
        raise HTTPException(404, f"there is no version {_shown(first)!r} of the API")
    else:
        _check_version(scope)
    call = _call(scope["method"], rest.rstrip(b"/"), generation)
    if call is None:
        raise HTTPException(404, f"there is no path {_shown(rest)!r} in this version of the API")
    return call


def _call(method: str, rest: bytes, generation: Generation) -> Call | None:
    if rest in _PLAIN:
        generations, methods = _PLAIN[rest]
        if generation not in generations:
            return None
        if method not in methods:
            raise _no_method(methods)
        return Call(methods[method], generation, path=_shown(rest))
    for pattern, having, name in _EVENTS:
        if (event := pattern.fullmatch(rest)) is None or generation not in having:
            continue
        if method != "POST":
            raise _no_method(("POST",))
        return Call(name, generation, _event(event[1]))
    for pattern, having, known in _NAMED:
        if pattern.fullmatch(rest) and generation in having:
            if method not in known:
                raise _no_method(known)
            return Call("other", generation, path=_shown(rest.partition(b"/")[0]))
    return None


def _no_method(known: object) -> HTTPException:
    assert isinstance(known, dict | tuple), "methods"
    return HTTPException(405, "Method Not Allowed", {"Allow": ", ".join(known)})


def _event(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("eventId", "is no text in UTF-8") from error


def _check_version(scope: Scope) -> None:
    query = parse_qs(scope["query_string"].decode("latin-1"))
    given = query.get("api-version")
    if given is None:
        raise InvalidRequest(
            "api-version", f"needed in the query, {API_VERSION}; or a version in the path, v1.0"
        )
    if given != [API_VERSION]:
        raise InvalidRequest("api-version", f"{given[-1][:40]!r} is none of {API_VERSION}")


def _shown(raw: bytes) -> str:
    return raw[:100].decode("utf-8", "replace")
