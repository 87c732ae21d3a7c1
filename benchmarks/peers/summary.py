"""Means over seeds, and paired differences with their intervals.

A paired difference is that of two policies on the same seed's stream, in points of the uniform
policy's regret (its regret is 100). Its 95 % interval is that of Student's t with one degree of
freedom less than there are seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from scipy import stats

from benchmarks.peers.results import Row

_FIGURES = ("percent", "best_share", "gain_share", "earned_share", "cpu_s")


class Difference(NamedTuple):
    """The mean of paired differences, and the ends of its 95 % interval; None with one pair."""

    mean: float
    low: float | None
    high: float | None
    pairs: int


def paired(mine: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """Return the mean of mine - other over the seeds that both have.

    Raises:
        ValueError: No seed is in both.
    """
    found = [mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys())]
    if not found:
        raise ValueError("no seed is in both")
    mean = statistics.fmean(found)
    if len(found) == 1:
        return Difference(mean, None, None, 1)
    error = statistics.stdev(found) / len(found) ** 0.5
    reach = float(stats.t.ppf(0.975, len(found) - 1)) * error
    return Difference(mean, mean - reach, mean + reach, len(found))


def check_streams(rows: Iterable[Row]) -> None:
    """Refuse runs of one problem and seed that met different streams (ValueError)."""
    seen: dict[tuple[str, int, int], str] = {}
    for row in rows:
        place = row["problem"], row["seed"], row["steps"]
        if seen.setdefault(place, row["stream"]) != row["stream"]:
            raise ValueError(f"{place[0]}, seed {place[1]}: the policies met different streams")


def summarise(
    rows: Sequence[Row], seeds: Iterable[int], against: Mapping[str, str | None]
) -> list[Row]:
    """Return one line for each problem and policy, with means over the given seeds.

    `ratio` is the sum of the regret over that of the undisturbed problem (`against`) on the same
    seeds. A policy that could not play has the reason under `unavailable`.
    """
    wanted = set(seeds)
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["seed"] in wanted:
            grouped.setdefault((row["problem"], row["policy"]), []).append(row)
    out = []
    for (problem, policy), mine in grouped.items():
        played = [row for row in mine if "unavailable" not in row]
        line: Row = {"problem": problem, "policy": policy, "seeds": len(played)}
        if len(played) < len(mine):
            line["unavailable"] = next(r["unavailable"] for r in mine if "unavailable" in r)
        for figure in _FIGURES:
            line[figure] = _mean([row[figure] for row in played])
        percents = [row["percent"] for row in played]
        line["error"] = (
            statistics.stdev(percents) / len(percents) ** 0.5 if len(percents) > 1 else None
        )
        line["ratio"] = _ratio(played, grouped.get((against.get(problem) or "", policy), []))
        out.append(line)
    return out


def strongest(rows: Sequence[Row], problem: str, policies: Iterable[str], seeds: set[int]) -> str:
    """Return the policy with the least mean regret on these seeds.

    Raises:
        ValueError: None of them played all of the seeds.
    """
    means = {}
    for policy in policies:
        found = _percents(rows, problem, policy, seeds)
        if found.keys() == seeds:
            means[policy] = statistics.fmean(found.values())
    if not means:
        raise ValueError(f"{problem}: no policy played the seeds {sorted(seeds)}")
    return min(means, key=lambda policy: means[policy])


def compare(
    rows: Sequence[Row],
    problems: Iterable[str],
    of: str,
    rivals: Mapping[str, Sequence[str]],
    picked_on: set[int],
    reported: set[int],
) -> list[Row]:
    """Compare a policy with the strongest of each group of rivals, per problem.

    The strongest is picked on seeds that are not reported. A problem on which the policy or all of
    a group did not play has no line.
    """
    out: list[Row] = []
    for problem in problems:
        mine = _percents(rows, problem, of, reported)
        for group, names in rivals.items():
            try:
                rival = strongest(rows, problem, names, picked_on)
                found = paired(mine, _percents(rows, problem, rival, reported))
            except ValueError:
                continue
            out.append({"problem": problem, "group": group, "rival": rival} | found._asdict())
    return out


def _percents(rows: Sequence[Row], problem: str, policy: str, seeds: set[int]) -> dict[int, float]:
    return {
        row["seed"]: row["percent"]
        for row in rows
        if row["problem"] == problem
        and row["policy"] == policy
        and row["seed"] in seeds
        and row.get("percent") is not None
    }


def _ratio(disturbed: Sequence[Row], plain: Sequence[Row]) -> float | None:
    known = {row["seed"]: row["regret"] for row in plain if "unavailable" not in row}
    pairs = [(row["regret"], known[row["seed"]]) for row in disturbed if row["seed"] in known]
    below = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / below if below > 0.0 else None


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
