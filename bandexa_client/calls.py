"""Every call of the service, declared once: `BanditClient` and `AsyncBanditClient` have them all.

`shared` makes each method a blocking one in the first and an awaited one in the second.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast
from urllib.parse import quote

import httpx

from bandexa_client.answers.arms import ChallengerState, EvaluationState, Values
from bandexa_client.answers.bandits import ActionState, BanditState, Catalogue, Plan, Replayed
from bandexa_client.answers.decisions import (
    ActivationStatus,
    Imported,
    RewardStatus,
    Scores,
    Selection,
)
from bandexa_client.answers.health import ClockState, LearnState, NotedFindings, Readiness
from bandexa_client.answers.records import AuditTrail, Compacted, Corrected, Erased, LogPage, Voided
from bandexa_client.answers.snapshots import Snapshots, SnapshotState, Training
from bandexa_client.arrays import Array, Features, sendable
from bandexa_client.call import Call, Fields, Read, path, reads, reads_items
from bandexa_client.decoding import Mismatch, as_object, decode
from bandexa_client.errors import Rejected, ServiceFailed, ServiceUnavailable
from bandexa_client.explanation import Explanation
from bandexa_client.requests import (
    Actions,
    RewardReport,
    SelectRequest,
    catalogue_body,
    fallback_selection,
    is_fallback,
    new_id,
)
from bandexa_client.retrying import Retry
from bandexa_client.sharing import shared

T = TypeVar("T")
_PAGE = 10_000  # the most actions that the service lists at once
_BANDITS = 1000  # in one page


class Calls(ABC):
    """The calls; a client adds how they are sent."""

    _retry: Retry

    @abstractmethod
    async def _do(self, call: Call[T], within_s: float | None = None) -> T:
        """Send a call, again where that helps, and return its value.

        Raises:
            BanditError: It failed.
        """

    # -- decisions ----------------------------------------------------------------------------

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

    # -- bandits and actions ------------------------------------------------------------------

    @shared
    async def put_bandit(
        self,
        bandit: str,
        spec: Mapping[str, object],
        *,
        wait: bool = False,
        etag: str | None = None,
        only_new: bool = False,
    ) -> BanditState:
        """Create a bandit, or change its configuration.

        Where a model has to be learned anew for a change, the bandit is served as it was until
        then, and `rebuild` says how far that is.

        Args:
            bandit: Its name.
            spec: Its configuration.
            wait: Return once what has to be learned anew is served.
            etag: That of an earlier answer: change it only while its configuration is that one.
            only_new: Create it, and change none that is there; it is not sent again.

        Raises:
            Conflict: `spec` differs in a key that the log cannot answer for.
            PreconditionFailed: Somebody else has changed it meanwhile; with `only_new`, there is
                a bandit of this name. Nothing was changed.
        """

        def read(response: httpx.Response) -> BanditState:
            return replace(_tagged(response), created=response.status_code == 201)

        where = path(bandit) + ("?wait=true" if wait else "")
        call = Call(
            "PUT", where, read, spec, slow=wait, repeatable=not only_new,
            conditions=_conditions(etag, only_new),
        )  # fmt: skip
        return await self._do(call)

    @shared
    async def set_mode(
        self, bandit: str, mode: str = "learn", *, serve: str | None = None
    ) -> BanditState:
        """Change who decides from the next decision on, and nothing else.

        Args:
            bandit: Its name.
            mode: learn: arms and bandit, by their shares; frozen: the same, and nothing is learned
                until it is learn again; control_only: the arm `guard.arm`.
            serve: One action, which is served wherever it is offered; None: none is.
        """
        body = {"mode": mode, "serve": serve}
        return await self._do(Call("PUT", path(bandit, "mode"), reads(BanditState), body))

    @shared
    async def audit(
        self, bandit: str, *, before: int | None = None, limit: int = 100
    ) -> AuditTrail:
        """Return who changed a bandit, when, and what that changed; newest first.

        The entries of a name outlive its bandit.

        Args:
            bandit: Its name.
            before: `next` of an earlier call; None: the newest.
            limit: How many at most, up to 1000.
        """
        query = f"?limit={limit}" + ("" if before is None else f"&before={before}")
        return await self._do(Call("GET", path(bandit, "audit") + query, reads(AuditTrail)))

    @shared
    async def findings(self, bandit: str) -> NotedFindings:
        """Return what was wrong with a bandit, and when: the last 200 findings, newest first."""
        return await self._do(Call("GET", path(bandit, "findings"), reads(NotedFindings)))

    @shared
    async def values(self, bandit: str, *, limit: int = 100) -> Values:
        """Return what arms and actions earned, with intervals that hold at any time.

        `limit`: How many actions, those with the most values.
        """
        return await self._do(Call("GET", f"{path(bandit, 'values')}?limit={limit}", reads(Values)))

    @shared
    async def plan_bandit(
        self,
        bandit: str,
        spec: Mapping[str, object],
        *,
        etag: str | None = None,
        only_new: bool = False,
    ) -> Plan:
        """Return what `put_bandit` would do; nothing is changed.

        Raises:
            Conflict, PreconditionFailed: As `put_bandit` would.
        """
        where, conditions = path(bandit) + "?dry_run=true", _conditions(etag, only_new)
        return await self._do(Call("PUT", where, reads(Plan), spec, conditions=conditions))

    @shared
    async def replay_bandit(self, bandit: str, to: str, spec: Mapping[str, object]) -> Replayed:
        """Create the bandit `to`, which learns the rows of `bandit` under another configuration.

        It returns once they are learned. `bandit` itself is not changed.

        Raises:
            Conflict: `to` exists, or its contexts or actions have another form.
        """
        body = {"to": to, "spec": spec}
        where = path(bandit, "replay")
        return await self._do(
            Call("POST", where, reads(Replayed), body, repeatable=False, slow=True)
        )

    @shared
    async def get_bandit(self, bandit: str) -> BanditState:
        """Return configuration and progress of a bandit; `etag` is for `put_bandit`."""
        return await self._do(Call("GET", path(bandit), _tagged))

    @shared
    async def delete_bandit(self, bandit: str) -> None:
        """Delete a bandit with its decisions and snapshots."""
        return await self._do(Call("DELETE", path(bandit), _nothing, repeatable=False))

    @shared
    async def list_bandits(self) -> list[BanditState]:
        """Return configuration and progress of every bandit, sorted by name."""
        first = f"/bandits?limit={_BANDITS}"
        page = await self._do(Call("GET", first, reads(_Bandits)))
        found = list(page.bandits)
        while page.next is not None:
            following = Call("GET", f"{first}&after={page.next}", reads(_Bandits))
            page = await self._do(following)
            found += page.bandits
        return found

    @shared
    async def put_actions(
        self,
        bandit: str,
        actions: Actions,
        features: Array | Sequence[Mapping[str, object]] | None = None,
        enabled: Sequence[bool] | None = None,
    ) -> Catalogue:
        """Add actions, or overwrite those of the same ids. Others stay as they are.

        Args:
            bandit: Its name.
            actions: Ids, or `{id, features, enabled}` each.
            features: With ids: an array of shape (len(actions), action_dim), or a dict with named
                features for each. None leaves those of known actions as they are; new ones need
                features where the bandit's actions have some.
            enabled: With ids: whether each action is offered; None offers all of them.

        Raises:
            ValueError: `features` or `enabled` do not have a row for each action.
        """
        body = catalogue_body(actions, features, enabled)
        return await self._do(Call("PUT", path(bandit, "actions"), reads(Catalogue), body))

    @shared
    async def list_actions(
        self, bandit: str, *, offset: int = 0, limit: int | None = None
    ) -> list[ActionState]:
        """Return actions in the order of their slots, retired ones included.

        Args:
            bandit: Its name.
            offset: The slot to begin at.
            limit: How many to return; None: all. Requests hold up to 10,000 each.
        """
        found: list[ActionState] = []
        while limit is None or len(found) < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - len(found))
            where = f"{path(bandit, 'actions')}?offset={offset + len(found)}&limit={size}"
            page = await self._do(Call("GET", where, reads(_ActionPage)))
            found += page.actions
            if not page.actions or offset + len(found) >= page.total:
                break
        return found

    @shared
    async def retire_action(self, bandit: str, action: str) -> Catalogue:
        """Stop offering an action; what was learned of it stays. `put_actions` offers it again."""
        return await self._do(Call("DELETE", path(bandit, "actions", action), reads(Catalogue)))

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
    async def export_log(
        self, bandit: str, *, after: int = 0, moment: str | None = None, limit: int = 1000
    ) -> LogPage:
        """Return decisions with all that came of them, oldest first: a page of the log.

        Args:
            bandit: Its name.
            after: The `row` of the page before; 0 for the first page.
            moment: The `moment` of the first page, so that all pages are of one moment; None: now.
            limit: How many decisions at most.
        """
        query = f"?after={after}&limit={limit}"
        if moment is not None:
            query += f"&moment={quote(moment, safe='')}"
        where = path(bandit, "log") + query
        return await self._do(Call("GET", where, _reads_log, slow=True))

    @shared
    async def import_log(
        self,
        bandit: str,
        items: Sequence[Mapping[str, object]],
        *,
        source: str = "",
        logged: bool = False,
        dry_run: bool = False,
    ) -> list[Imported | Rejected]:
        """Import up to 1000 decisions that were made elsewhere; it may be repeated.

        Args:
            bandit: Its name.
            items: Dicts with `id`, `context`, `action`, and as far as known `time`, `candidates`,
                `propensity`, `propensities`, `value` or `metrics`, and `delay`: docs/evaluation.md.
            source: Of which log the ids are: equal ids of others are other decisions.
            logged: The items are of an export: what is a digest there is not hashed again.
            dry_run: Store nothing, and check each by itself.
        """
        body: dict[str, object] = {
            "items": [{key: _sent(key, each) for key, each in item.items()} for item in items],
            "source": source, "logged": logged, "dry_run": dry_run,
        }  # fmt: skip
        read = reads_items(Imported, len(items))
        return await self._do(Call("POST", path(bandit, "log"), read, body, slow=True))

    @shared
    async def start_evaluation(
        self,
        bandit: str,
        *,
        actions: Sequence[str] = (),
        configs: Mapping[str, Mapping[str, object]] | None = None,
        value_range: tuple[float, float] | None = None,
        missing: float | None = None,
        alpha: float = 0.05,
        precision: float = 0.05,
        method: str | None = None,
    ) -> EvaluationState:
        """Have policies evaluated on the log, beside the server; returned at once.

        Args:
            bandit: Its name.
            actions: Serving each of these always.
            configs: Other configurations, by a name.
            value_range: Lowest and highest value; None: the bandit's `reward_range`.
            missing: The value of decisions without one; None: they are left out.
            alpha: How often an interval may ever be wrong.
            precision: The difference that should be seen, as a share of the range; for advice.
            method: Of intervals; None: what suits each policy.
        """
        body: dict[str, object] = {
            "actions": list(actions), "configs": dict(configs or {}), "missing": missing,
            "range": None if value_range is None else list(value_range), "alpha": alpha,
            "precision": precision, "method": method,
        }  # fmt: skip
        where = path(bandit, "evaluations")
        return await self._do(Call("POST", where, reads(EvaluationState), body, repeatable=False))

    @shared
    async def evaluation(
        self, bandit: str, evaluation: str, *, wait: bool = False
    ) -> EvaluationState:
        """Return an evaluation with its result; with `wait`, once it has ended."""
        where = path(bandit, "evaluations", evaluation) + ("?wait=true" if wait else "")
        return await self._do(Call("GET", where, reads(EvaluationState), slow=wait))

    @shared
    async def list_evaluations(self, bandit: str) -> list[EvaluationState]:
        """Return the evaluations of a bandit, newest first, without their results."""
        found = await self._do(Call("GET", path(bandit, "evaluations"), reads(_Evaluations)))
        return list(found.evaluations)

    @shared
    async def delete_evaluation(self, bandit: str, evaluation: str) -> None:
        """Cancel an evaluation that has not ended; remove one that has."""
        where = path(bandit, "evaluations", evaluation)
        await self._do(Call("DELETE", where, _nothing))

    @shared
    async def put_challenger(
        self, bandit: str, challenger: str, differs: Mapping[str, object] | None = None
    ) -> ChallengerState:
        """Declare a challenger, or change it; it learns the bandit's log and serves nothing.

        Args:
            bandit: Its bandit.
            challenger: Its name; "linear" and "greedy" need no configuration.
            differs: In what its configuration differs: `encoder`, `policy`, `posterior`,
                `reward_range`, `forgetting`, `context`, `actions`; and `promotion`, how it is
                promoted: docs/challengers.md.
        """
        where = path(bandit, "challengers", challenger)
        body = dict(differs or {})
        return await self._do(Call("PUT", where, reads(ChallengerState), body, slow=True))

    @shared
    async def challenger(self, bandit: str, challenger: str) -> ChallengerState:
        """Return a challenger, and how it compares with what was served."""
        where = path(bandit, "challengers", challenger)
        return await self._do(Call("GET", where, reads(ChallengerState)))

    @shared
    async def list_challengers(self, bandit: str) -> list[ChallengerState]:
        """Return the challengers of a bandit, by name."""
        found = await self._do(Call("GET", path(bandit, "challengers"), reads(_Challengers)))
        return list(found.challengers)

    @shared
    async def delete_challenger(self, bandit: str, challenger: str) -> None:
        """Remove a challenger; a trial of it ends, and what is served stays."""
        where = path(bandit, "challengers", challenger)
        await self._do(Call("DELETE", where, _nothing, repeatable=False))

    @shared
    async def promote(
        self, bandit: str, challenger: str, *, share: float = 1.0, wait: bool = False
    ) -> BanditState:
        """Give a challenger a share of the decisions, or make its configuration the bandit's.

        Args:
            bandit: Its bandit.
            challenger: Its name.
            share: Up to 0.5: a trial; 1: its configuration is learned from the log, and served.
            wait: Return once it is served.
        """
        where = path(bandit, "challengers", challenger, "promote") + ("?wait=true" if wait else "")
        body: dict[str, object] = {"share": share}
        call = Call("POST", where, reads(BanditState), body, repeatable=False, slow=True)
        return await self._do(call)

    @shared
    async def demote(self, bandit: str, challenger: str) -> BanditState:
        """End the trial of a challenger, or serve again what it replaced, with all rows since."""
        where = path(bandit, "challengers", challenger, "demote")
        call = Call("POST", where, reads(BanditState), repeatable=False, slow=True)
        return await self._do(call)

    @shared
    async def import_snapshot(self, bandit: str, snapshot: bytes) -> SnapshotState:
        """Serve an exported snapshot from a bandit of equal spec and actions."""
        call = Call(
            "PUT", path(bandit, "snapshot"), reads(SnapshotState), snapshot, repeatable=False,
            slow=True,
        )  # fmt: skip
        return await self._do(call)

    @shared
    async def list_snapshots(self, bandit: str) -> Snapshots:
        """Return the snapshots on the server's disk; `rollback` takes any of them."""
        return await self._do(Call("GET", path(bandit, "snapshots"), reads(Snapshots)))

    @shared
    async def rollback(self, bandit: str, version: int) -> SnapshotState:
        """Serve an older snapshot from here on: what was learned after it leaves the model."""
        call = Call(
            "POST", path(bandit, "rollback"), reads(SnapshotState), {"version": version},
            repeatable=False, slow=True,
        )  # fmt: skip
        return await self._do(call)

    @shared
    async def recover(self, bandit: str) -> SnapshotState:
        """Recover a failed bandit now; one that has not failed is unchanged.

        Raises:
            ServiceUnavailable: It cannot be recovered; it is tried again later.
        """
        return await self._do(
            Call("POST", path(bandit, "recover"), reads(SnapshotState), repeatable=False, slow=True)
        )

    # -- the server -----------------------------------------------------------------------------

    @shared
    async def erase(
        self,
        *,
        unit: str | None = None,
        decision_ids: Sequence[str] | None = None,
        bandit: str | None = None,
    ) -> Erased:
        """Erase decisions and what was learned from them; it may be repeated.

        Args:
            unit: All decisions that were made for this user or session; or
            decision_ids: these decisions, up to 1000.
            bandit: Only this bandit's; None: all bandits'.

        Raises:
            TypeError: `decision_ids` is no list.
        """
        given = {"unit": unit, "bandit": bandit}
        body: dict[str, object] = {key: name for key, name in given.items() if name is not None}
        if isinstance(decision_ids, str):  # a sequence of ids of one letter
            raise TypeError("decision_ids: must be a list of ids")
        if decision_ids is not None:
            body["decision_ids"] = list(decision_ids)
        return await self._do(Call("POST", "/erase", reads(Erased), body, slow=True))

    @shared
    async def compact(self) -> Compacted:
        """Return free space of the database to the disk of the server."""
        return await self._do(Call("POST", "/compact", reads(Compacted), slow=True))

    @shared
    async def ready(self) -> Readiness:
        """Return whether the service takes requests, and why not.

        Raises:
            ServiceUnavailable: Nothing answered, or something other than the service did.
        """
        call = Call("GET", "/readyz", reads(Readiness), repeatable=False, reports_503=True)
        return await self._do(call)

    @shared
    async def learnz(self) -> LearnState:
        """Return whether every bandit learns, and what prevents it."""
        return await self._do(Call("GET", "/learnz", reads(LearnState), reports_503=True))

    @shared
    async def clock(self) -> ClockState:
        """Return service time, and how much the server's wall clock is ahead of it."""
        return await self._do(Call("GET", "/clock", reads(ClockState)))

    @shared
    async def accept_clock(self) -> ClockState:
        """Say that the server's wall clock is right: its service time moves up to it."""
        return await self._do(Call("POST", "/clock/accept", reads(ClockState)))


