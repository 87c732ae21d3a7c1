"""Checks whether a server still learns, and reports what prevents it: `/learnz`.

An *alarm* is what no healthy bandit shows: somebody has to act. A *notice* may be right as it is (a
bandit that has found the best action serves it nearly always) and deserves a check in a new one.
Every check needs enough data, so that a bandit without traffic is healthy.

`server_findings` and `bandit_findings` read the engine; the checks themselves are pure functions of
what they read.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import numpy as np

from bandexa_core.evaluation import Interval
from bandexa_core.features.robust import BOUND, FAR
from bandexa_core.ids import ActionId
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.promotions import Trip
from service.observe.backups import BackupStanding
from service.observe.counters import Traffic
from service.observe.evidence import DECILES, GAPS, PULLS, SURE, Evidence
from service.observe.silence import CHANCE, Loss
from service.serving.applier import Failure
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.serving.observed import InputCounts
from service.store.clock import JUMP_S

Severity = Literal["alarm", "notice"]
ALARM: Severity = "alarm"
NOTICE: Severity = "notice"

FAILED_ROUNDS = 2  # in a row
ROWS_WAIT_S = 60.0
WAL_PINNED_S = 60.0
ALIKE = 1000  # decisions or values in a row that are the same
UNREWARDED = 1000  # chosen actions without a single reward
RECENT_MINUTES = 10  # the least number of minutes in which a join rate may have collapsed
EXPECTED_JOINS = 50.0  # rewards that the earlier rate predicts for them, at least
PAST_JOINS = 50  # rewards before them, at least
OUTSIDE_VALUES = 100  # learned values before their share outside of the range counts
OUTSIDE = 0.05
COLLAPSED = 0.25  # of the predicted rewards
DAY_S = 86400.0
DISK_DAYS = 7.0  # that a disk lasts, at least
LEAST_COUNTED = 100  # requests before the shares of unseen and wrong values count
MISFIT = 0.2
RIVALS_SHOWN = 99  # of whom it is known what they earned
DRIFT = 0.25  # of the population stability index; by common usage such a field has moved
EXTREME = FAR * BOUND


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is, or may be, wrong: a stable name, what was observed, what to do."""

    name: str
    severity: Severity
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class ServerState:
    """The observations of a server.

    Attributes:
        store_failure: Why the store takes no writes, None while it takes them.
        trainer_down_s: Seconds without a trainer process; 0 while there is one.
        trainer_silent_s: Seconds since the trainer's last heartbeat; 0 between rounds.
        stale_s: How long training may make no progress.
        wal_pinned_s: Seconds for which a reader has prevented that the write-ahead log is emptied.
        wal_bytes: The size of that log.
        clock_offset_s: How much wall time is ahead of service time.
        backups: How scheduled backups stand, and the time; None: there are none.
        disk_full_in_s: When the disk is full at the growth of the database; None: not known.
        disk_free_bytes: What can be written to it.
    """

    store_failure: str | None
    trainer_down_s: float
    trainer_silent_s: float
    stale_s: float
    wal_pinned_s: float = 0.0
    wal_bytes: int = 0
    clock_offset_s: float = 0.0
    backups: tuple[BackupStanding, float] | None = None
    disk_full_in_s: float | None = None
    disk_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Misfit:
    """A named feature that an encoding cannot read in a part of the requests.

    Attributes:
        path: Side and path, such as "context.device".
        what: "unseen" for categories outside of the vocabulary, "wrong" for other types.
        share: The share of the counted requests.
        num_rows: How many requests were counted.
    """

    path: str
    what: str
    share: float
    num_rows: int


NOTHING = Evidence()


