"""The regret table: every problem and every policy, with means over seeds.

The full table takes about 40 minutes on two cores; `--quick` plays short horizons and two seeds.
Runs are in process, with the serving model and the rounds of the service (`in_process`). `--over-
http` also plays the first seed of one problem per workload against a server and compares all
decisions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bandexa_client import NO_RETRY, BanditClient
from benchmarks.in_process import InProcessClient
from benchmarks.regret_problems import PROBLEMS, Problem, fashion
from benchmarks.report import arguments, write
from benchmarks.server import temporary_server
from simulators.environments import FASHION_FOLDER, ImagesUnavailableError
from simulators.policies import PLANS, bandit_spec
from simulators.runner import Run, play, upsert_actions

FIRST_SEED = 100


def run_one(problem: Problem, policy: str, seed: int, horizon: int) -> Run:
    """Play one policy with one seed in process."""
    torch.set_num_threads(1)
    environment = problem.environment(seed, horizon)
    bandit, body = _bandit(problem, policy, environment, seed)
    client = InProcessClient(bandit, body, environment.action_ids, environment.action_features)
    run = Run(policy, seed, horizon)
    play(
        client, environment, run, bandit=bandit, live=False, delay=problem.delay,
        on_step=lambda: None,
    )  # fmt: skip
    return run


def over_http(problem: Problem, policy: str, seed: int, horizon: int) -> Run:
    """Play the same against a private server."""
    environment = problem.environment(seed, horizon)
    bandit, body = _bandit(problem, policy, environment, seed)
    run = Run(policy, seed, horizon)
    with temporary_server() as server, BanditClient(server.address, retry=NO_RETRY) as client:
        client.put_bandit(bandit, body)
        upsert_actions(client, environment, bandit)
        play(
            client, environment, run, bandit=bandit, live=False, delay=problem.delay,
            on_step=lambda: None,
        )  # fmt: skip
    return run


def _bandit(
    problem: Problem, policy: str, environment: Any, seed: int
) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = bandit_spec(PLANS[problem.workload][policy], environment, seed=seed)
    for section, values in problem.overrides.items():
        body[section] = {**body.get(section, {}), **values}
    return f"{problem.name}-{policy}-{seed}", body


def _job(job: tuple[Problem, str, int, int]) -> dict[str, Any]:
    problem, policy, seed, horizon = job
    run = run_one(problem, policy, seed, horizon)
    return {
        "problem": problem.name, "policy": policy, "seed": seed, "steps": run.steps,
        "cumulative_regret": run.regret, "percent_of_uniform": run.percent_of_uniform,
        "ma_reward": run.ma_reward, "rounds": run.num_train_rounds, "wall_s": run.wall_s,
    }  # fmt: skip


def summarise(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean, standard error and comparisons, per problem and policy.

    `wins` counts seeds with less regret than the problem's first policy; `ratio` is the mean regret
    over that of the undisturbed problem on the same seeds. None where there is nothing to compare.
    """
    out = []
    regret_of = {(r["problem"], r["policy"], r["seed"]): r["cumulative_regret"] for r in runs}
    for problem in dict.fromkeys(run["problem"] for run in runs):
        mine = [run for run in runs if run["problem"] == problem]
        policies = list(dict.fromkeys(run["policy"] for run in mine))
        first = {r["seed"]: r["cumulative_regret"] for r in mine if r["policy"] == policies[0]}
        for policy in policies:
            rows = [run for run in mine if run["policy"] == policy]
            regrets = [run["cumulative_regret"] for run in rows]
            error = statistics.stdev(regrets) / len(regrets) ** 0.5 if len(regrets) > 1 else 0.0
            shares = [run["percent_of_uniform"] for run in rows]
            plain = [
                regret_of.get((PROBLEMS[problem].against, policy, run["seed"])) for run in rows
            ]
            known = [value for value in plain if value is not None]
            out.append(
                {
                    "problem": problem,
                    "policy": policy,
                    "seeds": len(rows),
                    "mean": statistics.fmean(regrets),
                    "standard_error": error,
                    "percent_of_uniform": statistics.fmean(shares),
                    "wins": sum(r["cumulative_regret"] < first[r["seed"]] for r in rows)
                    if policy != policies[0]
                    else None,
                    "ratio": sum(regrets) / sum(known) if len(known) == len(rows) else None,
                }
            )
    return out


