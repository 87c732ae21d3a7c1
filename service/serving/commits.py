"""Append to the store and wait for the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Delivery:
    """Hands the answers of commits over to an event loop.

    What the answers of one commit leave to be done, such as applying its rows, is done once after
    all of them, and before any caller goes on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._after: list[Callable[[], None]] | None = None

    def __call__(self, answer: Callable[[], None]) -> None:
        """Run `answer` on the loop; from any thread."""
        self._loop.call_soon_threadsafe(self._run, answer)

    def _run(self, answer: Callable[[], None]) -> None:
        after: list[Callable[[], None]] = []
        self._after = after
        try:
            answer()
        finally:
            self._after = None
            for run in after:
                run()

    def now(self, answer: Callable[[], None]) -> None:
        """Run `answer`, and what it leaves to be done; on the loop."""
        self._run(answer)

    def after(self, run: Callable[[], None]) -> None:
        """Run a function after the answers that are being delivered, else in the next turn."""
        if self._after is None:
            self._loop.call_soon(run)
        else:
            self._after.append(run)


class Committer:
    """Waits for commits on one event loop; asking asyncio for the loop costs a system call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def future(self) -> asyncio.Future[Any]:
        """Return a new future of the loop."""
        return self._loop.create_future()

    def start(
        self,
        append: Callable[..., None],
        *args: Any,
        then: Callable[[Any], None] | None = None,
    ) -> asyncio.Future[Any]:
        """Append now, and return a future of the result; see `__call__`."""
        future = self.future()

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
        return future

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
        return await self.start(append, *args, then=then)
