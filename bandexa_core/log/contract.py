"""The contract of rewards: what a report does to a decision, as a pure function.

`report`, `activate`, `mature` and `close` step a decision's state, and so do `void` and `correct`,
for an administrator, and `teach`, for a decision made elsewhere: each returns the status of the
step, and the change that has to be stored, or None where there is nothing to store. Whoever takes
reports reads the state, steps, and appends the change on the condition that the state's version is
still the one that was read; if it moved, they read and step again. So one implementation serves
every store and any number of writers.

The value of a chosen action is the fold of the rewards that count (applied, aggregated, pending or
corrected): the first, the last, or their sum, mean, median, minimum or maximum. A void one has no
value, and takes none until it is corrected. A sum is exact and does not depend on the order. It is
held as partial sums (Shewchuk, *Adaptive Precision Floating-Point Arithmetic*, 1997), so that one
more reward costs the same however many came before. A median alone needs all of them.

With `rewards.learn`, a reward is several metrics. Each is folded by the same rules, on its own, and
the value is their weighted sum. Of a report that repeats some metrics under "first", the others
count. A decision has single rewards or metrics, whichever was reported first.

Nothing here reads a clock: times come with the reports. A negative zero becomes zero, because not
every store can hold one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from statistics import median
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from bandexa_core.log.metrics import weighted
from bandexa_core.log.rows import Metrics
from bandexa_core.spec import MAX_REWARD, RewardSpec

Outcome = float | Metrics  # what is reported: a single reward, or metrics

RewardStatus = Literal["applied", "duplicate", "ignored", "aggregated", "pending", "late", "void"]
StoredStatus = RewardStatus | Literal["corrected", "replaced"]
CorrectionStatus = Literal["applied", "duplicate", "aggregated", "pending", "late"]
ImportStatus = CorrectionStatus | Literal["void"]
COMBINED = ("sum", "mean", "median", "min", "max")  # of all rewards, distinguished by their ids
COUNTED: tuple[StoredStatus, ...] = (
    "applied",
    "aggregated",
    "pending",
    "corrected",
)  # the rewards that make a value
ActivationStatus = Literal["applied", "duplicate", "late"]


class MetricState(NamedTuple):
    """What the rewards that count say of one metric: how many have it, and see `ItemState`."""

    name: str
    num: int
    partials: tuple[float, ...]


class OutOfRange(ValueError):
    """A reward is outside of the range that its bandit declares, and is refused for that."""


class ItemState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The rewards and the value of one chosen action.

    Attributes:
        num: How many rewards count.
        partials: Floats that do not overlap and whose exact sum is that of the rewards that count;
            for "median" all of these, in order; for other aggregates, the one reward that makes the
            value. Empty where they are metrics.
        value: The learned value; None before one is learned.
        void: Whether an administrator has voided it: then nothing counts and nothing is learned.
        metrics: The metrics of the rewards that count, in the order of their names.
    """

    num: int = 0
    partials: tuple[float, ...] = ()
    value: float | None = None
    void: bool = False
    metrics: tuple[MetricState, ...] = ()


VOID = ItemState(void=True)


class DecisionState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the reports of one decision have led to so far.

    Attributes:
        version: How often it was changed; 0: never.
        num_rewards: How many rewards are stored, whatever their status.
        activated: Whether its rewards are learned.
        closed: Whether its reward window is over.
        items: One per chosen action.
        matured: Whether its values were learned at an age within its window.
    """

    version: int
    num_rewards: int
    activated: bool
    closed: bool
    items: tuple[ItemState, ...]
    matured: bool = False

    @staticmethod
    @lru_cache(maxsize=64)
    def of(num_chosen: int, *, activated: bool) -> DecisionState:
        """Return the state of a decision before any report."""
        return DecisionState(0, 0, activated, closed=False, items=(ItemState(),) * num_chosen)

    def waits(self, rules: RewardSpec) -> bool:
        """Whether its rewards are learned later: at an age of the decision, or at the close."""
        return rules.waits and not (self.matured or self.closed)

    @classmethod
    def imported(cls, num_chosen: int) -> DecisionState:
        """Return the state of a decision that was made elsewhere: nothing more is waited for."""
        return cls(1, 0, activated=True, closed=True, items=(ItemState(),) * num_chosen)


class Reported(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A reward was reported.

    Attributes:
        item: The index of the chosen action it is for.
        reward: A finite number, or metrics.
        reward_id: The caller's id of this reward; None without one.
        repeats: What is stored already under the same `reward_id` for this item, without one the
            late rewards of this item that equal `reward`.
    """

    item: int
    reward: Outcome
    reward_id: str | None
    repeats: Sequence[Outcome] = ()