@dataclass(frozen=True, slots=True)
class BanditState:
    """The observations of a bandit.

    Attributes:
        due_s: Seconds since a background round became due; 0 while none is due or one runs.
        stale_s: How long that may be.
        failures: How many rounds failed in a row, and the last one's error.
        rows_wait_s: Seconds that committed rows have waited to be applied.
        traffic: The traffic since the server's start.
        same_actions: How many decisions in a row chose `last_action` among several candidates.
        same_values: How many learned values in a row were `last_value`.
        num_values: Learned values since the server's start.
        outside: The share of about the last 1,000 values outside of `reward_range`.
        clips: Whether values outside of `reward_range` are learned as its ends.
        learns: Whether its policy learns at all.
        failure: Why its log is not applied; None while it is.
        extremes: Extreme values in contexts: the column, how many, the last one.
        num_contexts: How many contexts were examined for them.
        extreme_action: An enabled action with an extreme feature, its index and value; or None.
        num_clipped: How many values were clipped before they were learned.
        clipped: The last of them and what was learned for it, where that was recently; or None.
        misfits: Named features of many requests that the encoding cannot read: see `Misfit`.
        collisions: Ids whose places are shared, with the share of their values, the worst first.
        change_error: Why the wanted configuration could not be learned; None: nothing failed.
        trip: Why a guard made an arm serve everything; None: none did, or a person changed it.
        worse: Arms that the bandit is worse than, with the interval of its lift over each.
        warnings: What in the configuration keeps it from learning by context.
        evidence: What its recent values say.
        enabled: Whether an action is offered.
        num_enabled: How many are.
        held: Values that wait because it is frozen; None: it is not.
        loss: What shows that rewards have stopped; None: nothing does.
        drifts: Fields of contexts whose values have moved, with their index, the largest first.
    """

    due_s: float
    stale_s: float
    failures: tuple[int, str]
    rows_wait_s: float
    traffic: Traffic
    same_actions: int
    last_action: object
    same_values: int
    last_value: object
    num_values: int
    outside: float
    reward_range: tuple[float, float]
    learns: bool
    failure: Failure | None = None
    extremes: tuple[tuple[int, int, float], ...] = ()
    num_contexts: int = 0
    extreme_action: tuple[object, int, float] | None = None
    num_clipped: int = 0
    clipped: tuple[float, float] | None = None
    misfits: tuple[Misfit, ...] = ()
    collisions: tuple[tuple[str, float], ...] = ()
    change_error: str | None = None
    trip: Trip | None = None
    worse: tuple[tuple[str, Interval], ...] = ()
    warnings: tuple[str, ...] = ()
    clips: bool = False
    evidence: Evidence = NOTHING
    enabled: Callable[[str], bool] = lambda _: True
    num_enabled: int = 0
    held: int | None = None
    loss: Loss | None = None
    drifts: tuple[tuple[str, float], ...] = ()


# -- from the engine ------------------------------------------------------------------------------


def server_findings(engine: Engine) -> list[Finding]:
    """Return what is wrong with the server as a whole."""
    supervisor = engine.rounds.supervisor
    state = ServerState(
        store_failure=engine.store.failure,
        trainer_down_s=supervisor.down_s,
        trainer_silent_s=supervisor.silent_s,
        stale_s=engine.settings.learn_stale_s,
        wal_pinned_s=engine.store.wal_pinned_s(),
        wal_bytes=engine.store.wal_bytes(),
        clock_offset_s=engine.store.clock.offset,
        backups=None if engine.metrics.backups is None else (engine.metrics.backups, time.time()),
        disk_full_in_s=disk_full_in_s(engine),
        disk_free_bytes=engine.metrics.disk_free_bytes,
    )
    return list(check_server(state))


def disk_full_in_s(engine: Engine) -> float | None:
    """Return when the disk is full at the growth of the database; see `Growth.full_in_s`."""
    settings, metrics = engine.settings, engine.metrics
    max_age_s = None if settings.max_age_days is None else settings.max_age_days * DAY_S
    return metrics.growth.full_in_s(metrics.disk_free_bytes, settings.max_store_bytes, max_age_s)


