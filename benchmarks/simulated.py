"""Measures a simulation of `synthetic` over HTTP against the same steps in process.

One policy and seed play in lockstep (selects, rewards and training rounds) against a server and
against the same serving model without HTTP and store (`in_process`). Both choose the same actions,
so the difference is the cost of HTTP, store and a second process. The figures have no target.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.regret import over_http, run_one
from benchmarks.regret_problems import PROBLEMS
from benchmarks.report import arguments, report

_POLICY, _SEED = "neural_linear_ts", 100


def measure(steps: int) -> dict[str, float]:
    """Return the figures."""
    problem = PROBLEMS["synthetic"]
    started = time.perf_counter()
    here = run_one(problem, _POLICY, _SEED, steps)
    between = time.perf_counter()
    there = over_http(problem, _POLICY, _SEED, steps)
    ended = time.perf_counter()
    in_process_s, http_s = between - started, ended - between
    return {
        "http_over_in_process": http_s / in_process_s,
        "in_process_steps_per_s": steps / in_process_s,
        "http_steps_per_s": steps / http_s,
        "same_choices": float(here.chosen == there.chosen),
    }


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("simulated", __doc__)
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args(argv)
    return report("simulated", measure(given.steps), given.json)
