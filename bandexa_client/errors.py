"""The errors of a failed call.

BanditError
+-- ServiceUnavailable   no answer (refused, timed out, cut off), or overload (429, 503)
+-- ServiceFailed        another 5xx
|   +-- ContractBroken   an answer that does not follow the contract, such as one to another request
+-- Rejected             a 4xx with the service's problem document
    +-- NotFound         404, no such bandit, action, decision or snapshot
    +-- Conflict         409
    +-- PreconditionFailed   412, somebody else was faster: see `etag`
    +-- Gone             410, the decision was erased
    +-- Invalid          422, the problem names the fields
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import httpx


class BanditError(Exception):
    """Any failed call.

    Attributes:
        status: HTTP status of the answer that reports the failure; None without such an answer.
        problem: The RFC 9457 document of that answer; empty without one.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        problem: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


class ServiceUnavailable(BanditError):
    """The service did not answer, or asked to retry later (429, 503).

    Attributes:
        retry_after_s: Seconds to wait that the service asks for; None where it names none.
        timed_out: The service accepted the connection and did not answer in time, or did not
            accept it in time. The call may have taken effect.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        problem: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
        timed_out: bool = False,
    ) -> None:
        super().__init__(message, status=status, problem=problem)
        self.retry_after_s = retry_after_s
        self.timed_out = timed_out


class ServiceFailed(BanditError):
    """The service failed."""


class ContractBroken(ServiceFailed):
    """The answer does not follow the contract, or belongs to another request; `status` is None."""


class Rejected(BanditError):
    """The service refused a call, or one item of a batch."""

    status: int

    def __init__(self, status: int, problem: Mapping[str, object], *, where: str) -> None:
        text = f"{where}: {_problem_text(status, problem)}"
        super().__init__(text, status=status, problem=problem)


class NotFound(Rejected):
    """No such bandit, action, decision or snapshot."""


class Conflict(Rejected):
    """The call contradicts what is stored."""


class PreconditionFailed(Rejected):
    """A conditional change came too late: nothing was changed.

    Attributes:
        etag: The version that is there; None where there is no such bandit.
    """

    etag: str | None = None


class Gone(Rejected):
    """The decision was erased."""


class Invalid(Rejected):
    """The body is invalid; `problem["errors"]` names the fields."""


_REJECTIONS: Mapping[int, type[Rejected]] = {
    404: NotFound,
    409: Conflict,
    410: Gone,
    412: PreconditionFailed,
    422: Invalid,
}


def rejection(status: int, problem: Mapping[str, object], *, where: str) -> Rejected:
    """Return the error of a refused call or item."""
    return _REJECTIONS.get(status, Rejected)(status, problem, where=where)


def failure(response: httpx.Response) -> BanditError:
    """Return the error of a response with a status of 400 or more."""
    status, where, problem = response.status_code, origin(response), _problem(response)
    if 400 <= status < 500 and status != 429:
        error = rejection(status, problem, where=where)
        if isinstance(error, PreconditionFailed):
            error.etag = response.headers.get("ETag")
        return error
    text = f"{where}: {_problem_text(status, problem)}"
    if status in (429, 503):
        retry_after_s = _seconds(response.headers.get("Retry-After"))
        return ServiceUnavailable(text, status=status, problem=problem, retry_after_s=retry_after_s)
    return ServiceFailed(text, status=status, problem=problem)


def unanswered(
    url: str, method: str, path: str, timeout_s: float, error: httpx.RequestError
) -> ServiceUnavailable:
    """Return the error of a request that got no response."""
    if isinstance(error, httpx.TimeoutException):
        text = f"{method} {url}{path}: no answer within {timeout_s:g} s"
        return ServiceUnavailable(text, timed_out=True)
    reason = str(error) or type(error).__name__
    return ServiceUnavailable(f"cannot reach the service at {url}: {reason}")


def origin(response: httpx.Response) -> str:
    """Return method and address of a response's request, for error texts."""
    request = response.request
    return f"{request.method} {request.url.copy_with(username='', password='')}"


def _problem(response: httpx.Response) -> Mapping[str, object]:
    try:
        document = json.loads(response.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _problem_text(status: int, problem: Mapping[str, object]) -> str:
    """Put status, detail and named fields of a problem document in one line, each once."""
    text = f"{status} {problem.get('detail') or problem.get('title') or 'without a reason'}"
    errors = problem.get("errors")
    if isinstance(errors, list):
        named = [f"{e.get('field')}: {e.get('message')}" for e in errors if isinstance(e, dict)]
        more = [one for one in named if one not in text]  # the detail usually has them all
        text += f" ({'; '.join(more)})" if more else ""
    return text


def _seconds(retry_after: str | None) -> float | None:
    try:
        return None if retry_after is None else float(retry_after)
    except ValueError:  # an HTTP date: the retry policy picks the pause
        return None
