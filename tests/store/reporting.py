"""Reports to a store by the contract of rewards, as the service makes them: find, step, append."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bandexa_core.ids import DecisionId
from bandexa_core.log import contract
from bandexa_core.log.contract import DecisionState, Reported
from service.store.errors import InvalidRequest
from service.store.protocol import Due, EventStore, FoundDecision, Logged, Reportable, Step
from service.store.records import BanditRecord, DecisionRecord, RewardReport

Done = Callable[[Any, Exception | None], None]


class Outcome(NamedTuple):
    """What a report led to. `rows`: the log rows that it learned."""

    status: str
    rows: tuple[Logged, ...]

    @property
    def row(self) -> Logged | None:
        """The only row, None without one."""
        return self.rows[0] if self.rows else None


def rewards(store: EventStore, most: int = 10_000) -> Callable[[RewardReport, Done], None]:
    """Return an append of rewards; its result is an `Outcome`."""

    def append(report: RewardReport, done: Done) -> None:
        def found(result: FoundDecision | None, error: Exception | None) -> None:
            if result is None:
                done(None, error)
                return
            decision, listed = result
            try:
                item = item_of(decision, report)
            except InvalidRequest as wrong:
                done(None, wrong)
                return

            def step(repeats: list[contract.Outcome] | None, error: Exception | None) -> None:
                if error is not None:
                    done(None, error)
                    return
                reported = Reported(item, report.reward, report.reward_id, repeats or ())
                rules = decision.rules
                try:
                    status, change = contract.report(decision.state, reported, rules, most)
                except ValueError as wrong:
                    done(None, InvalidRequest.from_value_error(wrong, "reward"))
                    return
                again = lambda: append(report, done)  # noqa: E731
                append_step(store, decision, status, change, report.time, done, again, reported)

            if listed is None:
                store.find_repeats(decision.key, item, report.reward_id, report.reward, step)
            else:
                step(listed.get((item, report.reward_id or ""), []), None)

        store.find_decision(report.decision_id, found)

    return append


def activations(store: EventStore) -> Callable[[DecisionId, float, Done], None]:
    """Return an append of activations; its result is an `Outcome`."""

    def append(decision_id: DecisionId, now: float, done: Done) -> None:
        def found(result: FoundDecision | None, error: Exception | None) -> None:
            if result is None:
                done(None, error)
                return
            decision = result.decision
            status, change = contract.activate(decision.state, decision.rules)
            again = lambda: append(decision_id, now, done)  # noqa: E731
            append_step(store, decision, status, change, now, done, again)

        store.find_decision(decision_id, found)

    return append


def append_step(
    store: EventStore,
    decision: Reportable,
    status: str,
    change: contract.Change | None,
    now: float,
    done: Done,
    again: Callable[[], None],
    reported: Reported | None = None,
) -> None:
    """Append a step, and start over where the decision has moved on."""

    def stepped(rows: tuple[Logged, ...] | None, error: Exception | None) -> None:
        if error is not None:
            done(None, error)
        elif rows is None:
            again()
        else:
            done(Outcome(status, rows), None)

    if change is None:
        done(Outcome(status, ()), None)
    else:
        store.append_step(Step(decision, change, now, reported), stepped)


def close_windows(
    call: Callable[..., Any], store: EventStore, now: float
) -> list[tuple[DecisionId, float]]:
    """Take what is due, as the service does; returns (decision id, learned value) in log order."""
    learned: list[tuple[DecisionId, float]] = []
    more = True
    while more:
        due: Due = call(store.due_windows)
        more = due.more
        for matures, decision in due.mature:
            change = contract.mature(decision.state, decision.rules)
            assert change is not None
            rows = call(store.append_step, Step(decision, change, now, matures=matures))
            learned += [(row.decision_id, row.after) for row in rows]
        for closes, decision in due.windows:
            change = contract.close(decision.state, decision.rules)
            assert change is not None
            rows = call(store.append_step, Step(decision, change, now, closes=closes))
            learned += [(row.decision_id, row.after) for row in rows]
    return learned


def first_step(bandit: BanditRecord, record: DecisionRecord, reward: float = 1.0) -> Step:
    """Return the step that a first reward makes, for a decision that was just made."""
    new = DecisionState.of(len(record.chosen), activated=record.activated)
    decision = reportable(bandit, record, new)
    reported = Reported(0, reward, None)
    _, change = contract.report(new, reported, bandit.spec.rewards, 10_000)
    assert change is not None
    return Step(decision, change, 6.0, reported)


def reportable(bandit: BanditRecord, record: DecisionRecord, state: DecisionState) -> Reportable:
    """Return a decision in a state, as a store would."""
    actions = tuple(picked.id for picked in record.chosen)
    return Reportable(record.key, record.decision_id, bandit, actions, state)


def item_of(decision: Reportable, report: RewardReport) -> int:
    """Return the index of the chosen action that a report names."""
    if report.action is None:
        if len(decision.actions) > 1:
            raise InvalidRequest("action", "needed: the decision chose several actions")
        return 0
    if report.action not in decision.actions:
        raise InvalidRequest("action", f"the decision did not choose {report.action!r}")
    return decision.actions.index(report.action)
