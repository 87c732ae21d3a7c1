"""Logs on standard error: JSON lines for machines, or text for people, of both processes.

A line that is logged while a request is handled carries the id of the request, that of its trace,
and that of its decision, which the handler sets with `about`. No context, reward text or key is
ever logged. The standard library does the rest: importing a logging library costs a tenth of the
CPU time of a whole start.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from service.observe.correlation import current
from service.observe.log_output import handler_for

LogFormat = Literal["json", "text"]
DECISIONS = logging.getLogger("bandexa.decisions")  # a line per decision and reward, at debug
AUDIT = "bandexa.audit"
_FIELDS = (
    "key", "method", "path", "client", "outcome",
    "decision_id", "bandit", "action", "propensity", "snapshot", "position", "reward", "status",
)  # fmt: skip
_decision: ContextVar[str | None] = ContextVar("decision", default=None)


def about(decision_id: str | None) -> None:
    """Set the decision that the current request is about, for its own task; None: several."""
    _decision.set(decision_id)


def configure(log_format: LogFormat, level: str, process: str | None = None) -> None:
    """Send everything that is logged to standard error.

    Args:
        log_format: "json" or "text".
        level: The least severe level that is written; audit lines are always written.
        process: Named in every line; None for the server, which is not named.
    """
    handler = handler_for(sys.stderr)
    handler.setFormatter(_Json(process) if log_format == "json" else _Text(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger(AUDIT).setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for each request


class _Formatter(logging.Formatter):
    """Collects the fields of a line."""

    def __init__(self, process: str | None) -> None:
        super().__init__()
        self._process = process

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return what a line says beside its level, logger, time and message."""
        found = {
            name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None
        }
        decision_id = _decision.get()
        if decision_id is not None:
            found.setdefault("decision_id", decision_id)
        if (asked := current.get()) is not None:
            found["request_id"] = asked.request_id
            if asked.trace_id is not None:
                found["trace_id"] = asked.trace_id
        if self._process is not None:
            found["process"] = self._process
        return found

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the time of a record, ISO 8601 in UTC."""
        return datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": self.formatTime(record),
            **self.fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class _Text(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in self.fields(record).items())
        level = record.levelname.lower()
        line = (
            f"{self.formatTime(record)} [{level:<8}] {record.getMessage()} [{record.name}]{fields}"
        )
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line
