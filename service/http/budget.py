"""A budget of bytes for the bodies under way, over all requests.

Many clients with large bodies could otherwise take all memory, each within its own limit. Small
bodies pass without it: `max_in_flight` bounds their number, so selects go on while others upload.
It runs on the event loop.
"""

from __future__ import annotations

from service.store.errors import Unavailable

FREE_BYTES = 1 << 16  # of each body, which need no budget


class BytesInFlight:
    """What the bodies under way may take together.

    Args:
        most: The most bytes.
        setting: The setting that gives it.
    """

    def __init__(self, most: int, setting: str) -> None:
        self._most = most
        self._setting = setting
        self._held = 0

    def reserve(self, num_bytes: int) -> None:
        """Take bytes until `release`.

        Raises:
            Unavailable: There are not as many left.
        """
        if self._held + num_bytes > self._most:
            raise Unavailable(f"too many bytes of bodies are under way, see `{self._setting}`")
        self._held += num_bytes

    def release(self, num_bytes: int) -> None:
        """Give bytes back."""
        self._held -= num_bytes
