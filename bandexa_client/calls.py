"""Every call of the service as a value: what is sent, and how the answer is read.

Shared by the clients, which only differ in how they wait. Pure; httpx for its types alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote

import httpx

from bandexa_client import wire
from bandexa_client.wire import (
    Array,
    BanditError,
    BanditState,
    Catalogue,
    Rejected,
    RewardReport,
    RewardStatus,
    Scores,
    Selection,
    SelectRequest,
    ServiceUnavailable,
    SnapshotState,
    Training,
)

T = TypeVar("T")

# Servers commonly close a connection after 5 idle seconds; give it up before, so that no request is
# sent into a closing one.
KEEPALIVE_S = 2.0


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call.

    Attributes:
        read: Turns a successful answer into its value.
        repeatable: Sending it twice does what sending it once does.
        slow: It may take as long as a training round.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    slow: bool = False

    def outcome(self, response: httpx.Response) -> T:
        """Return what a response says.

        Raises:
            BanditError: It says that the call failed.
        """
        if not response.is_success:
            raise failure(response)
        return self.read(response)


def ready() -> Call[bool]:
    """Return the call behind `BanditClient.ready`."""
    return Call("GET", "/readyz", lambda response: response.status_code == 200, repeatable=False)


def put_bandit(bandit: str, spec: Mapping[str, object]) -> Call[BanditState]:
    """Return the call behind `BanditClient.put_bandit`."""

    def read(response: httpx.Response) -> BanditState:
        return wire.bandit_state(_fields(response), created=response.status_code == 201)

    return _with_body("PUT", _path(bandit), spec, read)


def get_bandit(bandit: str) -> Call[BanditState]:
    """Return the call behind `BanditClient.get_bandit`."""
    return Call("GET", _path(bandit), lambda r: wire.bandit_state(_fields(r), created=False))


def delete_bandit(bandit: str) -> Call[None]:
    """Return the call behind `BanditClient.delete_bandit`."""
    return Call("DELETE", _path(bandit), lambda response: None, repeatable=False)


def put_actions(bandit: str, ids: Sequence[str], features: Array | None) -> Call[Catalogue]:
    """Return the call behind `BanditClient.put_actions`."""
    if features is None:
        body: dict[str, object] = {"actions": [{"id": action} for action in ids]}
    else:
        body = {"ids": list(ids), "features": features}
    return _with_body("PUT", _path(bandit, "actions"), body, lambda r: wire.catalogue(_fields(r)))


def select(request: SelectRequest) -> Call[Selection]:
    """Return the call behind `BanditClient.select`."""
    call = _with_body("POST", "/select", request.body(), lambda r: wire.selection(_fields(r)))
    return call if request.decision_id is not None else _once(call)


def reward(report: RewardReport) -> Call[RewardStatus]:
    """Return the call behind `BanditClient.reward`."""
    return _with_body("POST", "/reward", report.body(), lambda r: wire.reward_status(_fields(r)))


def select_batch(requests: Sequence[SelectRequest]) -> Call[list[Selection | Rejected]]:
    """Return the call behind `BanditClient.select_batch`."""

    def read(response: httpx.Response) -> list[Selection | Rejected]:
        return wire.batch(_fields(response), len(requests), wire.selection)

    body = {"items": [request.body() for request in requests]}
    call = _with_body("POST", "/select/batch", body, read)
    return call if all(request.decision_id for request in requests) else _once(call)


def reward_batch(reports: Sequence[RewardReport]) -> Call[list[RewardStatus | Rejected]]:
    """Return the call behind `BanditClient.reward_batch`."""

    def read(response: httpx.Response) -> list[RewardStatus | Rejected]:
        return wire.batch(_fields(response), len(reports), wire.reward_status)

    body = {"items": [report.body() for report in reports]}
    return _with_body("POST", "/reward/batch", body, read)


def score(bandit: str, context: Array, candidates: Sequence[str] | None) -> Call[Scores]:
    """Return the call behind `BanditClient.score`."""
    body: dict[str, object] = {"context": context}
    if candidates is not None:
        body["candidates"] = list(candidates)
    return _with_body("POST", _path(bandit, "score"), body, lambda r: wire.scores(_fields(r)))


def train(bandit: str, *, wait: bool) -> Call[Training | None]:
    """Return the call behind `BanditClient.train`."""

    def read(response: httpx.Response) -> Training | None:
        fields = _fields(response)
        return wire.training(fields) if wait else None

    path = _path(bandit, "train") + ("?wait=true" if wait else "?wait=false")
    return Call("POST", path, read, repeatable=False, slow=wait)


def export_snapshot(bandit: str) -> Call[bytes]:
    """Return the call behind `BanditClient.export_snapshot`."""
    return Call("GET", _path(bandit, "snapshot"), lambda response: response.content, slow=True)


def import_snapshot(bandit: str, snapshot: bytes) -> Call[SnapshotState]:
    """Return the call behind `BanditClient.import_snapshot`."""
    return Call(
        "PUT", _path(bandit, "snapshot"), lambda r: wire.snapshot_state(_fields(r)), snapshot,
        {"Content-Type": "application/octet-stream"}, repeatable=False, slow=True,
    )  # fmt: skip


def address(url: str) -> httpx.URL:
    """Return the address of a service; ValueError where it is none."""
    try:
        parsed = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise ValueError(f"not an address: {url!r} ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"not an http or https address: {url!r}")
    return parsed


def authorization(api_key: str | None) -> dict[str, str]:
    """Return the headers that carry a key."""
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}


def failure(response: httpx.Response) -> BanditError:
    """Return the error that a response with a status of 400 or more stands for."""
    return wire.failure(
        response.status_code,
        response.content,
        where=_where(response),
        retry_after=response.headers.get("Retry-After"),
    )


def unreachable(
    call: Call[T], url: str, timeout_s: float, error: httpx.RequestError
) -> ServiceUnavailable:
    """Return the error of a call that was not answered."""
    if isinstance(error, httpx.TimeoutException):
        where = f"{call.method} {url}{call.path}"
        return ServiceUnavailable(f"{where}: no answer within {timeout_s:g} s")
    reason = str(error) or type(error).__name__
    return ServiceUnavailable(f"cannot reach the service at {url}: {reason}")


def _with_body(
    method: str, path: str, body: Mapping[str, object], read: Callable[[httpx.Response], T]
) -> Call[T]:
    content = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    return Call(method, path, read, content, {"Content-Type": "application/json"})


def _once(call: Call[T]) -> Call[T]:
    return Call(call.method, call.path, call.read, call.content, call.headers, repeatable=False)


def _path(bandit: str, part: str | None = None) -> str:
    path = f"/bandits/{quote(bandit, safe='')}"
    return path if part is None else f"{path}/{part}"


def _where(response: httpx.Response) -> str:
    return f"{response.request.method} {response.request.url}"


def _fields(response: httpx.Response) -> Mapping[str, object]:
    return wire.answer(response.content, where=_where(response))
