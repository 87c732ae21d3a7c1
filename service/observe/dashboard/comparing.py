"""What arms and actions earn, and the lift of a bandit over its arms, from learned values in order.

Runs on the follower's thread. Every sum has a fixed size and lasts in the aggregates' file, so that
a restart goes on where the last one ended. Intervals hold whenever one looks (see
`bandexa_core.evaluation`): those of a declared `reward_range` at any number of values; without one
they are asymptotic, and there is none before 100 values.

A comparison belongs to one definition of an arm: with another rule, other shares, another range or
other weights of metrics it begins anew. Decisions of before, whose values come late, do not count
for it. Where units stay in one arm, only the first decision of each unit counts for the arms: the
arm of a later one is no new draw.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.arms import shares
from bandexa_core.evaluation import (
    Asymptotic,
    Interval,
    LiftSequence,
    MeanSequence,
    Mixture,
    mixture_bound,
)
from bandexa_core.evaluation.sequences import ALPHA
from bandexa_core.log.configurations import Configurations
from bandexa_core.log.rows import Metrics
from bandexa_core.schema import from_bytes
from bandexa_core.schema.objects import flatten
from bandexa_core.spec import BanditSpec
from bandexa_core.spec.arms import BANDIT, ArmSpec
from service.serving.standing import Agreement, ArmStanding, Compared, Estimated, Standing
from service.store.records import CountedValue

Kind = Literal["action", "arm", "lift"]
Range = tuple[float, float]
Values = NDArray[np.float64]
SEPARATOR = "\x1f"
METRIC, SEGMENT = "metric:", "segment:"
# Of an arm that follows a rule, and of a shadow: whether it agrees, what was earned where it does,
# and what was earned at all.
AGREES, MATCHED, WHOLE = "agrees", "matched", "whole"
MAX_SEGMENTS = 12  # values of a segment; the later ones are counted together
OTHERS = "(others)"
MISSING = "(missing)"
LONGEST = 64  # characters of a segment's value


class Key(NamedTuple):
    """Which sum: of an action, of an arm, or of the lift over an arm.

    Attributes:
        kind: What it is of.
        name: The action or arm.
        of: "": of all values; or of a metric or a segment alone (`METRIC` or `SEGMENT` before it).
    """

    kind: Kind
    name: str
    of: str = ""

    @property
    def stored(self) -> str:
        """The name under which it is stored."""
        return self.name + (SEPARATOR + self.of if self.of else "")

    @classmethod
    def of_stored(cls, kind: Kind, name: str) -> Key:
        """Return the key that is stored under a name."""
        return cls(kind, *name.split(SEPARATOR, 1))


@dataclass(frozen=True, slots=True)
class Sums:
    """The values of an action or an arm.

    Attributes:
        since: The log position from which its definition holds.
        state: The values.
    """

    since: int
    state: MeanSequence | Asymptotic

    @classmethod
    def new(cls, since: int, bounds: Range | None) -> Sums:
        """Return those of no value."""
        return cls(since, Asymptotic() if bounds is None else MeanSequence.new(*bounds))

    def add(self, values: Values) -> Sums:
        """Return those with more values, (N,)."""
        return replace(self, state=self.state.add(_inside(self.state, values)))

    def without(self, value: float) -> Sums:
        """Return those without one of the values."""
        inside = _inside(self.state, np.array([value]))
        return replace(self, state=self.state.without(float(inside[0])))

    def estimated(self) -> Estimated:
        """Return the mean and its interval."""
        return _estimated(self.state)


@dataclass(frozen=True, slots=True)
class Lift:
    """The values of the bandit and of an arm, in the order they were learned.

    Attributes:
        since: The log position from which the definition of the arm holds.
        share: The arm's share among the two.
        state: The lift; of an asymptotic one the values D (see `LiftSequence`).
        num_centred, centre: Of an asymptotic one: how many rewards there were, and their mean.
    """

    since: int
    share: float
    state: LiftSequence | Asymptotic
    num_centred: int = 0
    centre: float = 0.0

    @classmethod
    def new(cls, since: int, bounds: Range | None, share: float) -> Lift:
        """Return that of no value."""
        if bounds is None:
            return cls(since, share, Asymptotic())
        return cls(since, share, LiftSequence.new(min(share, 1.0 - share), *bounds))

    def add(self, values: Values, is_bandit: NDArray[np.bool_]) -> Lift:
        """Return that with more values, (N,)."""
        if isinstance(self.state, LiftSequence):
            inside = _inside(self.state, values)
            return replace(self, state=self.state.add(inside, is_bandit, self.share))
        num = self.num_centred + np.arange(len(values) + 1)
        sums = self.num_centred * self.centre + np.concatenate(([0.0], np.cumsum(values)))
        centres = np.where(num > 0, sums / np.maximum(num, 1), values[0])
        weights = np.where(is_bandit, 1.0 / (1.0 - self.share), -1.0 / self.share)
        state = self.state.add(weights * (values - centres[:-1]))
        return replace(self, state=state, num_centred=int(num[-1]), centre=float(centres[-1]))

    def without(self, value: float, *, is_bandit: bool) -> Lift:
        """Return that without one of the values."""
        if isinstance(self.state, LiftSequence):
            (inside,) = _inside(self.state, np.array([value])).tolist()
            return replace(
                self, state=self.state.without(inside, is_arm=is_bandit, share=self.share)
            )
        num = self.num_centred - 1
        centre = (self.num_centred * self.centre - value) / num if num else 0.0
        weight = 1.0 / (1.0 - self.share) if is_bandit else -1.0 / self.share
        state = self.state.without(weight * (value - centre))
        return replace(self, state=state, num_centred=num, centre=centre)

    def estimated(self) -> Estimated:
        """Return the lift and its interval."""
        return _estimated(self.state)


def _inside(state: MeanSequence | LiftSequence | Asymptotic, values: Values) -> Values:
    """Return values as they count: at the end of the range, where they are beyond that."""
    if isinstance(state, Asymptotic):
        return values
    return np.minimum(np.maximum(values, state.low), state.high)  # as `clip`, which takes longer


def _estimated(state: MeanSequence | LiftSequence | Asymptotic) -> Estimated:
    if not state.num:
        return Estimated(0, None, None)
    if isinstance(state, Asymptotic):
        reach = state.reach()
        interval = Interval(state.mean - reach, state.mean + reach) if np.isfinite(reach) else None
        return Estimated(state.num, state.mean, interval)
    mean = state.lift if isinstance(state, LiftSequence) else state.mean
    return Estimated(state.num, mean, state.interval())


def estimated_together(found: Sequence[Sums]) -> list[Estimated]:
    """Return what `Sums.estimated` does for each; bounds of many take about as long as of one."""
    done: dict[int, Estimated] = {}
    states = [(n, s.state) for n, s in enumerate(found) if isinstance(s.state, MeanSequence)]
    counted = [(n, state) for n, state in states if state.num]
    if counted:
        sides = [side for _, state in counted for side in (state.lower, state.upper)]
        ends = mixture_bound(
            np.array([side.num for side in sides]), np.array([side.total for side in sides]),
            np.array([_spread(side) for side in sides]), 0.5 * counted[0][1].alpha, 0.0, 1.0,
        ).reshape(-1, 2)  # fmt: skip
        for (n, state), (lower, upper) in zip(counted, ends.tolist(), strict=True):
            span = state.high - state.low
            interval = Interval(state.low + span * lower, state.high - span * upper)
            done[n] = Estimated(state.num, state.mean, interval)
    return [done.get(n) or sums.estimated() for n, sums in enumerate(found)]


class EarnedByAction(NamedTuple):
    """What an action earned where it was chosen first.

    Attributes:
        name: Its id.
        reward: Its values.
        metrics: By metric, those of its values that it is a part of.
    """

    name: str
    reward: Estimated
    metrics: Mapping[str, Estimated]


def top_actions(
    found: Iterable[tuple[str, Kind, str, str]], limit: int
) -> tuple[int, list[EarnedByAction]]:
    """Return how many actions have values, and what those with the most of them earned.

    `found`: Stored rows of one bandit: it, kind, name, sums.
    """
    actions: list[tuple[str, Sums]] = []
    metrics: dict[str, dict[str, str]] = defaultdict(dict)
    for _, kind, name, text in found:
        if kind != "action":
            continue
        key = Key.of_stored(kind, name)
        if key.of:
            metrics[key.name][key.of.removeprefix(METRIC)] = text
        elif isinstance(sums := unpacked(kind, text), Sums):
            actions.append((name, sums))
    actions.sort(key=lambda pair: (-pair[1].state.num, pair[0]))
    shown = actions[:limit]
    values = estimated_together([sums for _, sums in shown])
    earned = [
        EarnedByAction(
            name, value,
            {each: unpacked("action", text).estimated() for each, text in metrics[name].items()},
        )
        for (name, _), value in zip(shown, values, strict=True)
    ]  # fmt: skip
    return len(actions), earned


def _spread(side: object) -> float:
    assert isinstance(side, Mixture), "sums are made by that method"
    return side.spread


def packed(sums: Sums | Lift) -> str:
    """Return sums as text, for the aggregates' file."""
    state = sums.state
    whole: dict[str, Any] = {
        name: getattr(sums, name) for name in sums.__dataclass_fields__ if name != "state"
    }
    if isinstance(state, Asymptotic):
        whole["asymptotic"] = asdict(state)
    else:
        whole["state"] = state.to_json()
    return json.dumps(whole)


