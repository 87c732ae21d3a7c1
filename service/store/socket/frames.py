"""Frames on a stream: a length of four bytes, then as many bytes of msgpack.

A frame holds all messages of one turn of an event loop, so that appends that were made together are
committed together, and answers that came together are delivered together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LENGTH_BYTES = 4
MAX_FRAME = 1 << 30


class FrameStream(asyncio.Protocol):
    """One end of a connection.

    Args:
        received: Gets each whole frame.
        lost: Called once when the connection has ended.
    """

    def __init__(
        self, received: Callable[[bytes], None], lost: Callable[[FrameStream], None]
    ) -> None:
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's is of its own class

    def data_received(self, data: bytes) -> None:
        """Take what has arrived, and hand over the frames that are whole."""
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= _LENGTH_BYTES:
            length = int.from_bytes(buffer[start : start + _LENGTH_BYTES])
            if length > MAX_FRAME:
                self.close()
                return
            stop = start + _LENGTH_BYTES + length
            if stop > end:
                break
            frame = bytes(buffer[start + _LENGTH_BYTES : stop])
            start = stop
            self._received(frame)
        if start:
            del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end."""
        self._transport = None
        self._lost(self)

    @property
    def is_open(self) -> bool:
        """Whether the connection has not ended."""
        return self._transport is not None

    def send(self, frame: bytes) -> None:
        """Send a frame; one that is sent after the end goes nowhere."""
        if self._transport is not None:
            self._transport.write(len(frame).to_bytes(_LENGTH_BYTES) + frame)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()
