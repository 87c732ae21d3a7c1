"""Report a start that failed: an expected error takes one line of the log."""

from __future__ import annotations

import logging
import sys

from starlette.types import Message, Send

from bandexa_core.errors import BandexaError

log = logging.getLogger(__name__)
EXPECTED = (BandexaError, OSError, ValueError)


def one_line_refusal(send: Send) -> Send:
    """Return a `send` for the lifespan that logs an expected error in one line.

    The traceback of any other error goes to uvicorn's log.
    """

    async def report(message: Message) -> None:
        error = sys.exception()  # the one being handled where the failure is reported
        if message["type"] == "lifespan.startup.failed" and isinstance(error, EXPECTED):
            log.critical("cannot start: %s", error)
            message = {**message, "message": ""}
        await send(message)

    return report