class Learned(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The value of a chosen action became `after`; `before` is None where none was learned.

    Attributes:
        metrics, metrics_before: What `after` and `before` were made of; None: of no metrics.
    """

    item: int
    before: float | None
    after: float
    metrics: Metrics | None = None
    metrics_before: Metrics | None = None


class Amended(NamedTuple):
    """An administrator changed the value of a chosen action from `before` to `after`.

    Attributes:
        item: The index of the chosen action.
        before: What it was, learned or not yet; None where it was void or had no reward.
        after: None: it is void.
        metrics: What `before` was made of; None: of no metrics.
    """

    item: int
    before: float | None
    after: float | None
    metrics: Metrics | None = None


class Change(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What has to be stored, all of it or nothing.

    Attributes:
        state: The state from here on.
        reward: The status under which the reported reward is stored; None: no reward is stored.
        learned: The values to log, in the order of their items.
        amended: What an administrator changed: the rewards so far of these items are void, or
            replaced by the one that is stored now.
    """

    state: DecisionState
    reward: StoredStatus | None = None
    learned: tuple[Learned, ...] = ()
    amended: tuple[Amended, ...] = ()


def report(
    state: DecisionState,
    reported: Reported,
    rules: RewardSpec,
    most: int,
    allowed: tuple[float, float] | None = None,
) -> tuple[RewardStatus, Change | None]:
    """Return what a reported reward does.

    Args:
        state: The decision's state.
        reported: The reward.
        rules: How the bandit takes rewards.
        most: The largest number of stored rewards of a decision.
        allowed: The range of rewards, of sums and metrics that of their value; None: all are
            allowed.

    Raises:
        OutOfRange: The reward would count, and is not allowed.
        ValueError: The reward cannot be taken; the message begins with the field.
    """
    aggregate = rules.aggregate
    combined = aggregate in COMBINED
    index, reward = reported.item, reported.reward
    reward_id, repeats = reported.reward_id, reported.repeats
    if combined and reward_id is None:
        raise ValueError(f"reward_id: needed: the bandit learns the {aggregate} of its rewards")
    if repeats:
        if reward in repeats:
            return "duplicate", None
        if reward_id is not None:
            return _stored(state, "ignored", most)
    item = state.items[index]
    if item.void:
        return _stored(state, "void", most)
    if state.closed:
        return _stored(state, "late", most)
    if item.num and bool(item.metrics) != isinstance(reward, tuple):
        raise ValueError("metrics: the decision has a single reward" if not item.metrics
                         else "reward: the decision has metrics")  # fmt: skip
    if item.num and not combined:
        if repeated(item, reward):
            return "duplicate", None
        if aggregate == "first" and (reward := _first_ones(item, reward)) == ():
            return _stored(state, "ignored", most)
    after = counted(item, reward, rules)
    value = value_of(after, rules)
    if after.metrics or abs(value) > MAX_REWARD:
        _check_size(after, value, rules)
    if allowed is None:
        pass
    elif isinstance(reward, tuple):
        _check_range(value, allowed, "metrics: their value of ")
    elif aggregate == "sum":
        _check_range(value, allowed, "reward: the sum of ")
    else:
        _check_range(reward, allowed)
    status: RewardStatus = "applied"
    waits = state.waits(rules)
    if not state.activated or ((combined or after.metrics) and item.num):
        status = "aggregated"
    elif waits:
        status = "pending"
    _check_room(state, most)
    learned: tuple[Learned, ...] = ()
    if state.activated and not waits and (value, after.metrics) != (item.value, item.metrics):
        learned = (_learned(index, item, after, value, rules),)
        after = ItemState(after.num, after.partials, value, after.void, after.metrics)
    items = (*state.items[:index], after, *state.items[index + 1 :])
    return status, Change(_after(state, state.num_rewards + 1, items), status, learned)


def activate(state: DecisionState, rules: RewardSpec) -> tuple[ActivationStatus, Change | None]:
    """Return what an activation does: rewards that came before are learned now."""
    if state.activated:
        return "duplicate", None
    if state.closed:
        return "late", None
    values = {}
    if not state.waits(rules):
        values = {i: value_of(item, rules) for i, item in enumerate(state.items) if item.num}
    return "applied", _learn(replace(state, activated=True), values, rules)


def mature(state: DecisionState, rules: RewardSpec) -> Change | None:
    """Return what the age does at which most rewards have come.

    Values that waited for it are learned, and without a reward the default is. Later rewards within
    the window correct that. What is not activated yet waits for the close.
    """
    if not can_mature(state):
        return None
    return _learn(replace(state, matured=True), _final_values(state, rules), rules)


def can_mature(state: DecisionState) -> bool:
    """Whether `mature` would change a decision."""
    return state.activated and not (state.closed or state.matured)


def close(state: DecisionState, rules: RewardSpec) -> Change | None:
    """Return what the end of the reward window does.

    Values that waited for it are learned, and without a reward the default is.
    """
    if state.closed:
        return None
    values = _final_values(state, rules) if state.activated else {}
    return _learn(replace(state, closed=True), values, rules)


def _final_values(state: DecisionState, rules: RewardSpec) -> dict[int, float]:
    """Return the values that were not learned so far, or their default, by item."""
    values = {}
    for index, item in enumerate(state.items):
        value = value_of(item, rules) if item.num else rules.default_reward
        if item.value is None and value is not None and not item.void:
            values[index] = value
    return values


def void(state: DecisionState, items: Sequence[int], rules: RewardSpec) -> Change | None:
    """Return what voiding the values of chosen actions does; None where none of them has one.

    Nothing is learned from a void action any more, whatever is reported later, but by `correct`.
    """
    amended = []
    after = list(state.items)
    for index in items:
        before = known_value(state.items[index], rules)
        if before is not None:
            amended.append(Amended(index, before, None, metrics_of(state.items[index], rules)))
            after[index] = VOID
    if not amended:
        return None
    return Change(_after(state, state.num_rewards, tuple(after)), amended=tuple(amended))


def correct(
    state: DecisionState,
    index: int,
    reward: Outcome,
    rules: RewardSpec,
    most: int,
    allowed: tuple[float, float] | None = None,
) -> tuple[CorrectionStatus, Change | None]:
    """Return what an administrator's correction does: `reward` replaces all rewards so far.

    It is taken under every aggregate, behind the close of the window, and for a void action. Under
    a sum or a mean, later rewards come on top of it.

    Raises:
        OutOfRange: The reward is not allowed.
        ValueError: The reward cannot be taken; the message begins with the field.
    """
    item = state.items[index]
    before, metrics = known_value(item, rules), metrics_of(item, rules)
    if (before if metrics is None else metrics) == reward:
        return "duplicate", None
    _check_room(state, most)
    after = counted(ItemState(value=item.value), reward, rules)
    made = value_of(after, rules)
    _check_size(after, made, rules)
    _check_range(made, allowed)
    if state.closed and not state.activated:  # it will never count
        return "late", _stored(state, "late", most)[1]
    value = item.value
    answer: CorrectionStatus = "applied"
    learned: tuple[Learned, ...] = ()
    if not state.activated:
        answer = "aggregated"
    elif state.waits(rules):
        answer = "pending"
    else:
        value, learned = made, (_learned(index, item, after, made, rules),)
    after = replace(after, value=value)
    items = (*state.items[:index], after, *state.items[index + 1 :])
    change = Change(
        _after(state, state.num_rewards + 1, items), "corrected", learned,
        (Amended(index, before, made, metrics),),
    )  # fmt: skip
    return answer, change


def teach(
    state: DecisionState,
    index: int,
    value: Outcome,
    rules: RewardSpec,
    most: int,
) -> tuple[ImportStatus, Change | None]:
    """Return what the value of an imported decision does: it is learned at once, by any rules.

    Repeating it changes nothing, another value corrects the one before, and a void one stays void.
    Where values outside of a range are refused, it is learned: it was taken elsewhere, as the rows
    of a log were when they are learned anew.

    Raises:
        ValueError: The value cannot be taken; the message begins with the field.
    """
    item = state.items[index]
    if item.void:
        return "void", None
    if item.num:
        return correct(state, index, value, rules, most)
    _check_room(state, most)
    after = counted(item, value, rules)
    made = value_of(after, rules)
    _check_size(after, made, rules)
    learned = _learned(index, item, after, made, rules)
    items = (*state.items[:index], replace(after, value=made), *state.items[index + 1 :])
    return "applied", Change(_after(state, state.num_rewards + 1, items), "applied", (learned,))


def known_value(item: ItemState, rules: RewardSpec) -> float | None:
    """Return the value of an item, learned or not yet; None where it has none."""
    if item.value is None and item.num:
        return value_of(item, rules)
    return item.value


def value_reported(reward: Outcome, rules: RewardSpec) -> float:
    """Return the value that one reward makes by itself."""
    return value_of(counted(ItemState(), reward, rules), rules)


def counted(item: ItemState, reward: Outcome, rules: RewardSpec) -> ItemState:
    """Return the state of an item after one more reward that counts; its value is unchanged."""
    reward = positive_zero(reward)
    if not isinstance(reward, tuple):
        partials = joined(item.partials, reward, rules.aggregate)
        # Written out: `replace` takes longer, and every reward passes here.
        return ItemState(item.num + 1, partials, item.value, item.void, item.metrics)
    known = {metric.name: metric for metric in item.metrics}
    for name, number in reward:
        old = known.get(name, MetricState(name, 0, ()))
        partials = joined(old.partials, number, rules.aggregate)
        known[name] = MetricState(name, old.num + 1, partials)
    return replace(item, num=item.num + 1, metrics=tuple(known[name] for name in sorted(known)))


def positive_zero(reward: Outcome) -> Outcome:
    """Return what is reported as it is counted and stored: a negative zero becomes zero.

    A file drops the sign of a zero and a database does not, and the hash of a log covers it.
    """
    if isinstance(reward, tuple):
        return tuple((name, number + 0.0) for name, number in reward)
    return reward + 0.0


def joined(partials: tuple[float, ...], reward: float, aggregate: str) -> tuple[float, ...]:
    """Return what is stored of the rewards that count after one more; see `ItemState`."""
    if aggregate in ("first", "last"):
        return (reward,)
    if aggregate in ("sum", "mean"):
        return grown(partials, reward)
    if aggregate == "median":
        place = bisect_right(partials, reward)
        return (*partials[:place], reward, *partials[place:])
    if aggregate == "min":
        return (min(*partials, reward),) if partials else (reward,)
    assert aggregate == "max"
    return (max(*partials, reward),) if partials else (reward,)


def repeated(item: ItemState, reward: Outcome) -> bool:
    """Whether a reward says nothing but what counts already; not for sums."""
    if not isinstance(reward, tuple):
        return item.partials[0] == reward
    known = {metric.name: metric.partials[0] for metric in item.metrics}
    return all(known.get(name) == number for name, number in reward)


def _first_ones(item: ItemState, reward: Outcome) -> Metrics:
    """Return the metrics of a later report that none has reported so far."""
    if not isinstance(reward, tuple):
        return ()
    known = {metric.name for metric in item.metrics}
    return tuple(each for each in reward if each[0] not in known)


def value_of(item: ItemState, rules: RewardSpec) -> float:
    """Return the fold of the rewards that count; there is at least one.

    `rules.learn` has the weights where they are metrics.
    """
    if item.metrics:
        return weighted(metrics_of(item, rules) or (), rules.learn or {})
    return _fold(item.num, item.partials, rules)


def metrics_of(item: ItemState, rules: RewardSpec) -> Metrics | None:
    """Return the metrics of the rewards that count, each folded; None where they are none."""
    if not item.metrics:
        return None
    return tuple((name, _fold(num, partials, rules)) for name, num, partials in item.metrics)


def _fold(num: int, partials: tuple[float, ...], rules: RewardSpec) -> float:
    if rules.aggregate == "median":
        return median(partials) + 0.0
    total = math.fsum(partials)
    return (total / num if rules.aggregate == "mean" else total) + 0.0


def _check_size(item: ItemState, value: float, rules: RewardSpec) -> None:
    """Check that a value, and what it is made of, can be learned.

    Raises:
        ValueError: It is too large.
    """
    for name, number in metrics_of(item, rules) or ():
        if abs(number) > MAX_REWARD:
            raise ValueError(f"metrics.{name}: the sum would be larger than {MAX_REWARD:g}")
    if abs(value) > MAX_REWARD or (item.metrics and abs(value) == MAX_REWARD):
        field = "metrics" if item.metrics else "reward"
        raise ValueError(f"{field}: the sum would be larger than {MAX_REWARD:g}")


def _learned(
    index: int, before: ItemState, after: ItemState, value: float, rules: RewardSpec
) -> Learned:
    if not (before.metrics or after.metrics):
        return Learned(index, before.value, value, None, None)
    known = None if before.value is None else metrics_of(before, rules)
    return Learned(index, before.value, value, metrics_of(after, rules), known)


def grown(partials: tuple[float, ...], value: float) -> tuple[float, ...]:
    """Return partial sums whose exact sum is that of `partials` and `value`."""
    out = []
    for partial in partials:
        if abs(value) < abs(partial):
            value, partial = partial, value
        high = value + partial
        low = partial - (high - value)
        if low:
            out.append(low)
        value = high
    return (*out, value)


def _stored(state: DecisionState, status: RewardStatus, most: int) -> tuple[RewardStatus, Change]:
    """Return the change that stores a reward which does not count."""
    _check_room(state, most)
    return status, Change(_after(state, state.num_rewards + 1, state.items), status)


def _check_room(state: DecisionState, most: int) -> None:
    if state.num_rewards >= most:
        raise ValueError(f"reward: the decision has {most} rewards, the most that are stored")


def _check_range(value: float, allowed: tuple[float, float] | None, what: str = "reward: ") -> None:
    if allowed is not None and not allowed[0] <= value <= allowed[1]:
        number, low, high = (repr(each).removesuffix(".0") for each in (value, *allowed))
        raise OutOfRange(f"{what}{number} is outside of reward_range, {low} to {high}")


def _learn(state: DecisionState, values: dict[int, float], rules: RewardSpec) -> Change:
    """Return the change that learns the first values of items."""
    items = list(state.items)
    learned = tuple(
        Learned(index, None, value + 0.0, metrics_of(items[index], rules))
        for index, value in values.items()
    )
    for each in learned:
        items[each.item] = replace(items[each.item], value=each.after)
    return Change(_after(state, state.num_rewards, tuple(items)), None, learned)


def _after(state: DecisionState, num_rewards: int, items: tuple[ItemState, ...]) -> DecisionState:
    return DecisionState(  # as in `counted`
        state.version + 1, num_rewards, state.activated, state.closed, items, state.matured
    )