def bandit_findings(engine: Engine, bandit: Bandit) -> list[Finding]:
    """Return what is wrong, or may be, with a bandit: alarms first."""
    supervisor, uid, vitals = engine.rounds.supervisor, bandit.record.uid, bandit.vitals
    spec, now = bandit.model.spec, time.monotonic()
    extremes = bandit.model.extremes
    waits_for_round = spec.training.mode == "background" and supervisor.busy_with != uid
    state = BanditState(
        due_s=bandit.applier.due_s(now) if waits_for_round else 0.0,
        stale_s=engine.settings.learn_stale_s,
        failures=supervisor.failures.get(uid, (0, "")),
        rows_wait_s=bandit.applier.rows_wait_s(now),
        traffic=vitals.traffic,
        same_actions=vitals.actions.length,
        last_action=vitals.actions.last,
        same_values=vitals.values.length,
        last_value=vitals.values.last,
        num_values=vitals.num_values,
        outside=vitals.outside,
        reward_range=spec.expected_rewards,
        learns=spec.policy != "uniform",
        failure=bandit.applier.failure,
        extremes=tuple((at, num, last) for at, (num, last) in extremes.columns.items()),
        num_contexts=extremes.num_rows,
        extreme_action=bandit.model.extreme_action(),
        num_clipped=vitals.num_clipped,
        clipped=vitals.recently_clipped(),
        misfits=tuple(misfits(bandit.inputs)),
        collisions=tuple(collisions(bandit.inputs)),
        change_error=bandit.change_error,
        trip=bandit.configurations.trip,
        worse=tuple(worse_than(bandit)),
        warnings=spec.warnings,
        clips=spec.clipped_to is not None,
        evidence=bandit.evidence,
        enabled=partial(_is_enabled, bandit.model.catalogue),
        num_enabled=len(bandit.model.catalogue.enabled_slots),
        held=bandit.model.held.num if bandit.model.holds else None,
        loss=vitals.silence.loss(time.time()),
        drifts=tuple(drifts(bandit.inputs)),
    )
    return [*check_bandit(state), *challenger_findings(bandit)]


def challenger_findings(bandit: Bandit) -> Iterator[Finding]:
    """Yield what is to be known of the challengers of a bandit."""
    known, served = bandit.configurations, bandit.model.spec
    for name, challenger in sorted(bandit.challengers.items()):
        state, score = challenger.state(known, served), challenger.score
        if state == "learning" and score is not None and score.is_better:
            yield Finding(
                "challenger-better", NOTICE,
                f"challenger {name} would earn {score.low:.3g} to {score.high:.3g} a decision more"
                f" than what was served, by {score.num} decisions of the log",
                f"promote it: POST .../challengers/{name}/promote (docs/challengers.md)",
            )  # fmt: skip
        elif state == "returned":
            yield Finding(
                "challenger-returned", NOTICE,
                f"challenger {name} was worse than the bandit in its trial, which has ended",
                "remove it, or put it with another configuration or rule",
            )  # fmt: skip
        elif score is not None and score.error is not None:
            yield Finding(
                "challenger-failed", NOTICE,
                f"challenger {name} cannot be compared: {score.error}",
                "put it with a configuration that the log fits, or remove it",
            )  # fmt: skip


def _is_enabled(catalogue: Catalogue, name: str) -> bool:
    slot = catalogue.slots.get(ActionId(name))
    return slot is not None and bool(catalogue.enabled[slot])


def worse_than(bandit: Bandit) -> Iterator[tuple[str, Interval]]:
    """Yield the arms that earn more than the bandit, whatever chance did."""
    trials = {arm.name for arm in bandit.model.spec.arms if arm.challenger is not None}
    for arm in bandit.current_standing():
        if arm.name in trials:
            continue  # that is what a trial hopes for
        if arm.lift is not None and arm.lift.interval is not None and arm.lift.interval.high < 0.0:
            yield arm.name, arm.lift.interval


def misfits(inputs: InputCounts) -> Iterator[Misfit]:
    """Yield the named features that are unseen or wrong in many of the counted requests."""
    for side, counts in (("context", inputs.contexts), ("actions", inputs.actions)):
        observed = counts.observed
        if observed.rows < LEAST_COUNTED:
            continue
        for path, seen in observed.fields.items():
            num, what = max((seen.unseen, "unseen"), (seen.wrong, "wrong"))
            if num > MISFIT * observed.rows:
                yield Misfit(f"{side}.{path}", what, num / observed.rows, observed.rows)


