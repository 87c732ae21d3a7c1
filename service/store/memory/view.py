"""What all readers share: access to the contents until they are closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from service.store.errors import StoreUnreadable
from service.store.memory.contents import Contents

EPOCH = 1  # a store in memory is opened once


class View:
    """A read-only view; may be used in any thread."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._closed = False

    def close(self) -> None:
        """Close it; calling it again does nothing."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[Contents]:
        """Give the contents as of one moment."""
        if self._closed:
            raise StoreUnreadable("the reader is closed")
        with self._contents.lock:
            yield self._contents
