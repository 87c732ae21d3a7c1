"""Every call of the service, declared once: `BanditClient` and `AsyncBanditClient` have them all.

`shared` makes each method a blocking one in the first and an awaited one in the second.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeVar

import httpx

from bandexa_client.answers import (
    BanditState,
    Catalogue,
    RewardStatus,
    Scores,
    Selection,
    SnapshotState,
    Training,
)
from bandexa_client.arrays import Array, sendable
from bandexa_client.call import Call, Fields, path, reads, reads_items
from bandexa_client.errors import Rejected, ServiceFailed, ServiceUnavailable
from bandexa_client.requests import (
    Candidates,
    RewardReport,
    SelectRequest,
    fallback_selection,
    is_fallback,
    new_id,
)
from bandexa_client.retrying import Retry
from bandexa_client.sharing import shared

T = TypeVar("T")


class Calls(ABC):
    """The calls; a client adds how they are sent."""

    _retry: Retry

    @abstractmethod
    async def _do(self, call: Call[T], within_s: float | None = None) -> T:
        """Send a call, again where that helps, and return its value.

        Raises:
            BanditError: It failed.
        """

    @shared
    async def ready(self) -> bool:
        """Tell whether the service takes requests; ServiceUnavailable if nothing answers."""
        call = Call(
            "GET", "/readyz", lambda response: response.status_code == 200, repeatable=False,
            reports_503=True,
        )  # fmt: skip
        return await self._do(call)

    # -- decisions ----------------------------------------------------------------------------

    @shared
    async def select(
        self,
        bandit: str,
        context: Array,
        *,
        candidates: Candidates | None = None,
        retrieve: int | None = None,
        decision_id: str | None = None,
        k: int = 1,
        activate: bool = True,
        fallback: str | None = None,
        within_s: float | None = None,
    ) -> Selection:
        """Ask which action to take.

        Args:
            bandit: Its name.
            context: An array of the bandit's context shape.
            candidates: Catalogue ids, or `{id, features}` each; None offers all enabled actions.
            retrieve: The service shortlists this many actions by their sampled values.
            decision_id: The caller's id. None: the client makes one when it retries, so that a
                repeated call gives the same decision; otherwise the service does.
            k: How many actions to choose.
            activate: False when the decision may never be shown.
            fallback: The action to take when the service does not answer: see `Selection`.
            within_s: Limit of the whole call in seconds, retries included. None: the client's
                limits.

        Raises:
            ServiceUnavailable: The service did not answer, and there is no `fallback`.
        """
        if decision_id is None and self._retry.attempts > 1:
            decision_id = new_id()
        request = SelectRequest(bandit, context, candidates, retrieve, decision_id, k, activate)
        call = Call(
            "POST", "/select", reads(Selection, _all_actions), request.body(),
            repeatable=decision_id is not None,
        )  # fmt: skip
        try:
            return await self._do(call, within_s)
        except (ServiceUnavailable, ServiceFailed):
            if fallback is None:
                raise
            return fallback_selection(fallback)

    @shared
    async def reward(
        self,
        decision_id: str,
        reward: float,
        *,
        reward_id: str | None = None,
        action: str | None = None,
    ) -> RewardStatus:
        """Report an outcome of a decision.

        Args:
            decision_id: The decision. The reward of a fallback decision is not sent.
            reward: A finite number.
            reward_id: Distinguishes several outcomes of a decision; the same id counts once.
            action: The action that the reward is for, needed when k > 1.
        """
        if is_fallback(decision_id):
            return RewardStatus("fallback", False)
        report = RewardReport(decision_id, reward, reward_id, action)
        return await self._do(Call("POST", "/reward", reads(RewardStatus), report.body()))

    @shared
    async def select_batch(self, requests: Sequence[SelectRequest]) -> list[Selection | Rejected]:
        """Answer up to 1000 selects in one call; each succeeds or is rejected on its own."""
        call = Call(
            "POST", "/select/batch", reads_items(Selection, len(requests), _all_actions),
            {"items": [request.body() for request in requests]},
            repeatable=all(request.decision_id for request in requests),
        )  # fmt: skip
        return await self._do(call)

    @shared
    async def reward_batch(self, reports: Sequence[RewardReport]) -> list[RewardStatus | Rejected]:
        """Report up to 1000 outcomes in one call; each succeeds or is rejected on its own."""
        body = {"items": [report.body() for report in reports]}
        read = reads_items(RewardStatus, len(reports))
        return await self._do(Call("POST", "/reward/batch", read, body))

    @shared
    async def score(
        self, bandit: str, context: Array, candidates: Candidates | None = None
    ) -> Scores:
        """Return mean and standard deviation of every candidate; nothing is recorded."""
        body: dict[str, object] = {"context": sendable(context)}
        if candidates is not None:
            body["candidates"] = candidates
        return await self._do(Call("POST", path(bandit, "score"), reads(Scores), body))

    # -- bandits and actions ------------------------------------------------------------------

    @shared
    async def put_bandit(self, bandit: str, spec: Mapping[str, object]) -> BanditState:
        """Create a bandit, or change those keys of it that can change.

        Raises:
            Conflict: `spec` differs in a key that cannot change.
        """

        def read(response: httpx.Response) -> BanditState:
            state = reads(BanditState)(response)
            return dataclasses.replace(state, created=response.status_code == 201)

        return await self._do(Call("PUT", path(bandit), read, spec))

    @shared
    async def get_bandit(self, bandit: str) -> BanditState:
        """Return configuration and progress of a bandit."""
        return await self._do(Call("GET", path(bandit), reads(BanditState)))

    @shared
    async def delete_bandit(self, bandit: str) -> None:
        """Delete a bandit with its decisions and snapshots."""
        return await self._do(Call("DELETE", path(bandit), _nothing, repeatable=False))

    @shared
    async def put_actions(
        self, bandit: str, ids: Sequence[str], features: Array | None = None
    ) -> Catalogue:
        """Add or change actions; `features` has shape (len(ids), action_dim), None if that is 0."""
        if features is None:
            body: dict[str, object] = {"actions": [{"id": action} for action in ids]}
        else:
            body = {"ids": list(ids), "features": sendable(features)}
        return await self._do(Call("PUT", path(bandit, "actions"), reads(Catalogue), body))

    # -- training and snapshots ---------------------------------------------------------------

    @shared
    async def train(self, bandit: str, *, wait: bool = True) -> Training:
        """Train now; with `wait` return once the new snapshot is served, otherwise at once."""
        where = path(bandit, "train") + ("?wait=true" if wait else "?wait=false")
        return await self._do(Call("POST", where, reads(Training), repeatable=False, slow=wait))

    @shared
    async def export_snapshot(self, bandit: str) -> bytes:
        """Return the served snapshot, for `import_snapshot`."""
        where = path(bandit, "snapshot")
        return await self._do(Call("GET", where, lambda response: response.content, slow=True))

    @shared
    async def import_snapshot(self, bandit: str, snapshot: bytes) -> SnapshotState:
        """Serve an exported snapshot from a bandit of equal spec and actions."""
        call = Call(
            "PUT", path(bandit, "snapshot"), reads(SnapshotState), snapshot, repeatable=False,
            slow=True,
        )  # fmt: skip
        return await self._do(call)


def _nothing(response: httpx.Response) -> None:
    """Read an answer without a body."""


def _all_actions(fields: Fields) -> dict[str, object]:
    """List a single chosen action, too: the service lists them when there are several."""
    several = fields.get("actions")
    return {**fields, "actions": [fields.get("action")] if several is None else several}