def drifts(inputs: InputCounts) -> list[tuple[str, float]]:
    """Return the fields of contexts whose recent values differ much from those that were learned.

    Chosen actions differ as a bandit learns, and the hour of a time as the day goes by.
    """
    counts = inputs.contexts
    if counts.recent is None or counts.encoding is None:
        return []
    fields = counts.encoding.fields
    found = [
        (f"context.{path}", index)
        for path, index in counts.recent.drift().items()
        if index >= DRIFT and path in fields and fields[path].type != "time"
    ]
    return sorted(found, key=lambda each: -each[1])


def collisions(inputs: InputCounts) -> list[tuple[str, float]]:
    """Return the hashed ids of which many fall on a place that another one had before."""
    found = []
    for side, counts in (("context", inputs.contexts), ("actions", inputs.actions)):
        known = {} if counts.encoding is None else counts.encoding.fields
        for path, seen in counts.observed.fields.items():
            is_id = path in known and known[path].type == "hash"
            if is_id and seen.hashed >= LEAST_COUNTED and seen.collided > MISFIT * seen.hashed:
                found.append((f"{side}.{path}", seen.collided / seen.hashed))
    return sorted(found, key=lambda each: -each[1])


# -- checks ---------------------------------------------------------------------------------------


def check_server(state: ServerState) -> Iterator[Finding]:
    """Yield what is wrong with a server."""
    if state.store_failure is not None:
        yield Finding(
            "store-down", ALARM, f"the store takes no writes: {state.store_failure}",
            "see docs/operations.md, When the disk fails",
        )  # fmt: skip
    if state.wal_pinned_s > WAL_PINNED_S:
        yield Finding(
            "wal-pinned", ALARM,
            f"the write-ahead log takes {state.wal_bytes / 2**20:.0f} MiB: for"
            f" {state.wal_pinned_s:.0f} s it could not be emptied, because a program reads an old"
            " state of the database",
            "end that program: a shell of SQLite with an open transaction, or a backup or check"
            " that hangs (`fuser -v bandexa.db` lists who has it open)",
        )  # fmt: skip
    if state.trainer_down_s > state.stale_s:
        yield Finding(
            "trainer-down", ALARM,
            f"there has been no trainer process for {state.trainer_down_s:.0f} s",
            "the log shows how it ends; memory and own encoders are the usual causes",
        )  # fmt: skip
    if state.trainer_silent_s > state.stale_s:
        yield Finding(
            "trainer-stuck", ALARM,
            f"the trainer has sent no heartbeat for {state.trainer_silent_s:.0f} s in a round",
            "end the trainer process; the server restarts it, and nothing is lost",
        )  # fmt: skip
    yield from _check_clock(state.clock_offset_s)
    if state.backups is not None:
        yield from _check_backups(*state.backups)
    if state.disk_full_in_s is not None and state.disk_full_in_s < DISK_DAYS * DAY_S:
        yield Finding(
            "disk-fills", NOTICE,
            f"the disk has {state.disk_free_bytes / 2**30:.1f} GiB left, and is full in"
            f" {state.disk_full_in_s / DAY_S:.1f} days at the growth of the database",
            "set max_age_days or max_store_bytes (docs/retention.md), or take a larger disk",
        )  # fmt: skip


def _check_clock(offset_s: float) -> Iterator[Finding]:
    """Yield what an operator has to know of a wall clock that jumped."""
    if offset_s > JUMP_S:
        yield Finding(
            "clock-ahead", ALARM,
            f"the wall clock is {offset_s:.0f} s ahead of service time: it jumped, and reward"
            " windows, forgetting and retention do not follow it",
            "set the clock right; if that time has really passed, `bandexa clock accept`",
        )  # fmt: skip
    elif offset_s < -JUMP_S:
        yield Finding(
            "clock-behind", NOTICE,
            f"the wall clock is {-offset_s:.0f} s behind service time: it was set back, and reward"
            " windows, forgetting and retention go on as before",
            "check the clock; if it is right now, nothing has to be done",
        )  # fmt: skip


