"""JSON and msgpack: the same bodies in two encodings, chosen by Content-Type and Accept.

`Typed` decodes a body straight into its struct. Only when that fails is the body decoded a second
time without types, to name every field that is wrong. Runs on the event loop, and in the thread for
large bodies.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import msgpack
import msgspec
import numpy as np
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from msgspec import Raw
from pydantic import BaseModel
from starlette.types import Receive, Scope

from service.http.auth import GuardedRoute, Handler
from service.http.errors import InvalidBody, UnsupportedBody
from service.http.large_bodies import LARGE_BYTES, LargeBodies
from service.http.limits import BodyBounds, too_large
from service.http.queries import check_query, names_of
from service.http.wrong_bodies import field_errors, located
from service.serving import trail
from service.serving.engine import Engine
from service.settings import Settings
from service.store.errors import InvalidRequest

JSON = "application/json"
MSGPACK = "application/msgpack"
SPEC_BYTES = 1 << 17  # of a body that pydantic reads: a configuration with its vocabularies
MAX_TOLD = 4096  # bytes of an answer whose numbers go into the audit trail
_REMEMBERED = 16  # headers whose media types are remembered
T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")


@lru_cache(maxsize=_REMEMBERED)
def media_type(content_type: str) -> str:
    """Return the media type of a Content-Type header.

    Raises:
        UnsupportedBody: It is neither JSON nor msgpack.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (JSON, MSGPACK):
        raise UnsupportedBody(f"send {JSON} or {MSGPACK}, not {kind!r}")
    return kind


@lru_cache(maxsize=_REMEMBERED)
def answer_type(accept: str) -> str:
    """Return the media type of an answer by an Accept header: msgpack where it is wanted, or JSON.

    Of two that are named, the one with the larger weight (RFC 9110, 12.5.1); msgpack where equal.
    """
    if accept in (JSON, MSGPACK):
        return accept
    if MSGPACK not in accept.lower():
        return JSON
    weights = dict.fromkeys((JSON, MSGPACK), 0.0)
    for part in accept.split(","):
        kind, *parameters = (text.strip().lower() for text in part.split(";"))
        if kind in weights:
            weights[kind] = _weight(parameters)
    return MSGPACK if 0.0 < weights[MSGPACK] >= weights[JSON] else JSON


def wanted_by(request: Request) -> str:
    """Return the media type in which a request wants its answer."""
    return answer_type(",".join(request.headers.getlist("accept")))


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def bounds_of(settings: Settings) -> BodyBounds:
    """Return the bounds that hold for every body of a server."""
    return BodyBounds(settings.max_elements, settings.max_nesting)


