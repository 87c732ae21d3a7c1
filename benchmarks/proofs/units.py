"""Intervals of dependent decisions: how often they miss where units have one draw, and how wide.

Units make several decisions each, in any order. Each has its own chance of a reward, from beta(.3,
.7), whatever is served: the value of every action is .3, and no lift is there. All decisions of a
unit are in one arm, and have one action. What counts the first decision of each unit is to hold;
what counts all decisions is shown beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, LogPosition
from bandexa_core.log.configurations import Configurations
from bandexa_core.spec import ActionsSpec, BanditSpec, ContextSpec
from bandexa_core.spec.arms import BANDIT, ArmSpec
from service.observe.dashboard.comparing import Comparison
from service.observe.dashboard.standings import standing
from service.observe.dashboard.sums import Key, packed
from service.store.records import CountedValue
from service.tools.challenge.scoring import compared
from service.tools.evaluate.cases import Cases
from service.tools.evaluate.policies import OneAction
from service.tools.evaluate.report import evaluate
from service.tools.evaluate.scoring import Wanted

MEAN = 0.3  # of beta(.3, .7)
CONTROL = 0.1
ACTIONS = ("a0", "a1")
LIMIT = 0.05


class Decision(NamedTuple):
    """A decision of a unit.

    Attributes:
        unit: Whose it is.
        draw: The unit's number, uniform from 0 to 1.
        is_first: Whether the unit made none before.
        value: What it earned.
    """

    unit: int
    draw: float
    is_first: bool
    value: float


class Seen(NamedTuple):
    """What became of an interval: whether it ever missed, and its width in the end."""

    missed: bool
    width: float


def decisions(rng: np.random.Generator, num_units: int, each: int) -> list[Decision]:
    """Return the decisions of so many units, in any order."""
    chances: NDArray[np.float64] = rng.beta(MEAN, 1.0 - MEAN, num_units)
    draws = rng.random(num_units)
    known: set[int] = set()
    found = []
    for unit in rng.permutation(np.repeat(np.arange(num_units), each)).tolist():
        value = float(rng.random() < chances[unit])
        found.append(Decision(unit, float(draws[unit]), unit not in known, value))
        known.add(unit)
    return found


def lift(made: Sequence[Decision], *, firsts: bool) -> Seen:
    """Return the interval of the lift over a control of a tenth, of which the truth is 0.

    It is looked at every 200 first decisions, or every 500 of all.
    """
    spec = BanditSpec(
        context=ContextSpec(shape=(1,)), actions=ActionsSpec(), reward_range=(0.0, 1.0),
        arms=(ArmSpec(name="control", share=CONTROL, action="a0"),),
        sticky="unit" if firsts else None,
    )  # fmt: skip
    known, sums = Configurations(spec), dict[Key, str]()
    counted = [each for each in made if each.is_first or not firsts]
    part, missed, width = 200 if firsts else 500, False, 0.0
    for start in range(0, len(counted), part):
        comparison = Comparison(known, sums.get)
        comparison.take(
            CountedValue(
                LogPosition(start + number + 1), 0.0, None, each.value, 0.0, 0.0, made_at=0,
                action=ActionId("a0"), arm="control" if each.draw < CONTROL else BANDIT,
                is_first=each.is_first,
            )
            for number, each in enumerate(counted[start : start + part])
        )  # fmt: skip
        sums |= {key: packed(found) for key, found in comparison.changed.items()}
        interval = next(
            arm.lift.interval
            for arm in standing(known, sums).arms
            if arm.lift is not None and arm.lift.interval is not None
        )
        missed |= not interval.low <= 0.0 <= interval.high
        width = interval.high - interval.low
    return Seen(missed, width)


def exported(made: Sequence[Decision], *, marked: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of an export: each unit has an action, drawn with a half for each."""
    lines = [{"id": name, "enabled": True} for name in ACTIONS]
    yield {
        "kind": "bandit", "bandit": "units", "position": len(made),
        "spec": {"reward_range": [0.0, 1.0], "sticky": "action"},
    }  # fmt: skip
    yield {"kind": "actions", "position": 0, "actions": lines}
    for number, each in enumerate(made):
        row = {
            "kind": "decision", "row": number + 1, "decision_id": f"d{number}", "time": number,
            "context": [0.0], "candidates": None, "action": ACTIONS[each.draw < 0.5],
            "propensity": 0.5, "activated": True, "value": each.value,
        }  # fmt: skip
        yield row | ({"first_of_unit": each.is_first} if marked else {})


def value(made: Sequence[Decision], *, firsts: bool) -> Seen:
    """Return the interval of the value of an action in an evaluation, looked at in the end."""
    rows = exported(made, marked=firsts)
    (found,) = evaluate(rows, [OneAction("a1")], Wanted(low=0.0, high=1.0)).policies
    assert found.interval is not None
    low, high = found.interval
    return Seen(not low <= MEAN <= high, high - low)


def challenger(made: Sequence[Decision], *, firsts: bool) -> Seen:
    """Return the interval of what a challenger has over what was served, looked at in the end."""
    cases = Cases(exported(made, marked=firsts))
    score = compared(cases, {"a1": OneAction("a1")}, {"a1": 1}, 1)["a1"]
    assert score.low is not None
    assert score.high is not None
    return Seen(not score.low <= 0.0 <= score.high, score.high - score.low)


INTERVALS = {"lift": lift, "evaluation": value, "challenger": challenger}


def simulate(runs: int, num_units: int = 1000, each: int = 10) -> dict[str, float]:
    """Return the shares of runs that missed and the mean widths, by interval and what counts.

    Intervals of all decisions are those of every fifth run: they miss often enough.
    """
    seen: dict[str, list[Seen]] = {}
    for seed in range(runs):
        made = decisions(np.random.default_rng((134, seed)), num_units, each)
        for name, interval in INTERVALS.items():
            for counted in ("first of each unit", "all")[: 1 + (seed % 5 == 0)]:
                found = interval(made, firsts=counted != "all")
                seen.setdefault(f"{name}, {counted}", []).append(found)
    results: dict[str, float] = {}
    for name, outcomes in seen.items():
        results[f"{name}: missed"] = float(np.mean([each.missed for each in outcomes]))
        results[f"{name}: width"] = float(np.mean([each.width for each in outcomes]))
    return results


def broken(results: dict[str, float]) -> list[str]:
    """Return what does not hold: intervals of first decisions that miss in more than 5 %."""
    return [
        f"{name}: {share:.3f}"
        for name, share in results.items()
        if name.endswith("first of each unit: missed") and share > LIMIT
    ]