def _check_backups(backups: BackupStanding, now: float) -> Iterator[Finding]:
    """Yield what is wrong with the scheduled backups."""
    last = "there is none"
    if backups.last_good is not None:
        moment = datetime.fromtimestamp(backups.last_good, UTC).isoformat(timespec="seconds")
        last = f"the newest one is of {moment}"
    if backups.error is not None:
        yield Finding(
            "backup-failing", ALARM, f"the last backup failed, and {last}: {backups.error}",
            f"make room in {backups.folder}, or see to its rights; it is tried again",
        )  # fmt: skip
    elif late_s := backups.late_s(now):
        yield Finding(
            "backup-late", ALARM,
            f"for {late_s / 3600:.1f} h no backup was begun that was complete, and {last}",
            f"does a copy take longer than the time between two, or does {backups.folder} hang?",
        )  # fmt: skip


def check_bandit(state: BanditState) -> Iterator[Finding]:
    """Yield what is wrong, or may be, with a bandit: alarms first."""
    if state.failure is not None:
        yield failed_finding(state.failure)
    yield from _check_arms(state)
    yield from _check_training(state)
    drop = join_rate_drop(state.traffic)
    if state.loss is not None:
        yield _loss_finding(state.loss)
    elif drop is not None:
        past, recent = drop
        yield Finding(
            "join-rate-collapsed", ALARM,
            f"rewards per decision fell from {past:.3g} to {recent:.3g}",
            "do rewards still reach /reward, with the ids that /select answered?"
            " bandexa_problems_total counts refused ones",
        )  # fmt: skip
    if state.held is not None:
        yield Finding(
            "frozen", NOTICE,
            f"nothing is learned, because the bandit is frozen; {state.held} values wait",
            'they are learned once its mode is "learn" again (docs/arms.md)',
        )  # fmt: skip
    one_sided = None
    if state.learns:
        yield from check_worse(state)
        one_sided = check_one_sided(state)
        if one_sided is not None:
            yield one_sided
        yield from _check_predictions(state)
    yield from _check_days(state.evidence)
    for warning in state.warnings:
        yield Finding(
            "context-ignored", NOTICE, warning,
            "a PUT with another encoder learns the log anew, and is served from then on",
        )  # fmt: skip
    if state.learns:
        shown = dataclasses.replace(state, same_actions=0) if one_sided is not None else state
        yield from _check_traffic(shown)
        yield from _check_inputs(state)


def _check_arms(state: BanditState) -> Iterator[Finding]:
    """Yield what the comparison with other arms shows."""
    if state.trip is not None:
        trip = state.trip
        yield Finding(
            "guard-tripped", ALARM,
            f"arm {trip.arm} serves everything since {_utc(trip.time)}: after {trip.num} values the"
            f" bandit's lift over it{f' by {trip.metric}' if trip.metric else ''} was"
            f" {trip.low:.3g} to {trip.high:.3g}, worse than by the margin of {trip.margin:g}",
            'find out why; a PUT with "mode": "learn" has the bandit decide again, and its'
            " comparison with the arm begins anew",
        )  # fmt: skip
    for name, interval in state.worse:
        yield Finding(
            "worse-than-arm", ALARM,
            f"arm {name} earns more than the bandit: the lift is {interval.low:.3g} to"
            f" {interval.high:.3g} a decision",
            'what it serves is better for now: "mode": "control_only" gives it every decision'
            " (docs/arms.md)",
        )  # fmt: skip


