"""The client for asyncio: `BanditClient` with awaits, for one event loop.

Cancelling a call ends it at once; what it sent may still count, as its ids say.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import httpx

from bandexa_client import calls, wire
from bandexa_client.calls import Call, T
from bandexa_client.retrying import Retry
from bandexa_client.wire import (
    Array,
    BanditState,
    Catalogue,
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
)

_RETRY = Retry()


class AsyncBanditClient:
    """The service at `url`. Close it, or use it as a context manager.

    Args:
        url: where the service listens, such as `http://127.0.0.1:8080`.
        timeout_s: limit for connecting and for each answer.
        train_timeout_s: limit for `train(wait=True)` and for moving snapshots.
        retry: what happens where the service does not answer; `NO_RETRY`: an error at once.
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
        retry: Retry = _RETRY,
        trust_env: bool = True,
        api_key: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.num_requests = 0
        self._timeout_s = timeout_s
        self._train_timeout_s = train_timeout_s
        self._retry = retry
        self._http = httpx.AsyncClient(
            base_url=calls.address(url),
            timeout=timeout_s,
            trust_env=trust_env,
            headers=calls.authorization(api_key),
            limits=httpx.Limits(keepalive_expiry=calls.KEEPALIVE_S),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; closing twice is harmless."""
        await self._http.aclose()

    async def ready(self) -> bool:
        """Tell whether the service takes requests; ServiceUnavailable if nothing answers."""
        response = await self._send(calls.ready(), self._timeout_s)
        if response.status_code not in (200, 503):
            raise calls.failure(response)
        return response.status_code == 200

    async def put_bandit(self, bandit: str, spec: Mapping[str, object]) -> BanditState:
        """Create a bandit or change what may change; Conflict when `spec` changes what may not."""
        return await self._do(calls.put_bandit(bandit, spec))

    async def get_bandit(self, bandit: str) -> BanditState:
        """Return configuration and progress of a bandit."""
        return await self._do(calls.get_bandit(bandit))

    async def delete_bandit(self, bandit: str) -> None:
        """Delete a bandit with its decisions and snapshots."""
        await self._do(calls.delete_bandit(bandit))

    async def put_actions(
        self, bandit: str, ids: Sequence[str], features: Array | None = None
    ) -> Catalogue:
        """Add or change actions; `features` has shape (len(ids), action_dim), None if that is 0."""
        return await self._do(calls.put_actions(bandit, ids, features))

    async def select(
        self,
        bandit: str,
        context: Array,
        *,
        candidates: Sequence[str] | Sequence[Mapping[str, object]] | None = None,
        retrieve: int | None = None,
        decision_id: str | None = None,
        k: int = 1,
        activate: bool = True,
        fallback: str | None = None,
        within_s: float | None = None,
    ) -> Selection:
        """Ask which action to take.

        Args:
            bandit: its name.
            context: an array of the bandit's context shape.
            candidates: catalogue ids, or `{id, features}` each; None offers all enabled actions.
            retrieve: let the service shortlist this many actions by their sampled value.
            decision_id: the caller's id; None: the client makes one where it retries, so that a
                repeated call gives the same decision, else the service does.
            k: how many actions to choose.
            activate: False when the decision may never be shown.
            fallback: the action to take where the service does not answer: see `Selection`.
            within_s: limit for the whole call, retries included; None: the client's limits.

        Raises:
            ServiceUnavailable: it did not answer, and there is no `fallback`.
        """
        if decision_id is None and self._retry.attempts > 1:
            decision_id = wire.new_id()
        request = SelectRequest(bandit, context, candidates, retrieve, decision_id, k, activate)
        try:
            return await self._do(calls.select(request), within_s)
        except (ServiceUnavailable, ServiceFailed):
            if fallback is None:
                raise
            return wire.fallback_selection(fallback)

    async def reward(
        self,
        decision_id: str,
        reward: float,
        *,
        reward_id: str | None = None,
        action: str | None = None,
    ) -> RewardStatus:
        """Report an outcome; `reward_id` tells outcomes apart, `action` is needed when k > 1."""
        if wire.is_fallback(decision_id):
            return RewardStatus("fallback", False)
        return await self._do(calls.reward(RewardReport(decision_id, reward, reward_id, action)))

    async def select_batch(self, requests: Sequence[SelectRequest]) -> list[Selection | Rejected]:
        """Answer up to 1000 selects in one call; each succeeds or is rejected on its own."""
        return await self._do(calls.select_batch(requests))

    async def reward_batch(self, reports: Sequence[RewardReport]) -> list[RewardStatus | Rejected]:
        """Report up to 1000 outcomes in one call; each succeeds or is rejected on its own."""
        return await self._do(calls.reward_batch(reports))

    async def score(
        self, bandit: str, context: Array, candidates: Sequence[str] | None = None
    ) -> Scores:
        """Return mean and standard deviation of every candidate; nothing is recorded."""
        return await self._do(calls.score(bandit, context, candidates))

    async def train(self, bandit: str, *, wait: bool = True) -> Training | None:
        """Train now; with `wait` return once the new model is served, else None at once."""
        return await self._do(calls.train(bandit, wait=wait))

    async def export_snapshot(self, bandit: str) -> bytes:
        """Return the served snapshot, for `import_snapshot`."""
        return await self._do(calls.export_snapshot(bandit))

    async def import_snapshot(self, bandit: str, snapshot: bytes) -> SnapshotState:
        """Serve an exported snapshot from a bandit of equal spec and actions."""
        return await self._do(calls.import_snapshot(bandit, snapshot))

    async def _do(self, call: Call[T], within_s: float | None = None) -> T:
        deadline = math.inf if within_s is None else time.monotonic() + within_s
        limit_s = self._train_timeout_s if call.slow else self._timeout_s
        attempt = 0
        while True:
            attempt += 1
            left_s = deadline - time.monotonic()
            try:
                return call.outcome(await self._send(call, min(limit_s, max(left_s, 0.001))))
            except ServiceUnavailable as error:
                wait = self._retry.wait_s(attempt, error, deadline - time.monotonic())
                if wait is None or not call.repeatable:
                    raise
            await asyncio.sleep(wait)

    async def _send(self, call: Call[T], timeout_s: float) -> httpx.Response:
        self.num_requests += 1
        try:
            return await self._http.request(
                call.method, call.path, content=call.content, headers=call.headers,
                timeout=timeout_s,
            )  # fmt: skip
        except httpx.RequestError as error:
            raise calls.unreachable(call, self.url, timeout_s, error) from error
