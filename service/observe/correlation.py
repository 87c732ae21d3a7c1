"""What a request is known by elsewhere: its id and its trace, for log lines, answers and spans.

`X-Request-Id` names a request in the logs of whoever passes it on; `traceparent` (W3C Trace
Context) names the trace that it is a part of. Both come from outside, so what has another form is
not used.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
# A later version may have more behind its flags.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_ZEROS = re.compile(rb"0+")


class Correlation:
    """What one request is known by.

    Attributes:
        given: The id that it came with; None: it has none, or one that cannot be used.
        trace_id: The trace that it is a part of, in hexadecimal; None: it is a part of none.
        status: The status of its answer; 0: there is none yet.
    """

    __slots__ = ("_made", "given", "status", "trace_id")

    def __init__(self, given: str | None = None, trace_id: str | None = None) -> None:
        self.given = given
        self.trace_id = trace_id
        self.status = 0
        self._made: str | None = None

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> Correlation:
        """Return what the headers of a request say."""
        found = cls()
        for name, value in headers:
            if name == b"x-request-id":
                if _REQUEST_ID.fullmatch(value):
                    found.given = value.decode("ascii")
            elif name == b"traceparent":
                found.trace_id = trace_of(value)
        return found

    @property
    def request_id(self) -> str:
        """The id of the request: its own, or one that is made where it is first asked for."""
        if self.given is not None:
            return self.given
        if self._made is None:
            self._made = secrets.token_hex(8)
        return self._made


current: ContextVar[Correlation | None] = ContextVar("correlation", default=None)


def trace_of(traceparent: bytes) -> str | None:
    """Return the id of the trace that a header names, or None where it is not valid."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or any(_ZEROS.fullmatch(part) for part in found.groups()):
        return None
    return found[1].decode("ascii")
