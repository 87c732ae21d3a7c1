"""JSON and msgpack: the same models in two encodings, chosen by Content-Type and Accept."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgpack
import numpy as np
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from pydantic_core import from_json
from starlette.types import Receive, Scope

from service.http.auth import GuardedRoute, Handler
from service.http.errors import UnsupportedBody
from service.http.limits import Bounds
from service.settings import Settings
from service.store.errors import InvalidRequest

MSGPACK = "application/msgpack"
ARRIVED = "bandexa.arrived"  # in a request's scope: when its body was there, by perf_counter


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


def bounds_of(settings: Settings) -> Bounds:
    """Return what judges one body."""
    return Bounds(settings.max_elements, settings.max_nesting)


def decode(kind: str, raw: bytes, bounds: Bounds) -> Any:
    """Return the value of a body; FastAPI would tell some of these errors as an unnamed 400.

    Raises:
        UnsupportedBody, InvalidRequest, HTTPException: It cannot be decoded, or is too large.
    """
    if kind not in ("application/json", MSGPACK):
        raise UnsupportedBody(f"send application/json or {MSGPACK}, not {kind!r}")
    if not raw:
        return None
    try:
        if kind == MSGPACK:
            hook = bounds.count
            value = msgpack.unpackb(raw, strict_map_key=True, list_hook=hook, object_hook=hook)
            bounds.judge_decoded(value)
            return value
        bounds.judge_json(raw)
        try:
            # Four times as fast as json, which decides on what it refuses. Ids do not repeat.
            return from_json(raw, cache_strings="keys")
        except ValueError:
            return json.loads(raw.decode())  # bytes might be taken for UTF-16
    except (RecursionError, msgpack.StackError) as error:
        raise InvalidRequest("body", "is nested too deeply") from error
    except (ValueError, msgpack.UnpackException) as error:
        raise InvalidRequest("body", f"is not {kind}: {error}") from error


class WireRoute(GuardedRoute):
    """A route that speaks both encodings; anything else is refused by name."""

    def decoding(self, handler: Handler) -> Handler:
        """Decode before FastAPI does, and encode as the client asks."""
        plain = handler
        takes_json = self.body_field is not None

        async def decoded(request: Request) -> Response:
            if takes_json:
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                raw = await request.body()
                request.scope[ARRIVED] = time.perf_counter()
                value = decode(kind, raw, bounds_of(request.app.state.settings))
                request = _DecodedRequest(request.scope, request.receive, raw, value)
            response = await plain(request)
            if MSGPACK in request.headers.get("accept", "") and response.body:
                return _as_msgpack(response)
            return response

        return decoded


def _as_msgpack(response: Response) -> Response:
    if not isinstance(response, JSONResponse) and response.media_type != "application/json":
        return response
    content = msgpack.packb(json.loads(bytes(response.body)))
    return Response(content, response.status_code, media_type=MSGPACK)


def body_hash(parts: Mapping[str, Any]) -> bytes:
    """Return a digest of a decoded body, the same for JSON and msgpack.

    Arrays count by their values as float64, so that 1 and 1.0, a list and an envelope are equal.
    """
    digest = blake2b(digest_size=16)
    for key in sorted(parts):
        digest.update(key.encode() + b"\x1f")
        _feed(digest, parts[key])
    return digest.digest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, list | tuple):
        try:
            array = np.asarray(value)
        except ValueError:  # ragged: it will be refused when it is used
            array = np.asarray(None)
        if array.dtype.kind not in "iuf":
            digest.update(b"[" + str(len(value)).encode())
            for item in value:
                # Lists and maps in here are no array: they will be refused when they are used.
                if not isinstance(item, list | tuple | Mapping):
                    _feed(digest, item)
            return
        value = array
    if isinstance(value, np.ndarray):
        array64 = value.astype(np.float64)
        digest.update(str(array64.shape).encode() + array64.tobytes())
    elif isinstance(value, BaseModel):
        digest.update(body_hash(dict(value)))
    elif isinstance(value, Mapping):
        digest.update(body_hash(value))
    else:
        digest.update(repr(value).encode() + b"\x1e")
