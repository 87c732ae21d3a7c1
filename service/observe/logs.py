"""Logs on standard error: JSON lines for machines, or text for people, of both processes.

What is logged in the course of a request carries the id of the decision it is about, which whoever
handles the request notes with `about`. No context, reward text or key is ever logged.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["json", "text"]
DECISIONS = logging.getLogger("bandexa.decisions")  # a line per decision and reward, at debug
AUDIT = "bandexa.audit"
_FIELDS = (
    "key", "method", "path", "client", "outcome",
    "decision_id", "bandit", "action", "propensity", "snapshot", "position", "reward", "status",
)  # fmt: skip
_decision: ContextVar[str | None] = ContextVar("decision", default=None)


def about(decision_id: str) -> None:
    """Note which decision this request is about; it holds for the request's own task."""
    _decision.set(decision_id)


def _add_decision(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    decision_id = _decision.get()
    if decision_id is not None:
        event.setdefault("decision_id", decision_id)
    return event


def configure(log_format: LogFormat, level: str, process: str | None = None) -> None:
    """Send everything that is logged to standard error.

    Args:
        log_format: "json" or "text".
        level: The least severe level that is written; audit lines are written whatever it is.
        process: Named in every line; None: the server, which is not named.
    """

    def add_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        if process is not None:
            event["process"] = process
        return event

    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(allow=_FIELDS),
        _add_decision,
        add_process,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    last: list[Any] = [
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        )
    ]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger(AUDIT).setLevel(logging.INFO)  # whatever the level of the rest
