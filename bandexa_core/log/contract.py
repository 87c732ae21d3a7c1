"""The contract of rewards: what a report does to a decision, as a pure function.

`report`, `activate`, `mature` and `close` step a decision's state, and so do `void` and `correct`,
for an administrator, and `teach`, for a decision made elsewhere: each returns the status of the
step, and the change that has to be stored, or None where there is nothing to store. Whoever takes
reports reads the state, steps, and appends the change on the condition that the state's version is
still the one that was read; if it moved, they read and step again. So one implementation serves
every store and any number of writers.

The value of a chosen action is the fold of the rewards that count (applied, aggregated, pending or
corrected): the first, the last, their sum or their mean. A void one has no value, and takes none
until it is corrected. A sum is exact and does not depend on the order. It is held as partial sums
(Shewchuk, *Adaptive Precision Floating-Point Arithmetic*, 1997), so that one more reward costs the
same however many came before.

Nothing here reads a clock: times come with the reports. A negative zero becomes zero, because not
every store can hold one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from bandexa_core.spec import MAX_REWARD, RewardSpec

RewardStatus = Literal["applied", "duplicate", "ignored", "aggregated", "pending", "late", "void"]
StoredStatus = RewardStatus | Literal["corrected", "replaced"]
CorrectionStatus = Literal["applied", "duplicate", "aggregated", "pending", "late"]
ImportStatus = CorrectionStatus | Literal["void"]
SUMMED = ("sum", "mean")
COUNTED: tuple[StoredStatus, ...] = (
    "applied",
    "aggregated",
    "pending",
    "corrected",
)  # the rewards that make a value
ActivationStatus = Literal["applied", "duplicate", "late"]


class ItemState(NamedTuple):
    """The rewards and the value of one chosen action.

    Attributes:
        num: How many rewards count.
        partials: Floats that do not overlap and whose exact sum is that of the rewards that count;
            for "first" and "last", the one reward that counts.
        value: The learned value; None before one is learned.
        void: Whether an administrator has voided it: then nothing counts and nothing is learned.
    """

    num: int = 0
    partials: tuple[float, ...] = ()
    value: float | None = None
    void: bool = False


VOID = ItemState(void=True)


class DecisionState(NamedTuple):
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

    @classmethod
    def of(cls, num_chosen: int, *, activated: bool) -> DecisionState:
        """Return the state of a decision before any report."""
        return cls(0, 0, activated, closed=False, items=(ItemState(),) * num_chosen)

    def waits(self, rules: RewardSpec) -> bool:
        """Whether its rewards are learned later: at an age of the decision, or at the close."""
        return rules.waits and not (self.matured or self.closed)

    @classmethod
    def imported(cls, num_chosen: int) -> DecisionState:
        """Return the state of a decision that was made elsewhere: nothing more is waited for."""
        return cls(1, 0, activated=True, closed=True, items=(ItemState(),) * num_chosen)


class Reported(NamedTuple):
    """A reward was reported.

    Attributes:
        item: The index of the chosen action it is for.
        reward: A finite number.
        reward_id: The caller's id of this reward; None without one.
        repeats: What is stored already under the same `reward_id` for this item, without one the
            late rewards of this item that equal `reward`.
    """

    item: int
    reward: float
    reward_id: str | None
    repeats: Sequence[float] = ()


class Learned(NamedTuple):
    """The value of a chosen action became `after`; `before` is None where none was learned."""

    item: int
    before: float | None
    after: float


class Amended(NamedTuple):
    """An administrator changed the value of a chosen action from `before` to `after`.

    Attributes:
        item: The index of the chosen action.
        before: What it was, learned or not yet; None where it was void or had no reward.
        after: None: it is void.
    """

    item: int
    before: float | None
    after: float | None


class Change(NamedTuple):
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
    state: DecisionState, reported: Reported, rules: RewardSpec, most: int
) -> tuple[RewardStatus, Change | None]:
    """Return what a reported reward does.

    Args:
        state: The decision's state.
        reported: The reward.
        rules: How the bandit takes rewards.
        most: The largest number of stored rewards of a decision.

    Raises:
        ValueError: The reward cannot be taken; the message begins with the field.
    """
    aggregate = rules.aggregate
    sums = aggregate in SUMMED
    index, reward, reward_id, repeats = reported
    if sums and reward_id is None:
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
    if item.num and not sums:
        if item.partials[0] == reward:
            return "duplicate", None
        if aggregate == "first":
            return _stored(state, "ignored", most)
    after = counted(item, reward, rules)
    if abs(value := value_of(after, rules)) > MAX_REWARD:
        raise ValueError(f"reward: the sum would be larger than {MAX_REWARD:g}")
    status: RewardStatus = "applied"
    waits = state.waits(rules)
    if not state.activated or (sums and item.num):
        status = "aggregated"
    elif waits:
        status = "pending"
    _check_room(state, most)
    learned: tuple[Learned, ...] = ()
    if state.activated and not waits and value != item.value:
        learned = (Learned(index, item.value, value),)
        after = ItemState(after.num, after.partials, value)
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
    return "applied", _learn(state._replace(activated=True), values)


def mature(state: DecisionState, rules: RewardSpec) -> Change | None:
    """Return what the age does at which most rewards have come.

    Values that waited for it are learned, and without a reward the default is. Later rewards within
    the window correct that. What is not activated yet waits for the close.
    """
    if not can_mature(state):
        return None
    return _learn(state._replace(matured=True), _final_values(state, rules))


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
    return _learn(state._replace(closed=True), values)


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
            amended.append(Amended(index, before, None))
            after[index] = VOID
    if not amended:
        return None
    return Change(_after(state, state.num_rewards, tuple(after)), amended=tuple(amended))


def correct(
    state: DecisionState, index: int, reward: float, rules: RewardSpec, most: int
) -> tuple[CorrectionStatus, Change | None]:
    """Return what an administrator's correction does: `reward` replaces all rewards so far.

    It is taken under every aggregate, behind the close of the window, and for a void action. Under
    a sum or a mean, later rewards come on top of it.

    Raises:
        ValueError: The reward cannot be taken; the message begins with the field.
    """
    item, reward = state.items[index], reward + 0.0
    before = known_value(item, rules)
    if before == reward:
        return "duplicate", None
    _check_room(state, most)
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
        value, learned = reward, (Learned(index, item.value, reward),)
    after = ItemState(1, (reward,), value)
    items = (*state.items[:index], after, *state.items[index + 1 :])
    change = Change(
        _after(state, state.num_rewards + 1, items), "corrected", learned,
        (Amended(index, before, reward),),
    )  # fmt: skip
    return answer, change


def teach(
    state: DecisionState, index: int, value: float, rules: RewardSpec, most: int
) -> tuple[ImportStatus, Change | None]:
    """Return what the value of an imported decision does: it is learned at once, by any rules.

    Repeating it changes nothing, another value corrects the one before, and a void one stays void.

    Raises:
        ValueError: The value cannot be taken; the message begins with the field.
    """
    item, value = state.items[index], value + 0.0
    if item.void:
        return "void", None
    if item.num:
        return correct(state, index, value, rules, most)
    _check_room(state, most)
    items = (*state.items[:index], ItemState(1, (value,), value), *state.items[index + 1 :])
    after = _after(state, state.num_rewards + 1, items)
    return "applied", Change(after, "applied", (Learned(index, None, value),))


def known_value(item: ItemState, rules: RewardSpec) -> float | None:
    """Return the value of an item, learned or not yet; None where it has none."""
    if item.value is None and item.num:
        return value_of(item, rules)
    return item.value


def counted(item: ItemState, reward: float, rules: RewardSpec) -> ItemState:
    """Return the state of an item after one more reward that counts; its value is unchanged."""
    partials = grown(item.partials, reward) if rules.aggregate in SUMMED else (reward,)
    return ItemState(item.num + 1, partials, item.value)


def value_of(item: ItemState, rules: RewardSpec) -> float:
    """Return the fold of the rewards that count; there is at least one."""
    total = math.fsum(item.partials)
    return (total / item.num if rules.aggregate == "mean" else total) + 0.0


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


def _learn(state: DecisionState, values: dict[int, float]) -> Change:
    """Return the change that learns the first values of items."""
    learned = tuple(Learned(index, None, value + 0.0) for index, value in values.items())
    items = list(state.items)
    for index, _, value in learned:
        items[index] = items[index]._replace(value=value)
    return Change(_after(state, state.num_rewards, tuple(items)), None, learned)


def _after(state: DecisionState, num_rewards: int, items: tuple[ItemState, ...]) -> DecisionState:
    return state._replace(version=state.version + 1, num_rewards=num_rewards, items=items)