def check_worse(state: BanditState) -> Iterator[Finding]:
    """Yield that another action would surely have earned more than what was served."""
    worse = state.evidence.worse
    if worse is None or not state.enabled(worse.better):
        return
    reach = SURE * worse.error
    yield Finding(
        "worse-action", ALARM,
        f"{worse.served!r} has {worse.share:.0%} of the last {worse.rows} decisions, and"
        f" {worse.better!r} in all of them would have earned {worse.gain:.3g} more each"
        f" ({worse.gain - reach:.3g} to {worse.gain + reach:.3g}, by inverse propensities of the"
        f" {worse.num} times that it was chosen)",
        "did rewards or contexts change? Forgetting (forgetting.half_life) unlearns the past, and"
        f' {{"serve": "{worse.better}"}} serves the better one at once (docs/arms.md)',
    )  # fmt: skip


def check_one_sided(state: BanditState) -> Finding | None:
    """Return that one action has nearly all decisions while others may be as good."""
    found = state.evidence
    if not found.rivals or found.rivals[0].name != found.top or found.worse is not None:
        return None
    own, *others = found.rivals
    others = [each for each in others if state.enabled(each.name)]
    if own.high is None or state.num_enabled < 2 or found.top is None:
        return None
    unsure = [r for r in others if r.num >= PULLS and r.high is not None and r.high > own.high]
    few = [r for r in others if r.num < PULLS]
    untried = state.num_enabled - 1 - len(others) if len(others) < RIVALS_SHOWN else 0
    if not unsure and not few and untried <= 0:
        return None
    if unsure:
        most = max(unsure, key=lambda rival: rival.high or 0.0)
        why = (
            f"{most.name!r} may be better: it earned up to {most.high:.3g} in {most.num} values,"
            f" and {own.name!r} {own.low:.3g} to {own.high:.3g}"
        )
    else:
        num = len(few) + max(0, untried)
        why = f"{num} other actions have fewer than {PULLS} values: too few to say that it is best"
    return Finding(
        "one-sided", NOTICE,
        f"{found.top!r} has {found.share:.1%} of the last {found.num} decisions, and {why}",
        "nobody can say yet that this is right: a higher selection.epsilon, or limits.floor of"
        " single actions, tells sooner; where you know that it is, nothing has to be done",
    )  # fmt: skip


def _check_predictions(state: BanditState) -> Iterator[Finding]:
    gaps = state.evidence.gaps
    if len(gaps) < GAPS:
        return
    worst = max(gaps, key=lambda d: abs(d.observed - d.predicted))
    num = sum(d.num for d in state.evidence.deciles)
    yield Finding(
        "miscalibrated", NOTICE,
        f"predictions are off in {len(gaps)} of {DECILES} deciles of the last {num}: where"
        f" {worst.predicted:.3g} was expected, {worst.observed:.3g} came, within {worst.error:.2g}",
        "the model does not describe these rewards: did the world change (forgetting), is"
        " reward_range right, would another encoder suit the inputs (docs/encoders.md)?",
    )  # fmt: skip


def _check_days(found: Evidence) -> Iterator[Finding]:
    if found.joins is not None:
        was, now, _ = found.joins
        yield Finding(
            "join-rate-moved", NOTICE,
            f"values per chosen action: {now:.3g} in the last day, {was:.3g} in the days before",
            "does a part of the callers report more or less than before? A reward that some do not"
            " report makes what they show look bad",
        )  # fmt: skip
    if found.delays is not None:
        was, now, apart = found.delays
        yield Finding(
            "delays-moved", NOTICE,
            f"half of the values come within {now:g} s in the last day, and came within {was:g} s"
            f" in the days before (population stability index {apart:.2f})",
            "is a queue behind? reward_window_s and a fixed maturity have to fit the delays",
        )  # fmt: skip


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def failed_finding(failure: Failure) -> Finding:
    """Return the finding of a bandit whose log cannot be applied."""
    where = f"log row {failure.position}" if failure.position else "its model"
    return Finding(
        "bandit-failed", ALARM,
        f"{where} cannot be applied, and nothing is learned: {failure.reason}"
        f" ({failure.tries} recoveries failed)",
        "rewards are stored and learned once the cause is gone; it is tried again each minute, and"
        " `bandexa recover` tries at once",
    )  # fmt: skip