def unpacked(kind: Kind, text: str) -> Sums | Lift:
    """Return what `packed` was of."""
    whole = json.loads(text)
    if (found := whole.pop("asymptotic", None)) is not None:
        state: Any = Asymptotic(**found)
    else:
        sequence = LiftSequence if kind == "lift" else MeanSequence
        state = sequence.from_json(whole.pop("state"))
    return (Lift if kind == "lift" else Sums)(state=state, **whole)


class Definitions:
    """What the arms of a bandit were at each position of its log, and since when.

    Args:
        known: The configurations of the bandit.

    Attributes:
        end: The position of the newest configuration.
    """

    def __init__(self, known: Configurations) -> None:
        self._starts = [0, *known.positions]
        self._specs = known.specs
        self.end = self._starts[-1]
        self._since: dict[tuple[int, Key], int] = {}

    def spec(self, position: int) -> BanditSpec:
        """Return the configuration at a position."""
        return self._specs[bisect_right(self._starts, position) - 1]

    @property
    def newest(self) -> BanditSpec:
        """The newest configuration."""
        return self._specs[-1]

    def since(self, position: int, key: Key) -> int:
        """Return the position from which what is defined at another one holds."""
        if not self.end:  # there is one configuration
            return 0
        place = bisect_right(self._starts, position) - 1
        found = self._since.get((place, key))
        if found is None:
            wanted, first = _defined(self._specs[place], key), place
            while first and _defined(self._specs[first - 1], key) == wanted:
                first -= 1
            found = self._since[place, key] = self._starts[first]
        return found


