"""Calls about decisions: what to do, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import httpx

from bandexa_client.answers.decisions import (
    ActivationStatus,
    RewardStatus,
    Scores,
    Selection,
)
from bandexa_client.answers.records import Corrected, Voided
from bandexa_client.arrays import Features, sendable
from bandexa_client.call import Call, Fields, Read, path, reads, reads_items
from bandexa_client.calls.sending import Sending
from bandexa_client.decoding import Mismatch
from bandexa_client.errors import Rejected, ServiceFailed, ServiceUnavailable
from bandexa_client.explanation import Explanation
from bandexa_client.requests import (
    Actions,
    RewardReport,
    SelectRequest,
    fallback_selection,
    is_fallback,
    new_id,
)
from bandexa_client.sharing import shared


class DecisionCalls(Sending):
    """Calls about decisions: what to do, and what came of it."""

    @shared
    async def select(
        self,
        bandit: str,
        context: Features,
        *,
        candidates: Actions | None = None,
        retrieve: int | None = None,
        decision_id: str | None = None,
        k: int = 1,
        activate: bool = True,
        unit: str | None = None,
        all_propensities: bool = False,
        served: str | None = None,
        fallback: str | None = None,
        within_s: float | None = None,
    ) -> Selection:
        """Ask which action to take.

        Args:
            bandit: Its name.
            context: An array of the bandit's context shape, or a dict with named features.
            candidates: Catalogue ids, or `{id, features}` each; None offers all enabled actions.
            retrieve: The service shortlists this many actions by their sampled values.
            decision_id: The caller's id. None: the client makes one when it retries, so that a
                repeated call gives the same decision; otherwise the service does.
            k: How many actions to choose.
            activate: False when the decision may never be shown.
            unit: The user or session that it is for: `erase` finds the decision by it.
            all_propensities: Ask for the probability of every candidate, of up to 10,000.
            served: The action that the caller would serve: for arms of the policy "request".
            fallback: The action to take when the service does not answer: see `Selection`.
            within_s: Limit of the whole call in seconds, retries included. None: the client's
                limits.

        Raises:
            ServiceUnavailable: The service did not answer, and there is no `fallback`.
        """
        if decision_id is None and self._retry.attempts > 1:
            decision_id = new_id()
        request = SelectRequest(
            bandit, context, candidates, retrieve, decision_id, k, activate, unit,
            all_propensities, served,
        )  # fmt: skip
        call = Call(
            "POST", "/select", _reads_decision(decision_id), request.body(),
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
        reward: float | None = None,
        *,
        metrics: Mapping[str, float] | None = None,
        reward_id: str | None = None,
        action: str | None = None,
        bandit: str | None = None,
    ) -> RewardStatus:
        """Report an outcome of a decision.

        Args:
            decision_id: The decision. The reward of a fallback decision is not sent.
            reward: A finite number; or
            metrics: several of them by name, of a bandit whose `rewards.learn` weighs them.
            reward_id: Distinguishes several outcomes of a decision; the same id counts once.
            action: The action that the reward is for, needed when k > 1.
            bandit: The decision's bandit, if it should be checked.
        """
        if is_fallback(decision_id):
            return RewardStatus("fallback", False)
        report = RewardReport(decision_id, reward, reward_id, action, bandit, metrics)
        return await self._do(Call("POST", "/reward", reads(RewardStatus), report.body()))

    @shared
    async def activate(self, decision_id: str) -> ActivationStatus:
        """Count a decision that was made with `activate=False`, once it is shown."""
        if is_fallback(decision_id):
            return ActivationStatus("fallback")
        body = {"decision_id": decision_id}
        return await self._do(Call("POST", "/activate", reads(ActivationStatus), body))

    @shared
    async def select_batch(self, requests: Sequence[SelectRequest]) -> list[Selection | Rejected]:
        """Answer up to 1000 selects in one call; each succeeds or is rejected on its own."""
        call = Call(
            "POST", "/select/batch", _reads_decisions(requests),
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
    async def check_rewards(self, reports: Sequence[RewardReport]) -> list[RewardStatus | Rejected]:
        """Ask what would become of up to 1000 outcomes, each by itself; nothing is stored."""
        body = {"items": [report.body() for report in reports]}
        read = reads_items(RewardStatus, len(reports))
        return await self._do(Call("POST", "/reward/check", read, body))

    @shared
    async def void_rewards(
        self,
        bandit: str,
        *,
        decision_ids: Sequence[str] | None = None,
        since: float | None = None,
        until: float | None = None,
        action: str | None = None,
        dry_run: bool = False,
        wait: bool = False,
    ) -> Voided:
        """Void rewards: nothing is learned from them any more; it may be repeated.

        Args:
            bandit: Its name.
            decision_ids: Those of these decisions, up to 1000; or
            since: of decisions made at or after this time, in seconds since the epoch, and
            until: before this time.
            action: Only those for this chosen action.
            dry_run: Change nothing, and count what would be void.
            wait: Return once a model without them is served.

        Raises:
            TypeError: `decision_ids` is no list.
        """
        if isinstance(decision_ids, str):  # a sequence of ids of one letter
            raise TypeError("decision_ids: must be a list of ids")
        given = {"since": since, "until": until, "action": action}
        body: dict[str, object] = {key: each for key, each in given.items() if each is not None}
        if decision_ids is not None:
            body["decision_ids"] = list(decision_ids)
        body |= {"dry_run": dry_run, "wait": wait}
        where = path(bandit, "rewards", "void")
        return await self._do(Call("POST", where, reads(Voided), body, slow=True))

    @shared
    async def correct_reward(
        self,
        bandit: str,
        decision_id: str,
        reward: float | None = None,
        *,
        metrics: Mapping[str, float] | None = None,
        action: str | None = None,
    ) -> Corrected:
        """Replace the value of a decision, whatever was reported so far; it may be repeated.

        Args:
            bandit: Its name.
            decision_id: The decision.
            reward: The right value; or
            metrics: all metrics of the decision, by name.
            action: The chosen action that it is for, needed when k > 1.
        """
        body = RewardReport(decision_id, reward, action=action, metrics=metrics).body()
        where = path(bandit, "rewards", "correct")
        return await self._do(Call("POST", where, reads(Corrected), body))

    @shared
    async def score(
        self, bandit: str, context: Features, candidates: Actions | None = None
    ) -> Scores:
        """Return mean and standard deviation of every candidate; nothing is recorded."""
        body: dict[str, object] = {"context": sendable(context)}
        if candidates is not None:
            body["candidates"] = candidates
        return await self._do(Call("POST", path(bandit, "score"), reads(Scores), body))

    @shared
    async def explain(self, bandit: str, decision_id: str) -> Explanation:
        """Return a decision, drawn again from its snapshot and the log up to its position."""
        where = path(bandit, "decisions", decision_id)
        return await self._do(Call("GET", where, reads(Explanation, _explained), slow=True))


def _reads_decision(decision_id: str | None) -> Read[Selection]:
    """Return a function that reads the answer to a select, and refuses that to another one."""
    read = reads(Selection, _all_actions)

    def checked(response: httpx.Response) -> Selection:
        return _that_was_asked_for(read(response), decision_id)

    return checked


def _reads_decisions(requests: Sequence[SelectRequest]) -> Read[list[Selection | Rejected]]:
    """Return a function that reads the answer to a batch, and refuses that to another one."""
    read = reads_items(Selection, len(requests), _all_actions)

    def checked(response: httpx.Response) -> list[Selection | Rejected]:
        return [
            found if isinstance(found, Rejected) else _that_was_asked_for(found, asked.decision_id)
            for found, asked in zip(read(response), requests, strict=True)
        ]

    return checked


def _that_was_asked_for(found: Selection, decision_id: str | None) -> Selection:
    if decision_id is not None and found.decision_id != decision_id:
        raise Mismatch(f"decision {found.decision_id!r} was not asked for, {decision_id!r} was")
    return found


def _all_actions(fields: Fields) -> dict[str, object]:
    """List a single chosen action, too: the service lists them when there are several."""
    several = fields.get("actions")
    return {**fields, "actions": [fields.get("action")] if several is None else several}


def _explained(fields: Fields) -> dict[str, object]:
    answer = fields.get("explained")
    return {**fields, "explained": answer == "yes" if answer in ("yes", "no") else answer}
