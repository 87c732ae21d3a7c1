"""Answers that may be large: lists of all bandits, and metrics.

They are compressed where the client takes that, off the event loop, and sent in parts otherwise, so
that no single step on the loop grows with their size.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

COMPRESSED_FROM = 16 << 10  # bytes; below, compressing saves no packets worth its time
PART = 256 << 10
_LEVEL = 1  # a tenth of the size at level 1, and little less at three times the CPU time
_GZIP = 16 + zlib.MAX_WBITS


async def large(
    request: Request, pieces: Sequence[bytes], media_type: str, status: int = 200
) -> Response:
    """Return the response to a request with a body, given in pieces."""
    size = sum(map(len, pieces))
    headers = {"Vary": "Accept-Encoding"}
    if size < COMPRESSED_FROM:
        return Response(b"".join(pieces), status, headers, media_type)
    if takes_gzip(request.headers.get("accept-encoding", "")):
        loop = asyncio.get_running_loop()
        compressed = await loop.run_in_executor(None, _compressed, pieces)
        return Response(compressed, status, headers | {"Content-Encoding": "gzip"}, media_type)
    headers["Content-Length"] = str(size)

    async def content() -> AsyncIterator[bytes]:
        for part in _parts(pieces):
            yield part

    return StreamingResponse(content(), status, headers, media_type)


def takes_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header names gzip (RFC 9110, 12.5.3), by itself or as `*`."""
    weights: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        name, _, parameter = part.partition(";")
        key, _, value = parameter.partition("=")
        try:
            weights[name.strip()] = float(value) if key.strip() == "q" else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0.0


def _compressed(pieces: Sequence[bytes]) -> bytes:
    compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)
    return b"".join([*map(compressor.compress, _parts(pieces)), compressor.flush()])


def _parts(pieces: Sequence[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        view = memoryview(piece)
        for first in range(0, len(view), PART):
            yield bytes(view[first : first + PART])
