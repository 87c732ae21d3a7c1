"""Append to the store and wait for the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Committer:
    """Waits for commits on one event loop; asking asyncio for the loop costs a system call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def __call__(
        self,
        append: Callable[..., None],
        *args: Any,
        then: Callable[[Any], None] | None = None,
    ) -> Any:
        """Append, wait for the commit and return its result.

        Args:
            append: A method of the store that takes a callback last.
            args: Its other arguments.
            then: Receives the result, in commit order, before any waiting caller goes on.

        Raises:
            ServiceError: The store refused; nothing was written.
        """
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: Any, error: Exception | None) -> None:
            try:
                if error is None and then is not None:
                    then(result)
            finally:  # a committed row is applied even if its caller went away
                if future.done():
                    pass
                elif error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)

        append(*args, done)
        return await future
