"""Measures decisions in process, each with its propensity: alone, and 16 drawn together.

A decision chooses one of 50 actions (or of 10,000) for a context of 16 numbers, by a panel of 64.
`own_noise` is `per_action` as bandits of edition 1 have it, with a noise variance for each action.
What counts is CPU time, the median of the turns, which all scenes take one after the other. With
`--against` those of another checkout run in turns with them, and the ratio of the costs is printed
with its 95 % interval.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.decision_turns import ENCODERS, scenes
from benchmarks.intervals import ratio_of_pairs
from benchmarks.report import Target, arguments, report
from benchmarks.server import ROOT, code_of

_TURN_S, _TURNS = 0.05, 11
_FIRST_STEPS = 4
_LINEAR = [name for name in ENCODERS if name in ("concat", "interactions", "bilinear")]
TARGETS = {
    "per_action_alone": Target(70.0, 45.0, unit="us"),
    "per_action_together": Target(45.0, 30.0, unit="us"),
    "per_action_10k_alone": Target(3000.0, unit="us"),
    **{f"{name}_alone": Target(80.0, unit="us") for name in _LINEAR},
    **{f"{name}_together": Target(45.0, unit="us") for name in _LINEAR},
}


class _Side:
    """A process that decides with the code of one checkout."""

    def __init__(self, worker: subprocess.Popen[str]) -> None:
        self._worker = worker
        self._steps: dict[str, int] = {}

    def turn_us(self, scene: str) -> float:
        """Return the CPU time of a decision; the first turn of a scene counts its steps."""
        steps = self._steps.get(scene)
        if steps is None:
            self._ask(scene, _FIRST_STEPS)
            _, num = scenes()[scene]
            decision_us = self._ask(scene, _FIRST_STEPS)
            steps = self._steps[scene] = max(_FIRST_STEPS, int(1e6 * _TURN_S / decision_us / num))
        return self._ask(scene, steps)

    def _ask(self, scene: str, steps: int) -> float:
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.write(json.dumps({"scene": scene, "steps": steps}) + "\n")
        self._worker.stdin.flush()
        return 1e6 * float(json.loads(self._worker.stdout.readline()))


@contextmanager
def _side(root: Path) -> Iterator[_Side]:
    command = [sys.executable, "-P", str(Path(__file__).with_name("decision_turns.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
        env=os.environ | code_of(root),
    ) as worker:  # fmt: skip
        try:
            assert worker.stdout is not None
            imported = json.loads(worker.stdout.readline())
            if Path(imported).resolve() != root:
                raise RuntimeError(f"the code of {root} was to be measured, not that of {imported}")
            yield _Side(worker)
        finally:
            worker.kill()


def measure(roots: Sequence[Path], wanted: str, turns: int) -> dict[str, list[list[float]]]:
    """Return the CPU time of a decision in each scene, by checkout and turn, in microseconds."""
    with ExitStack() as stack:
        sides = [stack.enter_context(_side(root)) for root in roots]
        found: dict[str, list[list[float]]] = {}
        for scene in scenes():
            if wanted not in scene:
                continue
            for side in sides:
                side.turn_us(scene)
            costs: list[list[float]] = [[] for _ in sides]
            for turn in range(turns):
                for place in range(len(sides)) if turn % 2 else reversed(range(len(sides))):
                    costs[place].append(sides[place].turn_us(scene))
            found[scene] = costs
    return found


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("decisions", __doc__)
    parser.add_argument("--against", type=Path, help="root of another checkout")
    parser.add_argument("--turns", type=int, default=_TURNS, help=f"default {_TURNS}")
    parser.add_argument("--only", default="", help="part of the names of the scenes that are run")
    given = parser.parse_args(argv)
    roots = [ROOT] + ([] if given.against is None else [given.against.resolve()])
    results: dict[str, float] = {}
    for scene, costs in measure(roots, given.only, given.turns).items():
        results[scene] = statistics.median(costs[0])
        if len(costs) > 1:
            ratio = ratio_of_pairs(costs[0], costs[1])
            results[f"{scene}_there"] = statistics.median(costs[1])
            results |= {f"{scene}_ratio_{end}": part for end, part in ratio._asdict().items()}
    targets = {name: target for name, target in TARGETS.items() if given.only in name}
    return report("decisions", results, given.json, targets=targets)