class Typed(Generic[T]):
    """Decodes the bodies of one struct, whole or as parts of another body."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        self._json = msgspec.json.Decoder(kind)
        self._msgpack = msgspec.msgpack.Decoder(kind)

    def decode(self, raw: bytes | Raw, encoding: str, bounds: BodyBounds | None) -> T:
        """Return the decoded body; `bounds`: None for a part of a body that was checked already.

        Raises:
            InvalidBody: It is not of this kind; names every field that is wrong.
            InvalidRequest: It cannot be decoded, or is nested too deeply.
            HTTPException: 413: it has too many elements.
        """
        decoder = self._msgpack if encoding == MSGPACK else self._json
        if bounds is not None and encoding == JSON:
            bounds.check_json(bytes(raw))
        try:
            found = decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise self._refusal(bytes(raw), encoding, bounds, error) from error
        if bounds is not None and encoding == MSGPACK:
            bounds.check_msgpack(bytes(raw))
        return found

    def _refusal(
        self, raw: bytes, encoding: str, bounds: BodyBounds | None, error: Exception
    ) -> Exception:
        if len(raw) > LARGE_BYTES:
            return _first_error(raw, encoding, bounds, error)
        try:
            value = decode(raw, encoding, bounds)
        except InvalidRequest as second:
            return second
        errors = field_errors(self.kind, value)
        if errors:
            return InvalidBody(errors)
        return InvalidRequest("body", f"is not {encoding}: {error}")


def _first_error(
    raw: bytes, encoding: str, bounds: BodyBounds | None, error: Exception
) -> Exception:
    """Return the refusal of a large body by what its decoder met first.

    Decoded without types, to name all that is wrong, it would take many times its size.
    """
    if isinstance(error, msgspec.ValidationError):
        if bounds is not None and encoding == MSGPACK:
            bounds.check_msgpack(raw)
        path, message = located(str(error))
        return InvalidBody([(".".join(path) or "body", message)])
    if isinstance(error, RecursionError):
        return InvalidRequest("body", "is nested too deeply")
    return InvalidRequest("body", f"is not {encoding}: {error}")


def decode(raw: bytes, encoding: str, bounds: BodyBounds | None) -> Any:
    """Return the value of a body without types; an empty one is None.

    Raises:
        InvalidRequest: It cannot be decoded, or is nested too deeply.
        HTTPException: 413: it has too many elements.
    """
    if not raw:
        return None
    try:
        if encoding == MSGPACK:
            if bounds is not None:
                bounds.check_msgpack(raw)
            return msgpack.unpackb(raw, strict_map_key=True)
        if bounds is not None:
            bounds.check_json(raw)
        try:
            return msgspec.json.decode(raw)
        except msgspec.DecodeError:
            # Python's decoder reads NaN and half surrogates too, so that their field can be named.
            return json.loads(raw.decode())
    except (RecursionError, msgpack.StackError) as error:
        raise InvalidRequest("body", "is nested too deeply") from error
    except (ValueError, msgpack.UnpackException) as error:
        raise InvalidRequest("body", f"is not {encoding}: {error}") from error


def encode(answer: Any, encoding: str) -> bytes:
    """Return an answer in one of the two encodings."""
    return msgspec.msgpack.encode(answer) if encoding == MSGPACK else msgspec.json.encode(answer)


def as_part(part: BaseModel, encoding: str) -> Raw:
    """Return a part of an answer, encoded: of a long list, one by one, in slices of time."""
    if encoding == JSON:
        return Raw(part.model_dump_json().encode())
    return Raw(msgspec.msgpack.encode(part.model_dump(mode="json")))


# -- FastAPI's routes ---------------------------------------------------------------------------


class _DecodedRequest(Request):
    """A request whose body has been decoded; FastAPI takes it for a JSON one."""

    def __init__(self, scope: Scope, receive: Receive, raw: bytes, value: Any) -> None:
        headers = [(k, v) for k, v in scope["headers"] if k != b"content-type"]
        headers.append((b"content-type", b"application/json"))
        super().__init__({**scope, "headers": headers}, receive)
        self._raw = raw
        self._value = value

    async def body(self) -> bytes:
        return self._raw

    async def json(self) -> Any:
        return self._value


class AuditedRoute(GuardedRoute):
    """A route whose changes of a bandit are noted, and whose query has what it takes alone."""

    def decoding(self, handler: Handler) -> Handler:
        """Check the query before anything is done."""
        names = names_of(self.dependant)

        async def checked(request: Request) -> Response:
            check_query(request, names)
            return await handler(request)

        return checked

    def trail(self, request: Request, by: str) -> Callable[[Response], Awaitable[None]]:
        """Note in the audit trail what a call changes of the bandit that its path names."""
        name = request.path_params.get("name")
        if name is None or request.query_params.get("dry_run") in ("true", "1"):
            return super().trail(request, by)
        engine: Engine = request.app.state.engine
        before = trail.snapshot_of(engine, name)

        async def noted(response: Response) -> None:
            if response.status_code < 300:
                what = f"{request.method} {request.url.path[:200]}"
                await trail.note(engine, name, by, what, before, _told(request, response))

        return noted


class WireRoute(AuditedRoute):
    """A route that reads and writes both encodings; it refuses any other by name."""

    def decoding(self, handler: Handler) -> Handler:
        """Decode before FastAPI does, and encode as the client asks."""
        plain = super().decoding(handler)
        takes_json = self.body_field is not None

        async def decoded(request: Request) -> Response:
            if takes_json:
                kind = media_type(request.headers.get("content-type", ""))
                raw = await request.body()
                if len(raw) > SPEC_BYTES:
                    raise too_large(SPEC_BYTES)
                value = decode(raw, kind, bounds_of(request.app.state.settings))
                request = _DecodedRequest(request.scope, request.receive, raw, value)
            response = await plain(request)
            wanted = wanted_by(request)
            if wanted == MSGPACK and response.media_type != MSGPACK and response.body:
                return _as_msgpack(response)
            return response

        return decoded


def _told(request: Request, response: Response) -> dict[str, Any]:
    """Return what the answer to a short POST says that it did: counts, statuses, versions."""
    body = bytes(getattr(response, "body", b""))  # one that is streamed has none
    if request.method != "POST" or not 0 < len(body) <= MAX_TOLD:
        return {}
    packed = response.headers.get("content-type", "").startswith(MSGPACK)
    answer = (msgspec.msgpack if packed else msgspec.json).decode(body)
    plain = (str, int, float, bool)
    return {key: value for key, value in answer.items() if isinstance(value, plain)}


async def prepared(request: Request, kind: Typed[T], prepare: Callable[[T, str], R]) -> R:
    """Read and decode the body of a FastAPI request that is described by a struct.

    Args:
        request: The request.
        kind: What its body is.
        prepare: Receives the decoded body and its encoding. Runs in the thread for large bodies,
            where it is one.
    """
    encoding = media_type(request.headers.get("content-type", ""))
    raw = await request.body()
    bounds = bounds_of(request.app.state.settings)

    def work() -> R:
        return prepare(kind.decode(raw, encoding, bounds), encoding)

    if len(raw) <= LARGE_BYTES:
        return work()
    large: LargeBodies = request.app.state.large
    return await large.run(work)


def typed_answer(request: Request, answer: msgspec.Struct) -> Response:
    """Return the response that carries a struct in the encoding that the client accepts."""
    encoding = wanted_by(request)
    return Response(encode(answer, encoding), media_type=encoding)


def _as_msgpack(response: Response) -> Response:
    if not isinstance(response, JSONResponse) and response.media_type != JSON:
        return response
    content = msgspec.msgpack.encode(msgspec.json.decode(bytes(response.body)))
    packed = Response(content, response.status_code, media_type=MSGPACK)
    if (tag := response.headers.get("etag")) is not None:
        packed.headers["etag"] = tag
    return packed


# -- the identity of a body ---------------------------------------------------------------------


def body_hash(parts: Mapping[str, Any]) -> bytes:
    """Return a digest of a decoded body, the same for JSON and msgpack.

    Arrays count by their values as float64, so that 1 and 1.0, a list and an envelope are equal.
    The digest is stored with a decision: a change here would make repeated selects conflicts.
    """
    digest = blake2b(digest_size=16)
    for key in sorted(parts):
        digest.update(key.encode() + b"\x1f")
        _feed(digest.update, parts[key])
    return digest.digest()


_FED = 1 << 17  # numbers at a time


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    if isinstance(value, np.ndarray):
        update(str(value.shape).encode())
        flat = value.ravel()
        for first in range(0, max(1, flat.size), _FED):  # in parts: they may be eight times larger
            update(flat[first : first + _FED].astype(np.float64).tobytes())
    elif isinstance(value, list | tuple):
        update(b"[" + str(len(value)).encode())
        for item in value:
            _feed(update, item)
    elif isinstance(value, Mapping):
        update(body_hash(value))
    else:
        update(repr(value).encode() + b"\x1e")