@dataclass(frozen=True, slots=True)
class _Bandits:
    bandits: tuple[BanditState, ...]
    next: str | None  # a server without pages sends none


@dataclass(frozen=True, slots=True)
class _Challengers:
    challengers: tuple[ChallengerState, ...]


@dataclass(frozen=True, slots=True)
class _Evaluations:
    evaluations: tuple[EvaluationState, ...]


@dataclass(frozen=True, slots=True)
class _ActionPage:
    total: int
    actions: tuple[ActionState, ...]


def _conditions(etag: str | None, only_new: bool) -> dict[str, str]:
    """Return the headers that say when a change may take effect."""
    if etag == "":
        raise ValueError("etag: the earlier answer had none")
    if etag is not None and only_new:
        raise ValueError("etag: a bandit that is only_new has none yet")
    if only_new:
        return {"If-None-Match": "*"}
    return {} if etag is None else {"If-Match": etag}


def _tagged(response: httpx.Response) -> BanditState:
    """Read a bandit with the version of its configuration."""
    return replace(reads(BanditState)(response), etag=response.headers.get("ETag", ""))


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


def _sent(key: str, value: object) -> object:
    """Return a part of an imported decision as it is sent."""
    return sendable(cast(Features, value)) if key == "context" else value


def _nothing(response: httpx.Response) -> None:
    """Read an answer without a body."""


def _all_actions(fields: Fields) -> dict[str, object]:
    """List a single chosen action, too: the service lists them when there are several."""
    several = fields.get("actions")
    return {**fields, "actions": [fields.get("action")] if several is None else several}


def _explained(fields: Fields) -> dict[str, object]:
    answer = fields.get("explained")
    return {**fields, "explained": answer == "yes" if answer in ("yes", "no") else answer}


def _reads_log(response: httpx.Response) -> LogPage:
    rows = [as_object(json.loads(line)) for line in response.content.splitlines()]
    kinds = [row.get("kind") for row in rows]
    if not rows or kinds[0] != "bandit" or kinds[-1] != "end":
        detail = rows[-1].get("detail") if rows else None
        raise Mismatch(f"the log broke off: {detail or 'its last line is missing'}")
    end = decode(_LogEnd, {key: rows[-1].get(key) for key in ("row", "more")})
    moment = decode(str, rows[0].get("moment"))
    return LogPage(tuple(dict(row) for row in rows), end.row, moment, end.more)


@dataclass(frozen=True, slots=True)
class _LogEnd:
    row: int
    more: bool
