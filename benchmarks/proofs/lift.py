"""Proves that the counted lift covers the truth: a bandit that learns, beside a control.

In each world a served model with a control of a tenth decides and learns, and its rows go through
the dashboard's sums as those of a store do. The truth is that of the bandit as it was at each
decision: its probabilities are known, and so are the means of the actions. The interval, looked at
after every part of the rows, has to cover the mean of the truth so far.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.arms import Asked
from bandexa_core.ids import ActionId, ActionSlot, DecisionId, LogPosition
from bandexa_core.log.configurations import Configurations
from bandexa_core.log.rows import LearnRow, row_by_row
from benchmarks.in_process import InProcessClient
from benchmarks.proofs.units import broken, simulate
from benchmarks.report import arguments, report
from service.observe.dashboard.comparing import Comparison
from service.observe.dashboard.standings import standing
from service.observe.dashboard.sums import Key, packed
from service.store.records import CountedValue

SHARE, CONTROL = 0.1, 0
MEANS = np.array([0.30, 0.36, 0.33, 0.28])  # of the actions; at best the lift is .06
LOOK_EVERY = 250


class World(NamedTuple):
    """What became of one world.

    Attributes:
        covered: Whether the interval covered the truth whenever it was looked at.
        truth: The mean lift of the bandit over all decisions.
        low, high: The last interval.
        seen: After how many decisions it was above 0; None: never.
    """

    covered: bool
    truth: float
    low: float
    high: float
    seen: int | None


def world(seed: int, num: int) -> World:
    """Return what becomes of a world of so many decisions."""
    body: dict[str, Any] = {
        "policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"},
        "reward_range": [0, 1], "seed": seed,
        "arms": [{"name": "control", "share": SHARE, "action": f"a{CONTROL}"}],
    }  # fmt: skip
    ids = [f"a{number}" for number in range(len(MEANS))]
    client = InProcessClient(f"lift-{seed}", body, ids, None)
    model, rng = client.model, np.random.default_rng((13, seed))
    known = Configurations(model.spec)
    sums: dict[Key, str] = {}
    asked = Asked(None, None, lambda action: ids.index(action))
    truths: list[float] = []
    rows: list[CountedValue] = []
    covered, seen, low, high = True, None, 0.0, 0.0
    for number in range(num):
        truths.append(_step(model, rng, number, asked, rows))
        if len(rows) == LOOK_EVERY or number + 1 == num:
            comparison = Comparison(known, sums.get)
            comparison.take(rows)
            sums |= {key: packed(found) for key, found in comparison.changed.items()}
            rows = []
            lift = standing(known, sums).arms[0].lift
            assert lift is not None
            assert lift.interval is not None
            low, high = lift.interval
            covered &= low <= float(np.mean(truths)) <= high
            if seen is None and low > 0.0:
                seen = number + 1
    return World(covered, float(np.mean(truths)), low, high, seen)


def _step(
    model: Any, rng: np.random.Generator, number: int, asked: Asked, rows: list[CountedValue]
) -> float:
    """Decide and learn once; returns the bandit's lift at this decision."""
    x: NDArray[np.float32] = rng.normal(size=2).astype(np.float32)
    name, candidates = DecisionId(f"d{number}"), model.enabled_candidates()
    choice = model.select(name, x, candidates, asked=asked)
    mixed = choice.all_propensities()
    mixed[CONTROL] -= SHARE
    own = mixed / (1.0 - SHARE)
    served = int(choice.chosen[0])
    value = float(rng.random() < MEANS[served])
    position = LogPosition(model.position + 1)
    rows.append(
        CountedValue(
            position, 0.0, None, value, 0.0, 0.0, made_at=int(model.position),
            action=ActionId(f"a{served}"), arm=choice.arm,
        )
    )  # fmt: skip
    row = LearnRow(
        position, 0.0, name, position, None, value, x, np.zeros(0, np.float32), ActionSlot(served)
    )
    model.apply(row_by_row(row), lambda version: None)
    return float(own @ MEANS - MEANS[CONTROL])


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("lift", __doc__)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--rows", type=int, default=12_000, help="decisions in each")
    parser.add_argument(
        "--units", type=int, metavar="RUNS",
        help="instead: so many runs in which the decisions of a unit depend on each other",
    )  # fmt: skip
    given = parser.parse_args(argv)
    if given.units is not None:
        units = simulate(given.units)
        claim = "intervals of the first decision of each unit miss in at most 5 % of the runs"
        return report("lift", {"runs": given.units} | units, given.json, wrong=broken(units),
                      claim=claim)  # fmt: skip
    found = [world(seed, given.rows) for seed in range(given.worlds)]
    num = sum(each.covered for each in found)
    seen = [each.seen for each in found if each.seen is not None]
    results: dict[str, Any] = {
        "worlds": given.worlds, "decisions in each": given.rows, "always covered": num,
        "true lift": float(np.mean([each.truth for each in found])),
        "width": float(np.mean([each.high - each.low for each in found])),
        "seen above 0": len(seen), "median decisions until then": float(np.median(seen or [0])),
    }  # fmt: skip
    wrong = [] if num >= 0.95 * given.worlds else [f"covered in {num} of {given.worlds} worlds"]
    claim = "the interval covers the truth in 95 % of the worlds, at any time"
    return report("lift", results, given.json, wrong=wrong, claim=claim)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