def markdown(summary: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| problem | policy | seeds | regret | % of uniform | wins | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['problem']} | {row['policy']} | {row['seeds']} | {row['mean']:.1f} +- "
        f"{row['standard_error']:.1f} | {row['percent_of_uniform']:.2f} | "
        f"{'' if row['wins'] is None else row['wins']} | "
        f"{'' if row['ratio'] is None else format(row['ratio'], '.2f')} |"
        for row in summary
    ]
    return "\n".join(lines)


def compare_with_http(seed: int, horizon: int) -> list[dict[str, Any]]:
    """Play one problem per workload both ways; returns whether every decision was the same."""
    out = []
    for name in ("synthetic", "mnist", "two-tower", "wheel-0.5"):
        problem = PROBLEMS[name]
        here = run_one(problem, "neural_linear_ts", seed, horizon)
        there = over_http(problem, "neural_linear_ts", seed, horizon)
        same = here.chosen == there.chosen and here.rewards == there.rewards
        out.append({"problem": name, "steps": horizon, "identical": same})
    return out


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Problem]]:
    """Return the options and the problems to play."""
    parser = arguments("regret", __doc__)
    parser.add_argument("--problems", nargs="*", choices=list(PROBLEMS), help="default: all")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--seeds", type=int, help="instead of each problem's own number")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, two seeds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data-dir", type=Path, help="folder of the Fashion-MNIST files")
    parser.add_argument("--over-http", action="store_true", help="compare with a real server too")
    given = parser.parse_args(argv)
    problems = {name: PROBLEMS[name] for name in given.problems or PROBLEMS}
    if "fashion" in problems:
        folder = given.data_dir or FASHION_FOLDER
        problems["fashion"] = replace(problems["fashion"], make=partial(fashion, folder=folder))
        try:
            problems["fashion"].environment(given.first_seed, 1)
        except ImagesUnavailableError as error:
            if given.problems or given.data_dir:
                parser.error(str(error))
            print(f"fashion is left out: {error}", file=sys.stderr)
            del problems["fashion"]
    return given, problems


def _play(given: argparse.Namespace, problems: Mapping[str, Problem]) -> list[dict[str, Any]]:
    """Play every problem with every policy and seed."""
    jobs = []
    for problem in problems.values():
        seeds = given.seeds or (2 if given.quick else problem.seeds)
        horizon = problem.horizon // 10 if given.quick else problem.horizon
        jobs += [
            (problem, policy, given.first_seed + index, horizon)
            for policy in problem.policies
            for index in range(seeds)
        ]
    runs = []
    with ProcessPoolExecutor(given.workers) as pool:
        for run in pool.map(_job, jobs):
            runs.append(run)
            print(
                f"{run['problem']} {run['policy']} seed {run['seed']}: regret "
                f"{run['cumulative_regret']:.1f} in {run['wall_s']:.1f} s",
                file=sys.stderr,
            )
    return runs


def main(argv: Sequence[str]) -> int:
    """Play the table; 0 when every problem was played and HTTP, if compared, decided alike."""
    given, problems = _parse(argv)
    configurations = {
        name: _configurations(problem, given.first_seed) for name, problem in problems.items()
    }
    started = time.perf_counter()
    runs = _play(given, problems)
    wall_s = time.perf_counter() - started
    summary = summarise(runs)
    compared: list[dict[str, Any]] = []
    if given.over_http:
        compared = compare_with_http(given.first_seed, 200 if given.quick else 500)
    print(markdown(summary))
    print("\nConfigurations of the first seed; a key that is absent has the service's default:")
    for name, bodies in configurations.items():
        for policy, body in bodies.items():
            print(f"{name} {policy}: {json.dumps(body, sort_keys=True)}")
    for row in compared:
        print(f"over HTTP, {row['problem']}: identical decisions: {row['identical']}")
    write(
        "regret", {f"{row['problem']} {row['policy']}": row["mean"] for row in summary}, given.json,
        wall_s=wall_s, summary=summary, runs=runs, configurations=configurations,
        over_http=compared,
    )  # fmt: skip
    return 0 if all(row["identical"] for row in compared) else 1


def _configurations(problem: Problem, seed: int) -> dict[str, Any]:
    environment = problem.environment(seed, problem.horizon)
    return {p: _bandit(problem, p, environment, seed)[1] for p in problem.policies}