def _defined(spec: BanditSpec, key: Key) -> Any:
    """Return what has to stay as it is for sums to go on."""
    value: Any = spec.reward_range, spec.rewards.learn
    if key.kind == "action":
        return None if key.of else value
    if key.of in (AGREES, MATCHED, WHOLE):
        arm = next((arm for arm in spec.arms if arm.name == key.name), None)
        return None if arm is None else replace(arm, share=0.0), value
    if key.of.startswith(METRIC):
        value = None
    elif key.of:
        value = value, spec.segment
    chances = shares(spec)
    what = next((arm for arm in spec.arms if arm.name == key.name), None)
    return what, chances.get(key.name), chances.get(BANDIT), spec.sticky, value


def comparable(spec: BanditSpec, arm: str | None, *, is_first: bool) -> bool:
    """Whether a decision counts for the comparison of arms: its arm was drawn, and anew."""
    if arm is None or (spec.sticky is not None and not is_first):
        return False
    chances = shares(spec)
    return len(chances) > 1 and chances.get(BANDIT, 0.0) > 0.0 and arm in chances


def agreements(spec: BanditSpec, row: CountedValue) -> list[tuple[str, bool]]:
    """Return the arms that a decision has an agreement of, and whether they agree.

    An arm that follows a rule agrees with the bandit where it served what the bandit has the best
    mean of. A shadow agrees with what was served where it would have served the same.
    """
    found = []
    if row.explored is not None:
        rules = (arm.name for arm in spec.arms if arm.has_rule and not arm.shadow)
        found = [(name, not row.explored) for name in rules if name == row.arm]
    shadows = row.shadows or {}
    found += [
        (arm.name, shadows[arm.name] == row.action)
        for arm in spec.arms
        if arm.shadow and arm.name in shadows
    ]
    return found


def compared_metrics(spec: BanditSpec) -> tuple[str, ...]:
    """Return the metrics by which arms are compared."""
    names = {**dict.fromkeys(spec.guard.metrics), **dict.fromkeys(spec.rewards.learn or ())}
    return tuple(names | dict.fromkeys(spec.rewards.metrics or ()))


def segment_of(path: str, context: bytes | None) -> str:
    """Return the value of a segment in a stored context."""
    try:
        value = flatten(from_bytes(context or b"{}")).get(path)
    except ValueError:  # verification reports it
        value = None
    if value is None:
        return MISSING
    text = json.dumps(value) if isinstance(value, bool | list | dict) else str(value)
    return text[:LONGEST].replace(SEPARATOR, " ")


