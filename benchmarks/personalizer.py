"""Rank and Reward beside Vowpal Wabbit's explorers on the same JSON and the same stream.

Each visit of a simulated shop is ranked, and its click or silence rewarded at once. Regret is in
percent of that of uniform choices, the mean over seeds. Vowpal Wabbit has the options that
Personalizer gave it (`--cb_explore_adf --epsilon 0.2 -q ::`), or one of its other explorers. Ours
is the bandit that the first Rank makes, in process and in lockstep; `doorway by SDK` is a server
that is called by an SDK of Personalizer, and trains beside the requests, so that its figure depends
on the machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.peers.personalizer.ours import served
from benchmarks.peers.personalizer.play import play
from benchmarks.peers.personalizer.vw import EXPLORERS, VwRanker
from benchmarks.report import arguments, report
from simulators.environments.shop import REPORT_SEEDS, WORLDS, shop_stream, shop_world

OURS, BY_SDK, THEIRS = "doorway", "doorway by SDK", "vw epsilon .2"
NEAR = 1.05  # of the best of all explorers


def _played(name: str, seed: int, world: str, steps: int) -> dict[str, Any]:
    stream = shop_stream(shop_world(world), seed=seed, horizon=steps)
    if name != OURS:
        return play(VwRanker(seed, EXPLORERS[name]), stream)
    with (
        tempfile.TemporaryDirectory(prefix="bandexa-loop-") as folder,
        served(Path(folder)) as ours,
    ):
        return play(ours, stream)


def main(argv: Sequence[str]) -> int:
    """Play the loops; returns 0 when the doorway is as good as it has to be."""
    parser = arguments("personalizer", __doc__)
    parser.add_argument("--steps", type=int, default=5000, help="calls of Rank")
    parser.add_argument("--seeds", type=int, default=3, help="streams")
    parser.add_argument("--world", default="shop", choices=list(WORLDS), help="the shop")
    parser.add_argument(
        "--policies", nargs="+", choices=[OURS, BY_SDK, *EXPLORERS], default=[OURS, *EXPLORERS]
    )
    given = parser.parse_args(argv)
    first, results = REPORT_SEEDS[0], {}
    for name in given.policies:
        started, rows = time.perf_counter(), []
        for seed in range(first, first + given.seeds):
            rows.append(_played(name, seed, given.world, given.steps))
            print(f"{name} seed {seed}: {rows[-1]['curve']}", file=sys.stderr, flush=True)
        results[name] = fmean(row["percent"] for row in rows)
        results[f"{name}: seconds"] = round(time.perf_counter() - started, 1)
    wrong = []
    vw = {name: results[name] for name in EXPLORERS if name in results}
    if OURS in results and THEIRS in vw:
        if results[OURS] > vw[THEIRS]:
            wrong.append(f"{OURS} {results[OURS]:.1f} %, {THEIRS} {vw[THEIRS]:.1f} %")
        best = min(vw, key=lambda name: vw[name])
        if results[OURS] > NEAR * vw[best]:
            wrong.append(f"{OURS} {results[OURS]:.1f} %, the best explorer {best} {vw[best]:.1f} %")
    claim = "Rank and Reward learn as well as the learner that Personalizer had"
    return report("personalizer", results, given.json, wrong=wrong, claim=claim)
