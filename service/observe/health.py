"""Is a bandit still learning? What says that it is not: pure functions of what was seen.

An *alarm* is what no healthy bandit shows: somebody has to look. A *notice* may be right as it is
(a bandit that has found the best action serves it nearly always), and is worth a look in a new one.
Every test needs enough data to speak at all, so a quiet bandit is a healthy one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.observe.counters import Minute
from service.serving.bandit import Bandit
from service.serving.engine import Engine

Severity = Literal["alarm", "notice"]
ALARM: Severity = "alarm"
NOTICE: Severity = "notice"

FAILED_ROUNDS = 2  # in a row
ROWS_WAIT_S = 60.0
ALIKE = 1000  # decisions or values in a row that are the same
UNREWARDED = 1000  # chosen actions without a single reward
RECENT_MINUTES = 10  # that a fall of the join rate is looked for in, at least
EXPECTED_JOINS = 50.0  # that the past makes expect in them, at least
PAST_JOINS = 50
OUTSIDE_VALUES = 100  # learned ones, before a share of them tells something
OUTSIDE = 0.05
COLLAPSED = 0.25  # of what was to be expected


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is, or may be, wrong: a stable name, what was seen, what to do."""

    name: str
    severity: Severity
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class ServerSight:
    """What was seen of the server.

    Attributes:
        store_failure: Why the store takes no writes, None while it does.
        trainer_down_s: For how long there has been no trainer process; 0: there is one.
        trainer_silent_s: Since the trainer last told how far its round is; 0 between rounds.
        stale_s: How long training may stand still.
    """

    store_failure: str | None
    trainer_down_s: float
    trainer_silent_s: float
    stale_s: float


@dataclass(frozen=True, slots=True)
class BanditSight:
    """What was seen of a bandit.

    Attributes:
        due_s: For how long a background round has been due without one under way; 0: none is.
        stale_s: How long that may be.
        failures: How many rounds failed in a row, and how the last one did.
        rows_wait_s: For how long committed rows have waited to be applied.
        minutes: Its traffic since the server's start, oldest first.
        same_actions: Decisions between several candidates in a row that chose `last_action`.
        same_values: Learned values in a row that were `last_value`.
        num_values: Learned values since the server's start.
        outside: The share of about the last 1,000 that lie outside of `reward_range`.
        learns: Whether its policy learns at all.
    """

    due_s: float
    stale_s: float
    failures: tuple[int, str]
    rows_wait_s: float
    minutes: Sequence[Minute]
    same_actions: int
    last_action: object
    same_values: int
    last_value: object
    num_values: int
    outside: float
    reward_range: tuple[float, float]
    learns: bool


def of_server(sight: ServerSight) -> list[Finding]:
    """Return what is wrong with the server as a whole."""
    found = []
    if sight.store_failure is not None:
        found.append(
            Finding(
                "store-down", ALARM, f"the store takes no writes: {sight.store_failure}",
                "see docs/operations.md, When the disk fails",
            )
        )  # fmt: skip
    if sight.trainer_down_s > sight.stale_s:
        found.append(
            Finding(
                "trainer-down", ALARM,
                f"there has been no trainer process for {sight.trainer_down_s:.0f} s",
                "the log tells how it ends; memory and own encoders are the usual causes",
            )
        )  # fmt: skip
    if sight.trainer_silent_s > sight.stale_s:
        found.append(
            Finding(
                "trainer-stuck", ALARM,
                f"the trainer has said nothing for {sight.trainer_silent_s:.0f} s in a round",
                "end the trainer process; it is started again, and nothing is lost",
            )
        )  # fmt: skip
    return found


def of_bandit(sight: BanditSight) -> list[Finding]:
    """Return what is wrong, or may be, with a bandit: alarms first."""
    found = []
    if sight.due_s > sight.stale_s:
        found.append(
            Finding(
                "round-overdue", ALARM, f"a training round has been due for {sight.due_s:.0f} s",
                "is the trainer alive (/readyz), or busy with other bandits? Then fewer optimizer"
                " steps, more trainer_threads, or a greater train_every",
            )
        )  # fmt: skip
    failed, reason = sight.failures
    if failed >= FAILED_ROUNDS:
        found.append(
            Finding(
                "rounds-failing", ALARM, f"{failed} training rounds in a row failed: {reason}",
                "the trainer's lines in the log have the traceback",
            )
        )  # fmt: skip
    if sight.rows_wait_s > ROWS_WAIT_S:
        found.append(
            Finding(
                "rows-waiting", ALARM,
                f"learned rows have waited for {sight.rows_wait_s:.0f} s to be applied",
                "an encoder too slow for the traffic, or an error that the log tells; a restart"
                " applies them all",
            )
        )  # fmt: skip
    found += _traffic(sight)
    return found