NOTHING_HELD: Mapping[Key, Sums | Lift] = MappingProxyType({})


class Comparison:
    """Adds learned values of one bandit to its sums.

    Args:
        known: The configurations of the bandit.
        load: Returns stored sums; None where there are none.
        segments: The values of its segment that have sums.
        begins: Values that were learned first up to this position are in no sum.
        held: Sums as they are stored, which need not be loaded; it is not changed.

    Attributes:
        changed: The sums that differ from the stored ones, after `take`.
    """

    def __init__(
        self,
        known: Configurations,
        load: Callable[[Key], str | None],
        segments: Iterable[str] = (),
        begins: int = 0,
        held: Mapping[Key, Sums | Lift] = NOTHING_HELD,
    ) -> None:
        self._definitions = Definitions(known)
        self._begins = begins
        self._load = load
        self._segments = set(segments)
        self.changed: dict[Key, Sums | Lift] = {}
        self._held = held
        self._read: dict[Key, Sums | Lift | None] = {}
        self._waiting: dict[Key, list[tuple[float, bool]]] = defaultdict(list)  # to be added
        self._actions: dict[str, Key] = {}

    def take(self, rows: Iterable[CountedValue]) -> None:
        """Add rows in order; what they correct or void is taken out again."""
        for row in rows:
            if row.made_at is None or row.place != 0:
                continue  # its decision is gone; or it is not the first of several actions
            if row.before is not None and (row.origin or self._begins + 1) <= self._begins:
                continue  # what it corrects, or voids, was never counted
            if row.before is not None and row.first_learned is not None:
                self._count(row, row.made_at, row.before, row.metrics_before, add=False)
            if row.after is not None and (row.before is None or row.first_learned is not None):
                self._count(row, row.made_at, row.after, row.metrics, add=True)
        for key in list(self._waiting):
            self._flush(key)

    def _count(
        self, row: CountedValue, made_at: int, value: float, metrics: Metrics | None, *, add: bool
    ) -> None:
        if row.action is not None:
            key = self._actions.get(row.action)
            if key is None:
                key = self._actions[row.action] = Key("action", row.action)
            self._add(key, made_at, value, add=add)
            for name, part in metrics or ():
                self._add(Key("action", row.action, METRIC + name), made_at, part, add=add)
        arm, spec = row.arm, self._definitions.spec(made_at)
        if arm is None and not spec.arms:
            return  # as most bandits
        for name, agrees in agreements(spec, row):
            counted = {AGREES: float(agrees), MATCHED: value if agrees else 0.0, WHOLE: value}
            for of, number in counted.items():
                self._add(Key("arm", name, of), made_at, number, add=add)
        if arm is None:
            return
        if not comparable(spec, arm, is_first=row.is_first):
            return
        others = [each for each, share in shares(spec).items() if each != BANDIT and share > 0.0]
        parts, known = [("", value)], dict(metrics or ())
        parts += [(METRIC + name, known.get(name, 0.0)) for name in compared_metrics(spec)]
        if spec.segment is not None:
            parts.append((SEGMENT + self._segment(segment_of(spec.segment, row.context)), value))
        for of, part in parts:
            self._add(Key("arm", arm, of), made_at, part, add=add)
            for other in others if arm == BANDIT else [arm]:
                self._add(Key("lift", other, of), made_at, part, add=add, is_bandit=arm == BANDIT)

    def _segment(self, value: str) -> str:
        if value not in self._segments:
            if len(self._segments - {MISSING}) >= MAX_SEGMENTS and value != MISSING:
                return OTHERS
            self._segments.add(value)
        return value

    def _add(
        self, key: Key, made_at: int, value: float, *, add: bool, is_bandit: bool = False
    ) -> None:
        if add and not self._definitions.end and key in self._waiting:
            self._waiting[key].append((value, is_bandit))  # one definition, which others met
            return
        since = self._definitions.since(made_at, key)
        sums = self._of(key)
        if sums is not None and since < sums.since:
            return  # of an earlier definition
        if sums is None or since > sums.since:
            if not add:
                return
            self._waiting.pop(key, None)
            self.changed[key] = self._new(key, since, self._definitions.spec(made_at))
        if add:
            self._waiting[key].append((value, is_bandit))
            return
        sums = self._flush(key) or sums
        if sums is None or not sums.state.num:
            return
        if isinstance(sums, Lift):
            self.changed[key] = sums.without(value, is_bandit=is_bandit)
        else:
            self.changed[key] = sums.without(value)

    def _flush(self, key: Key) -> Sums | Lift | None:
        """Add the values that wait to be added; returns the sums."""
        waiting, sums = self._waiting.pop(key, None), self._of(key)
        if not waiting or sums is None:
            return sums
        values = np.array([value for value, _ in waiting])
        if isinstance(sums, Lift):
            self.changed[key] = sums.add(values, np.array([mine for _, mine in waiting]))
        else:
            self.changed[key] = sums.add(values)
        return self.changed[key]

    def _of(self, key: Key) -> Sums | Lift | None:
        if key in self.changed:
            return self.changed[key]
        if (held := self._held.get(key)) is not None:
            return held
        if key not in self._read:
            text = self._load(key)
            self._read[key] = None if text is None else unpacked(key.kind, text)
        return self._read[key]

    @staticmethod
    def _new(key: Key, since: int, spec: BanditSpec) -> Sums | Lift:
        bounds = None if key.of.startswith(METRIC) else spec.reward_range
        if key.of in (AGREES, MATCHED, WHOLE):
            bounds = (0.0, 1.0) if key.of == AGREES else None
        if key.kind != "lift":
            return Sums.new(since, bounds)
        chances = shares(spec)
        mine, own = chances[key.name], chances[BANDIT]
        return Lift.new(since, bounds, mine / (mine + own))


