"""Adds learned values, in their order, to the sums of actions and arms, and of the lift over arms.

Runs on the follower's thread. Every sum lasts in the aggregates' file, so that a restart goes on
where the last one ended.

A comparison belongs to one definition of an arm: with another rule, other shares, another range or
other weights of metrics it begins anew. Decisions of before, whose values come late, do not count
for it. Where units stay in one arm, only the first decision of each unit counts for the arms: the
arm of a later one is no new draw.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from bandexa_core.arms import shares
from bandexa_core.log.configurations import Configurations
from bandexa_core.log.rows import Metrics
from bandexa_core.schema import from_bytes
from bandexa_core.schema.objects import flatten
from bandexa_core.spec import BanditSpec
from bandexa_core.spec.arms import BANDIT
from service.observe.dashboard.sums import (
    AGREES,
    MATCHED,
    METRIC,
    SEGMENT,
    SEPARATOR,
    WHOLE,
    Key,
    Lift,
    Sums,
    unpacked,
)
from service.store.records import CountedValue

MAX_SEGMENTS = 12  # values of a segment; the later ones are counted together
OTHERS = "(others)"
MISSING = "(missing)"
LONGEST = 64  # characters of a segment's value


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
