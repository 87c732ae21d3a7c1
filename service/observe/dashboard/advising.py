"""How much exploration, or control, a bandit needs: by its own figures, before an evaluation.

The rule is that of evaluations, `bandexa_core.evaluation.precision`: to see a difference d in
values of variance v takes n = 10 v / (q d^2) of them, q the share of those that are of interest.
Nothing is changed by asking.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from bandexa_core.arms import shares
from bandexa_core.evaluation import MOST_ROWS, lasting, needed, rows_of_falling
from bandexa_core.spec import BanditSpec
from bandexa_core.spec.arms import BANDIT
from bandexa_core.spec.selection import EPSILON_ROWS
from service.store.sqlite.aggregates import HOUR, MINUTE, RETENTION_S, AggregateReader

DAY_S = 86_400.0
OVER_S = 7 * DAY_S  # of the traffic that is looked at
USUAL_DAYS = 28.0  # where no number of decisions is asked for
LEAST_OVER_S = 60.0
MOST_CONTROL = 0.5
LEAST_VALUES = 30  # for a variance


class Unanswerable(ValueError):
    """Something is not known, and was not given; the message begins with the field."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be seen.

    Attributes:
        precision: The difference to be seen, as a share of the range of rewards.
        difference: The same in the unit of rewards, in its place.
        decisions: Within how many decisions; None: those of 28 days.
        variance: Of rewards; None: that of the newest values.
        actions: How many there are to choose from; None: the enabled ones.
    """

    precision: float = 0.05
    difference: float | None = None
    decisions: int | None = None
    variance: float | None = None
    actions: int | None = None


class Figures(NamedTuple):
    """What a bandit did in the last week.

    Attributes:
        over_s: How much of the week it was there.
        decisions: How many it made.
        values: How many values came.
        variance: Of these; None of fewer than two.
    """

    over_s: float
    decisions: int
    values: int
    variance: float | None


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an answer follows from.

    Attributes:
        difference: What is to be seen, in the unit of rewards.
        variance: Of rewards.
        variance_from: values: of the last week; range: too few came, and this is the largest that
            the range allows; given: by whoever asked.
        num_values: The values behind it.
        actions: How many there are to choose from.
        bandit_share: The share of decisions that are the bandit's own.
        epsilon: The probability of a uniform choice at its beginning, and
        epsilon_now: now.
        decisions: Within how many decisions.
        decisions_per_day: How many there are, by the last week; None: there were none.
        values_per_decision: How many of them get a value; 1 where nothing is known yet.
        values: Within how many values, by that.
    """

    difference: float
    variance: float
    variance_from: Literal["values", "range", "given"]
    num_values: int
    actions: int
    bandit_share: float
    epsilon: float
    epsilon_now: float
    decisions: int
    decisions_per_day: float | None
    values_per_decision: float
    values: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shows the difference within that many decisions; None: nothing does.

    Attributes:
        share: The share of the log that has to be of interest.
        control: Of a control group: whether the bandit is better than it.
        floor: The floor of one action, which stays: what serving it always would earn.
        epsilon: The same for all actions alike; it falls beyond 1,000 values.
    """

    share: float
    control: float | None
    floor: float | None
    epsilon: float | None


@dataclass(frozen=True, slots=True)
class Takes:
    """How long it takes as the bandit is configured now.

    Attributes:
        of: arm: by this arm; action: by the exploration of the action that has the least of it.
        name: The arm or action; None where all actions have the same.
        share: Its share of the decisions.
        decisions: How many it takes; None: it never does.
        days: How long, by the traffic of the last week.
    """

    of: Literal["arm", "action"]
    name: str | None
    share: float
    decisions: int | None
    days: float | None


@dataclass(frozen=True, slots=True)
class Advice:
    """An answer: what it follows from, what is needed, what there is, and that in words."""

    inputs: Inputs
    needed: Wanted
    now: tuple[Takes, ...]
    text: tuple[str, ...]


def figures(reader: AggregateReader, uid: str, now: float) -> Figures:
    """Return what a bandit did in the last week."""
    begins = reader.first(uid)
    if begins is None:
        return Figures(0.0, 0, 0, None)
    start = int(max(begins, (now - OVER_S) // HOUR * HOUR))
    if now - begins < RETENTION_S[MINUTE]:  # an hour may be all that there was
        minutes = reader.series(uid, start, int(now) + HOUR, MINUTE)
        start = min(minutes, default=start)
    rows = reader.series(uid, start // HOUR * HOUR, int(now) + HOUR, HOUR).values()
    num = int(sum(row["num_values"] for row in rows))
    variance = None
    if num > 1:
        mean = sum(row["value"] for row in rows) / num
        variance = max(0.0, sum(row["square"] for row in rows) / num - mean * mean)
    decisions = int(sum(row["selects"] for row in rows))
    return Figures(max(now - start, LEAST_OVER_S), decisions, num, variance)


def advise(
    spec: BanditSpec, enabled: Iterable[str], num_learned: int, seen: Figures, asked: Question
) -> Advice:
    """Return what shows a difference within a number of decisions.

    Args:
        spec: The configuration of the bandit.
        enabled: Its enabled actions.
        num_learned: How many values it has learned.
        seen: What it did in the last week.
        asked: What is to be seen.

    Raises:
        Unanswerable: Something is not known, and was not given.
    """
    names = list(enabled)
    inputs = _inputs(spec, len(names), num_learned, seen, asked)
    floors = {} if asked.actions is not None else spec.limits or {}
    at_all = needed(inputs.variance, inputs.difference, 1, 1.0).share
    if at_all > MOST_ROWS:
        raise Unanswerable(
            f"difference: {inputs.difference:.3g} is too small to be ever seen at a variance of"
            f" {inputs.variance:.3g}"
        )
    share = needed(inputs.variance, inputs.difference, inputs.values, 1.0).share
    own = inputs.bandit_share
    steady = _is_uniform(spec)
    lasts = 1.0 if steady else lasting(num_learned, inputs.values, EPSILON_ROWS)
    floor, epsilon = share / own, share * inputs.actions / (own * lasts)
    explores = spec.policy != "greedy"
    wanted = Wanted(
        share, share if share <= MOST_CONTROL else None, floor if floor <= 1.0 else None,
        epsilon if explores and epsilon <= 1.0 else None,
    )  # fmt: skip

    def takes(of: Literal["arm", "action"], name: str | None, q: float, rows: int | None) -> Takes:
        decisions = None if rows is None else round(rows / inputs.values_per_decision)
        if decisions is not None and decisions > MOST_ROWS:
            decisions = None
        days = None
        if decisions is not None and inputs.decisions_per_day:
            days = decisions / inputs.decisions_per_day
        return Takes(of, name, q, decisions, days)

    now = []
    for name, q in _chances(spec).items():
        if name != BANDIT:
            rows = needed(inputs.variance, inputs.difference, inputs.values, q).rows
            now.append(takes("arm", name, q, rows))
    uniform = own * (1.0 if steady else inputs.epsilon) / inputs.actions
    rows = (
        needed(inputs.variance, inputs.difference, 1, uniform).rows if steady
        else rows_of_falling(at_all, uniform, num_learned, EPSILON_ROWS)
    )  # fmt: skip
    least = takes("action", None, uniform * lasts, rows)
    held = {name: own * floors[name].floor for name in names if name in floors}
    if names and len(held) == len(names) and min(held.values()) > least.share:
        name = min(held, key=held.__getitem__)
        rows = needed(inputs.variance, inputs.difference, 1, held[name]).rows
        least = takes("action", name, held[name], rows)
    now.append(least)
    return Advice(inputs, wanted, tuple(now), tuple(_text(spec, inputs, wanted, now)))


def _chances(spec: BanditSpec) -> dict[str, float]:
    """Return the share of each arm and of the bandit, once arms and bandit decide again."""
    return shares(replace(spec, mode="learn", serve=None))


def _is_uniform(spec: BanditSpec) -> bool:
    is_law = spec.selection.method == "uniform" and spec.policy != "greedy"
    return spec.policy == "uniform" or is_law


def _inputs(
    spec: BanditSpec, num_enabled: int, num_learned: int, seen: Figures, asked: Question
) -> Inputs:
    span = None if spec.reward_range is None else spec.reward_range[1] - spec.reward_range[0]
    difference = asked.difference
    if difference is None:
        if span is None:
            raise Unanswerable(
                "difference: name one, in the unit of rewards: the bandit has no reward_range that"
                " precision is a share of"
            )
        difference = asked.precision * span
    variance: float
    source: Literal["values", "range", "given"]
    if asked.variance is not None:
        variance, source = asked.variance, "given"
    elif seen.values >= LEAST_VALUES and seen.variance:
        variance, source = seen.variance, "values"
    elif span is not None:
        variance, source = 0.25 * span * span, "range"
    else:
        raise Unanswerable(
            f"variance: give one: fewer than {LEAST_VALUES} values came in the last week, or all"
            " were equal, and the bandit has no reward_range"
        )
    actions = num_enabled if asked.actions is None else asked.actions
    if actions < 1:
        raise Unanswerable("actions: say how many there are: the catalogue has none")
    per_day = seen.decisions / seen.over_s * DAY_S if seen.decisions else None
    if asked.decisions is None and per_day is None:
        raise Unanswerable("decisions: say how many: there were none in the last week")
    decisions = asked.decisions or max(1, round((per_day or 0.0) * USUAL_DAYS))
    joined = min(1.0, seen.values / seen.decisions) if seen.decisions and seen.values else 1.0
    epsilons = spec.epsilon_at(0), spec.epsilon_at(num_learned)
    return Inputs(
        difference, variance, source, seen.values, actions, _chances(spec)[BANDIT],
        *((0.0, 0.0) if spec.policy == "greedy" else epsilons), decisions, per_day, joined,
        max(1, round(decisions * joined)),
    )  # fmt: skip


SOURCES = {
    "values": "of the {num:,} values of the last week",
    "range": "the largest that the range allows, since too few values came",
    "given": "as given",
}


def _text(spec: BanditSpec, inputs: Inputs, wanted: Wanted, now: Iterable[Takes]) -> Iterator[str]:
    source = SOURCES[inputs.variance_from].format(num=inputs.num_values)
    pace = "" if inputs.decisions_per_day is None else f", at {inputs.decisions_per_day:,.0f} a day"
    yield (
        f"To see a difference of d = {inputs.difference:.3g} at variance v = {inputs.variance:.3g}"
        f" ({source}) within {inputs.decisions:,} decisions{pace}, of which"
        f" {_percent(inputs.values_per_decision)} get a value, by n = 10 v / (q d^2) the share q of"
        f" them has to be {wanted.share:.3g}."
    )
    if wanted.share > 1.0:
        yield (
            f"That is more than all: it takes {wanted.share:.3g} times as many decisions even where"
            " all are of interest."
        )
    if wanted.control is not None:
        yield (
            f"A control of {_percent(wanted.control)} (share of an arm) shows whether the bandit is"
            " better than it."
        )
    if wanted.floor is not None:
        yield (
            f"A floor of {wanted.floor:.3g} for an action (limits.floor), of the"
            f" {_percent(inputs.bandit_share)} that the bandit decides, shows what serving it"
            " always would earn; it stays as it is."
        )
    if wanted.epsilon is not None and not _is_uniform(spec):
        yield (
            f"For all {inputs.actions} actions alike that is selection.epsilon ="
            f" {wanted.epsilon:.3g}: it falls beyond {EPSILON_ROWS:,} learned values, and is"
            f" {inputs.epsilon_now:.3g} now, of {inputs.epsilon:.3g} at the beginning."
        )
    for each in now:
        what = f"arm {each.name}" if each.of == "arm" else f"action {each.name}"
        if each.of == "action" and each.name is None:
            what = f"each of the {inputs.actions} actions by exploration"
        long = "never shows it" if each.decisions is None else f"takes {each.decisions:,} decisions"
        lasts = "" if each.days is None else f", {_lasting(each.days)}"
        share = _percent(each.share)
        yield f"As it is, {what} has {share} of the decisions: that {long}{lasts}."
    if spec.sticky is not None:
        yield "Decisions of one unit are one draw: count units where these say decisions."
    yield "That many show half of such differences; 1.5 times as many show three of four."


def _percent(share: float) -> str:
    return f"{100.0 * share:.3g} %"


def _lasting(days: float) -> str:
    if days >= 2.0:
        return f"{days:,.0f} days"
    hours = 24.0 * days
    return f"{hours:.3g} hours" if hours >= 2.0 else f"{60.0 * hours:.2g} minutes"
