"""Steps of decisions: read the state, step it by the contract of rewards, append the step.

The contract is a pure function, and runs here, not in the store. A step names the state that it
starts from. The store refuses it where the decision is in another one; then the state is read and
stepped again. Steps of one decision that arrive together are chained: each starts from the state
that the one before will lead to, and the store gets them in that order.

Most rewards are the first ones of decisions with one action. An id that a server made names its
bandit and its place in the store, so the first attempt at such a reward reads nothing: it starts
from the state of a new decision, and the store says whether that was right.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence

from bandexa_core.ids import ActionId, DecisionId
from bandexa_core.log import contract
from bandexa_core.log.contract import (
    COMBINED,
    ActivationStatus,
    Change,
    DecisionState,
    ImportStatus,
    Outcome,
    Reported,
    RewardStatus,
)
from bandexa_core.spec import RewardSpec
from service.serving.amendments import Corrected, Voided
from service.serving.commits import Committer
from service.serving.recent import RecentDecision, RecentDecisions, Rows
from service.serving.reported_metrics import ReportedMetrics
from service.store.errors import Erased, InvalidRequest, OutOfRange, Unavailable, UnknownDecision
from service.store.identity import bandit_of, is_server_form
from service.store.protocol import Due, EventStore, FoundDecision, Reportable, Step
from service.store.records import BanditRecord, DecisionRecord, RewardReport

MAX_TRIES = 100
# For a decision that another process is storing: 4 + 8 + ... + 128 ms.
FIRST_WAIT_S, MAX_WAIT_S = 0.004, 0.128
NEW = DecisionState.of(1, activated=True)
Commit = asyncio.Future[Rows | None]  # None: the decision has moved on


class Steps:
    """Takes reports about decisions.

    Args:
        store: Has the decisions.
        commit: Waits for commits.
        recent: The decisions in memory.
        metrics: Returns what is known of the metrics of a live bandit, by its key in the store.
        record: Returns the record of the live bandit with a key in the store, or None; also None
            where the key does not say which reward rules a decision follows.
        max_rewards: The largest number of rewards of a decision.
        reward_range: Returns the reward range of a bandit.
        learn: Receives each committed step with its rows, if any, in commit order.
    """

    def __init__(
        self,
        store: EventStore,
        commit: Committer,
        recent: RecentDecisions,
        record: Callable[[int], BanditRecord | None],
        max_rewards: int,
        reward_range: Callable[[BanditRecord], tuple[float, float] | None],
        learn: Callable[[Step, Rows], None],
        metrics: Callable[[int], ReportedMetrics | None],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._record = record
        self._commit = commit
        self._recent = recent
        self._max_rewards = max_rewards
        self._reward_range = reward_range
        self._learn = learn

    async def reward(self, report: RewardReport) -> tuple[Reportable, RewardStatus, Rows]:
        """Store a reward; returns its decision, its status and the rows that were learned.

        Raises:
            UnknownDecision, InvalidRequest: Nothing was stored.
            Unavailable, StoreError: The store takes no writes.
        """
        entry = self._recent.get(report.decision_id)
        if entry is None and (decision := self._if_new(report)) is not None:
            reported = Reported(0, report.reward, report.reward_id)
            try:
                status, change = self._change(decision, reported)
            except InvalidRequest:  # it may repeat one that is stored, or count with others
                change = None
            if change is not None:
                rows = await self._append(Step(decision, change, report.time, reported), None)
                if rows is not None:
                    return decision, status, rows
        for _ in range(MAX_TRIES):
            held = self._recent.get(report.decision_id)
            entry = held or await self._find(report.decision_id)
            item = _item_of(entry.decision, report)
            if entry.rewards is None and _may_repeat(entry, report):
                entry.lock = entry.lock or asyncio.Lock()
                async with entry.lock:
                    repeats = await self._commit(
                        self._store.find_repeats, entry.decision.key, item, report.reward_id,
                        report.reward,
                    )  # fmt: skip
                    status, commit = self._report(entry, report, item, repeats)
            else:
                known = entry.rewards or {}
                repeats = known.get((item, report.reward_id or ""), ())
                status, commit = self._report(entry, report, item, repeats)
            if commit is None:
                if self._may_be_old(held):
                    continue
                await self._commit(self._store.confirm)
                return entry.decision, status, ()
            rows = await commit
            if rows is not None:
                return entry.decision, status, rows
        raise _too_busy(report.decision_id)

    async def activate(
        self, decision_id: DecisionId, now: float, check: Callable[[str], None] | None = None
    ) -> tuple[Reportable, ActivationStatus, Rows]:
        """Make a decision's rewards count; `check`: see `RewardReport`.

        Raises:
            UnknownDecision: Nothing was stored.
            Unavailable, StoreError: The store takes no writes.
        """
        for _ in range(MAX_TRIES):
            held = self._recent.get(decision_id)
            entry = held or await self._find(decision_id)
            decision = entry.decision
            if check is not None:
                check(decision.bandit.name)
            status, change = contract.activate(decision.state, self._rules(decision))
            if change is None:
                commit = self._committed(entry)
            else:
                commit = self._append(Step(decision, change, now), entry)
            if commit is None:
                if self._may_be_old(held):
                    continue
                await self._commit(self._store.confirm)
                return decision, status, ()
            rows = await commit
            if rows is not None:
                return decision, status, rows if change is not None else ()
        raise _too_busy(decision_id)

    async def void(
        self,
        decision_id: DecisionId,
        bandit: BanditRecord,
        action: ActionId | None,
        now: float,
        *,
        dry_run: bool = False,
    ) -> Voided:
        """Void the values of a decision, or only that of a chosen action.

        With `dry_run` nothing changes: it says what would.

        Raises:
            UnknownDecision: The bandit has no such decision.
            Erased: It was erased.
            Unavailable, StoreError: The store takes no writes.
        """
        for _ in range(MAX_TRIES):
            entry = await self._entry(decision_id, bandit)
            decision = entry.decision
            items = [n for n, name in enumerate(decision.actions) if action in (None, name)]
            change = contract.void(decision.state, items, self._rules(decision))
            if change is None or dry_run:
                if await self._confirmed(entry) is None:
                    continue
                return Voided((), ()) if change is None else Voided.of(decision, change, ())
            rows = await self._append(Step(decision, change, now), entry)
            if rows is not None:
                return Voided.of(decision, change, rows)
        raise _too_busy(decision_id)

    async def correct(
        self,
        decision_id: DecisionId,
        bandit: BanditRecord,
        action: ActionId | None,
        reward: Outcome,
        now: float,
    ) -> Corrected:
        """Replace the value of a decision, or of a chosen action.

        Raises:
            UnknownDecision: The bandit has no such decision.
            Erased: It was erased.
            InvalidRequest: The reward cannot be taken.
            Unavailable, StoreError: The store takes no writes.
        """
        report = RewardReport(decision_id, reward, None, action, now)
        for _ in range(MAX_TRIES):
            entry = await self._entry(decision_id, bandit)
            decision = entry.decision
            item = _item_of(decision, report)
            rules = self._rules(decision, reward)
            try:
                status, change = contract.correct(
                    decision.state, item, reward, rules, self._max_rewards,
                    self._allowed(decision),
                )  # fmt: skip
            except ValueError as error:
                raise _refusal(error, decision) from error
            rows: Rows | None = ()
            if change is None:
                rows = await self._confirmed(entry)
            else:
                step = Step(decision, change, now, Reported(item, reward, None))
                if change.reward == "late":
                    self._recent.note_reward(entry, item, "", reward)
                rows = await self._append(step, entry)
            if rows is not None:
                before = contract.known_value(decision.state.items[item], rules)
                after = contract.value_reported(reward, rules)
                return Corrected(status, decision.actions[item], before, after, rows)
        raise _too_busy(decision_id)

    async def teach(
        self, made: DecisionRecord, bandit: BanditRecord, item: int, value: Outcome, now: float
    ) -> tuple[ImportStatus, Rows]:
        """Learn the value of a chosen action of an imported decision, a single one or metrics.

        Raises:
            UnknownDecision: The bandit has no such decision.
            Erased: It was erased.
            InvalidRequest: The value cannot be taken.
            Unavailable, StoreError: The store takes no writes.
        """
        for tries in range(MAX_TRIES):
            entry = await self._entry(made.decision_id, bandit, anew=tries > 0)
            decision = entry.decision
            status, change = self._taught(decision, item, value)
            rows: Rows | None = ()
            if change is None and not tries:
                continue
            if change is None:
                rows = await self._confirmed(entry)
            else:
                reported = Reported(item, value, None)
                rows = await self._append(
                    Step(decision, change, now, reported, imported=True), entry
                )
            if rows is not None:
                return status, rows
        raise _too_busy(made.decision_id)

    def check_taught(
        self,
        made: DecisionRecord,
        bandit: BanditRecord,
        changed: RewardSpec | None,
        values: Sequence[Outcome | None],
    ) -> None:
        """Check the values of the chosen actions of a decision that is to be imported.

        Raises:
            InvalidRequest: One cannot be taken.
        """
        decision = _imported(made, bandit, changed)
        for item, value in enumerate(values):
            if value is not None:
                self._taught(decision, item, value)

    def _taught(
        self, decision: Reportable, item: int, value: Outcome
    ) -> tuple[ImportStatus, Change | None]:
        rules = self._rules(decision, value if isinstance(value, tuple) else None)
        try:
            return contract.teach(decision.state, item, value, rules, self._max_rewards)
        except ValueError as error:
            raise InvalidRequest.from_value_error(error, "value") from error

    def imported(
        self, made: DecisionRecord, bandit: BanditRecord, changed: RewardSpec | None
    ) -> None:
        """Note an imported decision that was just stored; `changed`: see `Reportable`."""
        self._recent.found(FoundDecision(_imported(made, bandit, changed), {}))

    async def check(self, report: RewardReport) -> RewardStatus:
        """Return the status that a reward would get now; nothing is stored.

        Raises:
            UnknownDecision, Erased, InvalidRequest: It would be refused.
            Unavailable, StoreError: The store cannot be asked.
        """
        held = self._recent.get(report.decision_id)
        entry = await self._find(report.decision_id) if self._may_be_old(held) else held
        entry = entry or await self._find(report.decision_id)
        item = _item_of(entry.decision, report)
        repeats: Sequence[Outcome] = (entry.rewards or {}).get((item, report.reward_id or ""), ())
        if entry.rewards is None and _may_repeat(entry, report):
            repeats = await self._commit(
                self._store.find_repeats, entry.decision.key, item, report.reward_id, report.reward
            )
        reported = Reported(item, report.reward, report.reward_id, repeats)
        return self._change(entry.decision, reported)[0]

    async def _entry(
        self, decision_id: DecisionId, bandit: BanditRecord, *, anew: bool = True
    ) -> RecentDecision:
        """Return a decision of a bandit; `anew`: not one in memory that may be old.

        Raises:
            UnknownDecision: The bandit has no such decision.
        """
        held = self._recent.get(decision_id)
        if anew and held is not None and held.newest is None and self._may_be_old(held):
            held = None
        entry = held or await self._find(decision_id)
        if entry.decision.bandit.key != bandit.key:
            raise UnknownDecision(decision_id)
        return entry

    async def close_windows(self, now: Callable[[], float]) -> Due:
        """Learn from what is mature, and close the windows that are over, some of both.

        Returns what was found to be due.

        Raises:
            Unavailable, StoreError: The store takes no writes.
        """
        due: Due = await self._commit(self._store.due_windows)
        commits = []
        for matures, found in due.mature:
            decision, entry = self._found_due(found)
            change = contract.mature(decision.state, self._rules(decision))
            if change is not None:
                step = Step(decision, change, now(), matures=matures)
                commits.append(self._append(step, entry))
        for closes, found in due.windows:
            decision, entry = self._found_due(found)
            change = contract.close(decision.state, self._rules(decision))
            if change is not None:
                step = Step(decision, change, now(), closes=closes)
                commits.append(self._append(step, entry))
        for result in await asyncio.gather(*commits, return_exceptions=True):
            if isinstance(result, UnknownDecision | Erased):
                continue  # it went meanwhile, and what waits for it is removed the next time
            if isinstance(result, BaseException):
                raise result
        return due

    def _found_due(self, found: Reportable) -> tuple[Reportable, RecentDecision | None]:
        """Return a decision that is due as it is now, and what is in memory of it.

        What is in memory is newer than what was just read only while its step is under way. By an
        older state nothing may be left to do, and then the decision would be due for ever.
        """
        held = self._recent.get(found.id)
        if held is None or (held.newest is None and self._may_be_old(held)):
            return found, None
        return held.decision, held

    def _may_be_old(self, held: RecentDecision | None) -> bool:
        """Whether a decision in memory may not be as it is stored, and is forgotten for that.

        Others may have stored a step; or an earlier one was looked up before it was durable, and
        the database has lost it. What a report changes is compared with the store in any case;
        this is for reports that change nothing, by what is in memory.
        """
        if held is None or not (self._store.shared or self._store.confirms):
            return False
        self._recent.drop(held.decision.id, held)
        return True

    def stepped_elsewhere(self, decision_id: DecisionId) -> None:
        """Forget a decision of which another process has stored a step."""
        self._recent.drop(decision_id)

    async def _find(self, decision_id: DecisionId) -> RecentDecision:
        """Return a decision that is not in memory.

        A decision of a caller's own id may be on its way from another process: it is waited for.

        Raises:
            UnknownDecision: There is none.
        """
        wait_s = FIRST_WAIT_S
        waits = self._store.shared and not is_server_form(decision_id)
        while True:
            try:
                found: FoundDecision = await self._commit(self._store.find_decision, decision_id)
                break
            except UnknownDecision:
                if not waits or wait_s > MAX_WAIT_S:
                    raise
            await asyncio.sleep(wait_s)
            wait_s *= 2.0
        # Another report may have found it, and stepped it, meanwhile.
        return self._recent.get(decision_id) or self._recent.found(found)

    def _if_new(self, report: RewardReport) -> Reportable | None:
        """Return the decision of a reward as it is if nothing was reported about it so far.

        None where the id does not say which decision it is, or more rewards than one are usual.
        """
        if report.action is not None:
            return None
        key = self._store.ids.key(report.decision_id)
        bandit = None if key is None else self._record(bandit_of(key))
        if key is None or bandit is None or bandit.spec.rewards.aggregate in COMBINED:
            return None
        if report.bandit is not None and report.bandit != bandit.name:
            return None
        if report.check is not None:
            report.check(bandit.name)
        return Reportable(key, report.decision_id, bandit, (), NEW)

    def _report(
        self, entry: RecentDecision, report: RewardReport, item: int, repeats: Sequence[Outcome]
    ) -> tuple[RewardStatus, Commit | None]:
        """Step a decision by a reward; returns the commit to wait for.

        Raises:
            InvalidRequest: The reward cannot be taken.
        """
        decision = entry.decision
        reported = Reported(item, report.reward, report.reward_id, repeats)
        status, change = self._change(decision, reported)
        if change is None:  # what it repeats has to be committed before this is answered
            return status, self._committed(entry)
        if report.reward_id is not None or change.reward == "late":
            self._recent.note_reward(entry, item, report.reward_id or "", report.reward)
        return status, self._append(Step(decision, change, report.time, reported), entry)

    def _change(
        self, decision: Reportable, reported: Reported
    ) -> tuple[RewardStatus, Change | None]:
        """Return what a reward does to a decision.

        Raises:
            InvalidRequest: The reward cannot be taken.
        """
        rules = self._rules(decision, reported.reward)
        try:
            return contract.report(
                decision.state, reported, rules, self._max_rewards,
                self._allowed(decision),
            )  # fmt: skip
        except ValueError as error:
            raise _refusal(error, decision) from error

    def _allowed(self, decision: Reportable) -> tuple[float, float] | None:
        """Return the range of the rewards that are taken for a decision; None: any are."""
        if decision.rules.outside != "refuse":
            return None
        return self._reward_range(decision.bandit)

    def _rules(self, decision: Reportable, reward: Outcome | None = None) -> RewardSpec:
        """Return the reward rules of a decision, with the weights that make its value of metrics.

        `reward`: what is reported. A decision that was made while its bandit learned metrics takes
        no single reward. An older one takes either, because its callers may be older, too.

        Raises:
            InvalidRequest: It does not take such a reward.
        """
        rules = decision.rules
        if isinstance(reward, tuple):
            known = self._metrics(decision.bandit.key)
            learn = rules.learn if known is None or known.learn is None else known.learn
            if learn is None:
                raise InvalidRequest(
                    "metrics", "the bandit learns single rewards: report `reward`, or change it:"
                    " rewards.learn says what is learned of metrics",
                )  # fmt: skip
            if known is not None:
                known.check(reward)
        elif reward is not None:
            if rules.learn is not None:
                names = ", ".join(rules.learn)
                raise InvalidRequest(
                    "reward", f"the bandit learns metrics: report `metrics`, with {names}"
                )
            return rules
        elif not any(item.metrics for item in decision.state.items):
            return rules
        else:
            known = self._metrics(decision.bandit.key)
            learn = rules.learn if known is None or known.any_learn is None else known.any_learn
        return rules if learn == rules.learn else dataclasses.replace(rules, learn=learn)

    def _committed(self, entry: RecentDecision) -> Commit | None:
        """Return a future of the newest step of a decision; None where all are committed."""
        if entry.newest is None:
            return None
        future: Commit = self._commit.future()
        entry.waiting.append(future)
        return future

    async def _confirmed(self, entry: RecentDecision) -> Rows | None:
        """Wait until a decision is durable as it is in memory; None: it has moved on."""
        waiting = self._committed(entry)
        if waiting is not None and await waiting is None:
            return None
        await self._commit(self._store.confirm)
        return ()

    def _append(self, step: Step, entry: RecentDecision | None) -> Commit:
        """Append a step; in memory the decision is already in its new state."""
        decision = step.decision
        if step.reported is not None and isinstance(step.reported.reward, tuple):
            known = self._metrics(decision.bandit.key)
            if known is not None:
                known.take(step.reported.reward)
        future: Commit = self._commit.future()
        if entry is not None:
            entry.decision = Reportable(
                decision.key, decision.id, decision.bandit, decision.actions, step.change.state,
                decision.changed,
            )  # fmt: skip
            entry.newest = step

        def done(rows: Rows | None, error: Exception | None) -> None:
            if entry is not None and (error is not None or rows is None):
                self._recent.drop(decision.id, entry)  # later steps must not start from it
            try:
                if rows is not None:
                    self._learn(step, rows)
            finally:  # a committed row is applied even if its caller went away
                _resolve(future, rows, error)
                if entry is not None and entry.newest is step:
                    entry.newest = None
                    waiting, entry.waiting = entry.waiting, []
                    for other in waiting:
                        _resolve(other, rows, error)

        self._store.append_step(step, done)
        return future


def _imported(made: DecisionRecord, bandit: BanditRecord, changed: RewardSpec | None) -> Reportable:
    """Return an imported decision as it is before its values."""
    actions = tuple(each.id for each in made.chosen)
    state = DecisionState.imported(len(actions))
    return Reportable(made.key, made.decision_id, bandit, actions, state, changed)


def _refusal(error: ValueError, decision: Reportable) -> InvalidRequest:
    if isinstance(error, contract.OutOfRange):
        refusal = OutOfRange.from_value_error(error, "reward")
        refusal.uid = decision.bandit.uid
        return refusal
    return InvalidRequest.from_value_error(error, "reward")


def _resolve(future: Commit, rows: Rows | None, error: Exception | None) -> None:
    if future.done():  # its caller went away
        return
    if error is None:
        future.set_result(rows)
    else:
        future.set_exception(error)


def _may_repeat(entry: RecentDecision, report: RewardReport) -> bool:
    return report.reward_id is not None or entry.decision.state.closed


def _item_of(decision: Reportable, report: RewardReport) -> int:
    """Return the index of the chosen action that a reward is for.

    Raises:
        InvalidRequest: The report names another bandit, or no chosen action.
        ServiceError: Its caller may not report on the bandit.
    """
    if report.check is not None:
        report.check(decision.bandit.name)
    if report.bandit is not None and report.bandit != decision.bandit.name:
        raise InvalidRequest("bandit", f"the decision is not one of {report.bandit!r}")
    if report.action is None:
        if len(decision.actions) > 1:
            raise InvalidRequest("action", "needed: the decision chose several actions")
        return 0
    if report.action in decision.actions:
        return decision.actions.index(report.action)
    raise InvalidRequest("action", f"the decision did not choose {report.action!r}")


def _too_busy(decision_id: DecisionId) -> Unavailable:
    return Unavailable(f"decision {decision_id} changes faster than reports about it are stored")