def _check_training(state: BanditState) -> Iterator[Finding]:
    if state.due_s > state.stale_s:
        yield Finding(
            "round-overdue", ALARM, f"a training round has been due for {state.due_s:.0f} s",
            "is the trainer alive (/readyz), or busy with other bandits? Then use fewer optimizer"
            " steps, more trainer_threads, or a larger train_every",
        )  # fmt: skip
    failed, reason = state.failures
    if failed >= FAILED_ROUNDS:
        yield Finding(
            "rounds-failing", ALARM, f"{failed} training rounds in a row failed: {reason}",
            "the trainer's lines in the log have the traceback",
        )  # fmt: skip
    if state.change_error is not None:
        yield Finding(
            "change-failing", ALARM,
            f"the new configuration could not be learned, and the one before is served:"
            f" {state.change_error}",
            "it is tried again, and at once by the same PUT; a PUT of the served configuration"
            " takes it back",
        )  # fmt: skip
    if state.rows_wait_s > ROWS_WAIT_S and state.failure is None:
        yield Finding(
            "rows-waiting", ALARM,
            f"learned rows have waited for {state.rows_wait_s:.0f} s to be applied",
            "is the encoder too slow for the traffic?",
        )  # fmt: skip


def _check_traffic(state: BanditState) -> Iterator[Finding]:
    chosen, joined = state.traffic.total()
    if chosen >= UNREWARDED and not joined:
        yield Finding(
            "no-rewards", NOTICE, f"no reward has arrived for {chosen} decisions",
            "report how decisions went with POST /reward",
        )  # fmt: skip
    if state.same_values >= ALIKE:
        yield Finding(
            "constant-reward", NOTICE,
            f"the last {state.same_values} learned values were all {state.last_value}",
            "there is nothing to learn from equal rewards: are failures reported as well?",
        )  # fmt: skip
    many_outside = state.num_values >= OUTSIDE_VALUES and state.outside >= OUTSIDE
    if many_outside:
        low, high = state.reward_range
        yield Finding(
            "rewards-out-of-range", NOTICE,
            f"{state.outside:.0%} of the latest values lie outside of reward_range"
            f" [{low:g}, {high:g}]"
            + (", and are learned as the end that they are beyond" if state.clips else ""),
            "prior and training take their scale from it: with the range that rewards have, or"
            " none, the bandit learns faster"
            + ("; it can be changed, or rewards.outside be keep" if state.clips else ""),
        )  # fmt: skip
    if state.clipped is not None and not (many_outside and state.clips):
        value, learned = state.clipped
        yield Finding(
            "clipped-rewards", NOTICE,
            f"values far beyond all others were clipped before they were learned:"
            f" {state.num_clipped} since the server's start, the last one {value:g}, learned as"
            f" {learned:g}",
            "is that an error of the caller, or another unit? Where such rewards are right, the"
            " bounds widen with the third of them; with rewards.clip_outliers false every value of"
            " later decisions is learned as it is",
        )  # fmt: skip
    if state.same_actions >= ALIKE:
        yield Finding(
            "one-action", NOTICE,
            f"the last {state.same_actions} decisions all chose {state.last_action!r}",
            "right where one action is best for every context; otherwise check the scores and"
            " selection.epsilon",
        )  # fmt: skip


