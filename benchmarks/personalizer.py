"""Rank and Reward beside Vowpal Wabbit's explorers on the same JSON and the same stream.

Each visit of a simulated shop is ranked, and its click or silence rewarded at once. Regret is in
percent of that of uniform choices, the mean over seeds. Vowpal Wabbit has the options that
Personalizer gave it (`--cb_explore_adf --epsilon 0.2 -q ::`), and its best explorer, picked on
seeds of its own. Ours is the bandit that the first Rank makes, in process and in lockstep.
`--sdk` plays the first stream once more by an SDK of Personalizer against a server, which trains
beside the requests, so that this figure depends on the machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.peers.personalizer.ours import InProcessRanker, served
from benchmarks.peers.personalizer.play import play
from benchmarks.peers.personalizer.vw import EXPLORERS, VwRanker
from benchmarks.report import arguments, report
from simulators.environments.shop import REPORT_SEEDS, WORLDS, shop_stream, shop_world

OURS, BY_SDK, THEIRS = "doorway", "doorway by SDK", "vw epsilon .2"
PICK_SEEDS = range(50, 53)
NEAR = 1.05  # of the best explorer


def played(name: str, seed: int, world: str, steps: int) -> dict[str, Any]:
    """Return what `play` measured of one policy on one stream."""
    stream = shop_stream(shop_world(world), seed=seed, horizon=steps)
    if name == OURS:
        return play(InProcessRanker("loop", seed), stream)
    if name in EXPLORERS:
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
    parser.add_argument("--seeds", type=int, default=5, help="streams that are reported")
    parser.add_argument("--world", default="shop", choices=list(WORLDS), help="the shop")
    parser.add_argument(
        "--policies", nargs="+", choices=[OURS, BY_SDK, *EXPLORERS],
        help="play these alone, and pick none",
    )  # fmt: skip
    parser.add_argument("--sdk", action="store_true", help="also play the first stream by the SDK")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    results: dict[str, float] = {}

    def mean_of(name: str, seeds: Iterable[int], measure: str) -> float:
        started, rows = time.perf_counter(), []
        for seed in seeds:
            rows.append(played(name, seed, given.world, given.steps))
            line = f"{measure} seed {seed}: {rows[-1]['percent']:.2f} {rows[-1]['curve']}"
            print(line, file=sys.stderr, flush=True)
        results[measure] = fmean(row["percent"] for row in rows)
        results[f"{measure}: seconds"] = round(time.perf_counter() - started, 1)
        return results[measure]

    first = REPORT_SEEDS[0]
    seeds = range(first, first + given.seeds)
    if given.policies:
        names = given.policies
    else:
        best = min(EXPLORERS, key=lambda name: mean_of(name, PICK_SEEDS, f"{name}, picking"))
        names = list(dict.fromkeys([OURS, THEIRS, best]))
    for name in names:
        mean_of(name, seeds, name)
    if given.sdk:
        mean_of(BY_SDK, [first], BY_SDK)
    claim = "Rank and Reward learn as well as the learner that Personalizer had"
    return report("personalizer", results, given.json, wrong=_wrong(results), claim=claim)


def _wrong(results: dict[str, float]) -> list[str]:
    """Return where the doorway has more regret than it may, of what was played on one stream."""
    if OURS not in results:
        return []
    wrong, ours = [], results[OURS]
    if ours > results.get(THEIRS, ours):
        wrong.append(f"{OURS} {ours:.1f} %, {THEIRS} {results[THEIRS]:.1f} %")
    for name in EXPLORERS:
        if ours > NEAR * results.get(name, ours):
            wrong.append(f"{OURS} {ours:.1f} %, {name} {results[name]:.1f} %")
    return wrong
