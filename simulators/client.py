"""Typed synchronous client of the bandit service: httpx and the standard library, nothing else.

Runs in the caller's thread; one client owns one connection pool and may be shared by threads
(`num_requests` is then approximate). It keeps no other state and never retries: decision and reward
ids make a retry by the caller safe. Every failure is one of the errors drawn in `wire.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import quote

import httpx

from simulators import wire
from simulators.wire import (
    Action,
    ActionScore,
    Array,
    BanditError,
    BanditState,
    Catalogue,
    Conflict,
    Invalid,
    NotFound,
    Rejected,
    RewardReport,
    RewardStatus,
    Scores,
    Selection,
    SelectRequest,
    ServiceFailed,
    ServiceUnavailable,
    SnapshotState,
    Training,
    array_body,
)

__all__ = [
    "Action",
    "ActionScore",
    "Array",
    "BanditClient",
    "BanditError",
    "BanditState",
    "Catalogue",
    "Conflict",
    "Invalid",
    "NotFound",
    "Rejected",
    "RewardReport",
    "RewardStatus",
    "Scores",
    "SelectRequest",
    "Selection",
    "ServiceFailed",
    "ServiceUnavailable",
    "SnapshotState",
    "Training",
    "array_body",
]

# Servers commonly close a connection after 5 idle seconds; give it up before, so that no request is
# sent into a closing one.
_KEEPALIVE_S = 2.0


class BanditClient:
    """The service at `url`. Close it, or use it as a context manager.

    Args:
        url: where the service listens, such as `http://127.0.0.1:8000`.
        timeout_s: limit for connecting and for each answer.
        train_timeout_s: limit for `train(wait=True)` and for moving snapshots.
        trust_env: honour the proxy settings of the environment.
        api_key: sent with every request, to a server that has keys.

    Raises:
        ValueError: `url` is not an http or https address.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        train_timeout_s: float = 600.0,
        trust_env: bool = True,
        api_key: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.num_requests = 0
        self._timeout_s = timeout_s
        self._train_timeout_s = train_timeout_s
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ValueError(f"not an address: {url!r} ({error})") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise ValueError(f"not an http or https address: {url!r}")
        self._http = httpx.Client(
            base_url=address,
            timeout=timeout_s,
            trust_env=trust_env,
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            limits=httpx.Limits(keepalive_expiry=_KEEPALIVE_S),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; closing twice is harmless."""
        self._http.close()

    def ready(self) -> bool:
        """Tell whether the service takes requests; ServiceUnavailable if nothing answers."""
        response = self._send("GET", "/readyz")
        if response.status_code not in (200, 503):
            raise _failure(response)
        return response.status_code == 200

    def put_bandit(self, bandit: str, spec: Mapping[str, object]) -> BanditState:
        """Create a bandit or change what may change; Conflict when `spec` changes what may not."""
        response = self._request("PUT", _path(bandit), body=spec)
        return wire.bandit_state(_fields(response), created=response.status_code == 201)

    def get_bandit(self, bandit: str) -> BanditState:
        """Return configuration and progress of a bandit."""
        return wire.bandit_state(_fields(self._request("GET", _path(bandit))), created=False)

    def delete_bandit(self, bandit: str) -> None:
        """Delete a bandit with its decisions and snapshots."""
        self._request("DELETE", _path(bandit))

    def put_actions(
        self, bandit: str, ids: Sequence[str], features: Array | None = None
    ) -> Catalogue:
        """Add or change actions; `features` has shape (len(ids), action_dim), None if that is 0."""
        if features is None:
            body: dict[str, object] = {"actions": [{"id": action} for action in ids]}
        else:
            body = {"ids": list(ids), "features": features}
        return wire.catalogue(_fields(self._request("PUT", _path(bandit, "actions"), body=body)))

    def select(
        self,
        bandit: str,
        context: Array,
        *,
        candidates: Sequence[str] | Sequence[Mapping[str, object]] | None = None,
        retrieve: int | None = None,
        decision_id: str | None = None,
        k: int = 1,
        activate: bool = True,
    ) -> Selection:
        """Ask which action to take.

        Args:
            bandit: its name.
            context: an array of the bandit's context shape.
            candidates: catalogue ids, or `{id, features}` each; None offers all enabled actions.
            retrieve: let the service shortlist this many actions by their sampled value.
            decision_id: the caller's id, which makes the call safe to repeat; None: the service's.
            k: how many actions to choose.
            activate: False when the decision may never be shown.
        """
        request = SelectRequest(bandit, context, candidates, retrieve, decision_id, k, activate)
        return wire.selection(_fields(self._request("POST", "/select", body=request.body())))

    def reward(
        self,
        decision_id: str,
        reward: float,
        *,
        reward_id: str | None = None,
        action: str | None = None,
    ) -> RewardStatus:
        """Report an outcome; `reward_id` makes it safe to repeat, `action` is needed when k > 1."""
        report = RewardReport(decision_id, reward, reward_id, action)
        return wire.reward_status(_fields(self._request("POST", "/reward", body=report.body())))

    def select_batch(self, requests: Sequence[SelectRequest]) -> list[Selection | Rejected]:
        """Answer up to 1000 selects in one call; each succeeds or is rejected on its own."""
        body = {"items": [request.body() for request in requests]}
        response = self._request("POST", "/select/batch", body=body)
        return wire.batch(_fields(response), len(requests), wire.selection)

    def reward_batch(self, reports: Sequence[RewardReport]) -> list[RewardStatus | Rejected]:
        """Report up to 1000 outcomes in one call; each succeeds or is rejected on its own."""
        body = {"items": [report.body() for report in reports]}
        response = self._request("POST", "/reward/batch", body=body)
        return wire.batch(_fields(response), len(reports), wire.reward_status)

    def score(self, bandit: str, context: Array, candidates: Sequence[str] | None = None) -> Scores:
        """Return mean and standard deviation of every candidate; nothing is recorded."""
        body: dict[str, object] = {"context": context}
        if candidates is not None:
            body["candidates"] = list(candidates)
        return wire.scores(_fields(self._request("POST", _path(bandit, "score"), body=body)))

    def train(self, bandit: str, *, wait: bool = True) -> Training | None:
        """Train now; with `wait` return once the new model is served, else None at once."""
        path = _path(bandit, "train") + ("?wait=true" if wait else "?wait=false")
        response = self._request("POST", path, slow=wait)
        return wire.training(_fields(response)) if wait else None

    def export_snapshot(self, bandit: str) -> bytes:
        """Return the served snapshot, for `import_snapshot`."""
        return self._request("GET", _path(bandit, "snapshot"), slow=True).content

    def import_snapshot(self, bandit: str, snapshot: bytes) -> SnapshotState:
        """Serve an exported snapshot from a bandit of equal spec and actions."""
        response = self._request("PUT", _path(bandit, "snapshot"), content=snapshot, slow=True)
        return wire.snapshot_state(_fields(response))

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        content: bytes | None = None,
        slow: bool = False,
    ) -> httpx.Response:
        response = self._send(method, path, body=body, content=content, slow=slow)
        if not response.is_success:
            raise _failure(response)
        return response

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        content: bytes | None = None,
        slow: bool = False,
    ) -> httpx.Response:
        headers = {}
        if body is not None:
            content = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
            headers["Content-Type"] = "application/json"
        elif content is not None:
            headers["Content-Type"] = "application/octet-stream"
        timeout_s = self._train_timeout_s if slow else self._timeout_s
        self.num_requests += 1
        try:
            return self._http.request(
                method, path, content=content, headers=headers, timeout=timeout_s
            )
        except httpx.TimeoutException as error:
            message = f"{method} {self.url}{path}: no answer within {timeout_s:g} s"
            raise ServiceUnavailable(message) from error
        except httpx.RequestError as error:
            reason = str(error) or type(error).__name__
            raise ServiceUnavailable(f"cannot reach the service at {self.url}: {reason}") from error


def _path(bandit: str, part: str | None = None) -> str:
    path = f"/bandits/{quote(bandit, safe='')}"
    return path if part is None else f"{path}/{part}"


def _where(response: httpx.Response) -> str:
    return f"{response.request.method} {response.request.url}"


def _fields(response: httpx.Response) -> Mapping[str, object]:
    return wire.answer(response.content, where=_where(response))


def _failure(response: httpx.Response) -> BanditError:
    return wire.failure(
        response.status_code,
        response.content,
        where=_where(response),
        retry_after=response.headers.get("Retry-After"),
    )