def _check_inputs(state: BanditState) -> Iterator[Finding]:
    """Yield the inputs that are so far from all others that nothing is learned from them."""
    if state.extremes:
        column, num, last = max(state.extremes, key=lambda extreme: extreme[1])
        more = f", and {len(state.extremes) - 1} more columns" if len(state.extremes) > 1 else ""
        yield Finding(
            "extreme-inputs", NOTICE,
            f"context column {column} was beyond {EXTREME:g} deviations of its usual values in"
            f" {num} of {state.num_contexts} learned contexts, the last time with {last:g}{more}",
            "is that a code for missing, another unit, or an error of the caller? Such a value is"
            " taken as missing; send the mean, or a column of its own that says so",
        )  # fmt: skip
    if state.extreme_action is not None:
        action, feature, value = state.extreme_action
        yield Finding(
            "extreme-action", NOTICE,
            f"feature {feature} of action {action!r} is {value:g}, beyond {EXTREME:g} deviations of"
            " the other enabled actions",
            "correct the feature; until then it is taken as missing",
        )  # fmt: skip
    if state.misfits:
        worst = max(state.misfits, key=lambda misfit: misfit.share)
        more = f", and {len(state.misfits) - 1} more fields" if len(state.misfits) > 1 else ""
        kind = "an unseen value" if worst.what == "unseen" else "a value of a wrong type"
        yield Finding(
            "features-misfit", NOTICE,
            f"{worst.path} has {kind} in {worst.share:.0%} of the last {worst.num_rows} counted"
            f" requests{more}",
            "does the caller send something else since the last round? The next one fits the"
            " encoding to it; `GET /bandits/{name}` shows all fields under `features`",
        )  # fmt: skip

    misfits = {misfit.path for misfit in state.misfits}
    moved = [each for each in state.drifts if each[0] not in misfits]  # those have their notice
    if moved:
        path, index = moved[0]
        more = f", and {len(moved) - 1} more fields" if len(moved) > 1 else ""
        yield Finding(
            "features-drift", NOTICE,
            f"recent values of {path} are distributed otherwise than those that were learned:"
            f" population stability index {index:.2f}{more}",
            "is that a change of the world, or of the caller? A change of the world is learned, the"
            " faster with `forgetting`; GET /bandits/{name} shows the index of each field",
        )  # fmt: skip
    if state.collisions:
        path, share = state.collisions[0]
        more = f", and {len(state.collisions) - 1} more" if len(state.collisions) > 1 else ""
        yield Finding(
            "features-collide", NOTICE,
            f"{share:.0%} of the counted values of {path} share a place with another value{more}",
            "the model takes them for one; a new bandit can declare a larger `width` of the field,"
            " or a coarser field in its place (docs/features.md)",
        )  # fmt: skip


def _loss_finding(loss: Loss) -> Finding:
    when = datetime.fromtimestamp(loss.since, UTC).isoformat(timespec="seconds")
    return Finding(
        "rewards-lost", ALARM,
        f"no reward since {when}: {loss.num} chosen actions are older than {loss.age_s:.3g} s, by"
        f" when nine of ten rewards had come; that is no chance (below {CHANCE:g})",
        "do rewards still reach /reward, with the ids that /select answered?"
        " bandexa_problems_total counts refused ones",
    )  # fmt: skip


def join_rate_drop(traffic: Traffic) -> tuple[float, float] | None:
    """Return (rewards per chosen action before, now) where the rate collapsed, else None.

    Rewards are counted when they arrive, whichever decision they are for. With steady traffic that
    gives the same rate, however late they are, and it drops at once when they stop. "Now" are the
    newest minutes with traffic: at least `RECENT_MINUTES`, and as many as it takes to predict
    `EXPECTED_JOINS` rewards by the rate before them. Fewer than a quarter of the prediction is a
    collapse.
    """
    chosen_N, joined_N = traffic.newest(RECENT_MINUTES)  # N: as "now", ever more minutes
    if not len(chosen_N):
        return None
    past_chosen_N, past_joined_N = chosen_N[-1] - chosen_N, joined_N[-1] - joined_N
    expected_N = chosen_N * past_joined_N / np.maximum(past_chosen_N, 1)
    enough = np.flatnonzero(expected_N >= EXPECTED_JOINS)
    if not len(enough):
        return None
    now = int(enough[0])
    chosen, past_chosen = int(chosen_N[now]), int(past_chosen_N[now])
    joined, past_joined = int(joined_N[now]), int(past_joined_N[now])
    if past_joined < PAST_JOINS or past_chosen < 1 or joined >= COLLAPSED * expected_N[now]:
        return None
    return past_joined / past_chosen, joined / chosen