def standing(known: Configurations, stored: Mapping[Key, str]) -> Standing:
    """Return how the arms of a bandit stand, by the sums of their newest definition.

    Args:
        known: The configurations of the bandit.
        stored: The sums of its arms and lifts.
    """
    definitions = Definitions(known)
    spec, end = definitions.newest, definitions.end
    nothing = Estimated(0, None, None)

    def of(key: Key, alpha: float | None = None) -> Estimated:
        text = stored.get(key)
        sums = None if text is None else unpacked(key.kind, text)
        if sums is None or sums.since != definitions.since(end, key):
            return nothing
        if alpha is not None:
            return _estimated(replace(sums.state, alpha=alpha))
        return sums.estimated()

    def agreement(arm: ArmSpec | None) -> Agreement | None:
        """Return how often an arm and the bandit choose alike."""
        if arm is None or not (arm.shadow or arm.has_rule):
            return None
        whole, matched = of(Key("arm", arm.name, WHOLE)), of(Key("arm", arm.name, MATCHED))
        share = None
        if whole.mean is not None and matched.mean is not None and whole.mean > 0.0:
            share = matched.mean / whole.mean
        return Agreement(of(Key("arm", arm.name, AGREES)), share)

    def compared(name: str, part: str) -> Compared:
        lift = None if name == BANDIT else of(Key("lift", name, part))
        return Compared(of(Key("arm", name, part)), lift)

    chances = shares(spec)
    known_arms = {arm.name: arm for arm in spec.arms}
    names = [*known_arms, BANDIT]
    metrics = compared_metrics(spec)
    segments: list[str] = []
    if spec.segment is not None:
        found = {k.of.removeprefix(SEGMENT) for k in stored if k.of.startswith(SEGMENT)}
        segments = [  # not those of an earlier definition
            value
            for value in sorted(found)
            if any(of(Key("arm", name, SEGMENT + value)).num for name in names)
        ]
    watched = [*([""] if spec.guard.margin is not None else []), *spec.guard.metrics]

    def guarded(name: str) -> dict[str, Estimated]:
        if name != spec.guard.arm:
            return {}
        alpha = ALPHA / max(1, len(watched))
        return {m: of(Key("lift", name, METRIC + m if m else ""), alpha) for m in watched}

    arms = tuple(
        ArmStanding(
            name, chances.get(name, 0.0), of(Key("arm", name)),
            None if name == BANDIT else of(Key("lift", name)),
            {metric: compared(name, METRIC + metric) for metric in metrics},
            {value: compared(name, SEGMENT + value) for value in segments}, guarded(name),
            agreement(known_arms.get(name)),
        )
        for name in names
    )  # fmt: skip
    return Standing(arms if spec.arms else (), spec)


def by_bandit(found: Iterable[tuple[str, Kind, str, str]]) -> dict[str, dict[Key, str]]:
    """Return stored rows (bandit, kind, name, sums) by bandit."""
    rows: dict[str, dict[Key, str]] = defaultdict(dict)
    for uid, kind, name, text in found:
        rows[uid][Key.of_stored(kind, name)] = text
    return rows