def _traffic(sight: BanditSight) -> list[Finding]:
    found = []
    fall = join_rate_fall(sight.minutes)
    if fall is not None:
        past, recent = fall
        found.append(
            Finding(
                "join-rate-collapsed", ALARM,
                f"of {past:.3g} rewards per decision before, {recent:.3g} are left",
                "do rewards still reach /reward, under the ids that /select answered?"
                " bandexa_problems_total tells refused ones",
            )
        )  # fmt: skip
    chosen = sum(minute.chosen for minute in sight.minutes)
    if sight.learns and chosen >= UNREWARDED and not any(m.joined for m in sight.minutes):
        found.append(
            Finding(
                "no-rewards", NOTICE, f"no reward has come for {chosen} decisions",
                "report how decisions went with POST /reward",
            )
        )  # fmt: skip
    if sight.learns and sight.same_values >= ALIKE:
        found.append(
            Finding(
                "constant-reward", NOTICE,
                f"the last {sight.same_values} learned values were all {sight.last_value}",
                "with nothing but equal rewards there is nothing to learn: are failures reported?",
            )
        )  # fmt: skip
    if sight.learns and sight.num_values >= OUTSIDE_VALUES and sight.outside >= OUTSIDE:
        low, high = sight.reward_range
        found.append(
            Finding(
                "rewards-out-of-range", NOTICE,
                f"{sight.outside:.0%} of the latest values lie outside of reward_range"
                f" [{low:g}, {high:g}]",
                "prior and training take their scale from it: a new bandit with the range that"
                " rewards have learns faster",
            )
        )  # fmt: skip
    if sight.learns and sight.same_actions >= ALIKE:
        found.append(
            Finding(
                "one-action", NOTICE,
                f"the last {sight.same_actions} decisions all chose {sight.last_action!r}",
                "right where one action is best for everybody; else look at the scores and at"
                " selection.epsilon",
            )
        )  # fmt: skip
    return found


def join_rate_fall(minutes: Sequence[Minute]) -> tuple[float, float] | None:
    """Return (rewards per chosen action before, now) where the rate collapsed, else None.

    Rewards are counted when they come, whatever decision they are for: with steady traffic that is
    the same rate, however late they are, and it falls at once where they stop coming. "Now" are the
    newest minutes of traffic, as many as it takes to expect `EXPECTED_JOINS` by the rate before
    them, and at least `RECENT_MINUTES`; fewer than a quarter of those expected is a collapse.
    """
    total_chosen = sum(minute.chosen for minute in minutes)
    total_joined = sum(minute.joined for minute in minutes)
    chosen = joined = 0
    for number, minute in enumerate(reversed(minutes), 1):
        chosen += minute.chosen
        joined += minute.joined
        past_chosen, past_joined = total_chosen - chosen, total_joined - joined
        if past_joined < PAST_JOINS or past_chosen < 1:
            return None
        expected = chosen * past_joined / past_chosen
        if number >= RECENT_MINUTES and expected >= EXPECTED_JOINS:
            if joined >= COLLAPSED * expected:
                return None
            return past_joined / past_chosen, joined / chosen
    return None


def server_findings(engine: Engine) -> list[Finding]:
    """Return what is wrong with the server as a whole."""
    supervisor = engine.rounds.supervisor
    return of_server(
        ServerSight(
            store_failure=engine.store.failure,
            trainer_down_s=supervisor.down_s,
            trainer_silent_s=supervisor.silent_s,
            stale_s=engine.settings.learn_stale_s,
        )
    )


def learning_of(engine: Engine, bandit: Bandit) -> list[Finding]:
    """Return what is wrong, or may be, with a bandit: alarms first."""
    supervisor, uid, vitals = engine.rounds.supervisor, bandit.record.uid, bandit.vitals
    model = bandit.model
    due_s = 0.0
    if model.spec.training.mode == "background" and supervisor.busy_with != uid:
        due_s = bandit.applier.due_s(time.monotonic())
    return of_bandit(
        BanditSight(
            due_s=due_s,
            stale_s=engine.settings.learn_stale_s,
            failures=supervisor.failures.get(uid, (0, "")),
            rows_wait_s=bandit.applier.rows_wait_s(time.monotonic()),
            minutes=vitals.minutes(),
            same_actions=vitals.actions.length,
            last_action=vitals.actions.last,
            same_values=vitals.values.length,
            last_value=vitals.values.last,
            num_values=vitals.num_values,
            outside=vitals.outside,
            reward_range=model.spec.reward_range,
            learns=model.spec.policy != "uniform",
        )
    )
