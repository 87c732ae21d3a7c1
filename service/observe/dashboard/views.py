"""The answers of the dashboard's calls, from the aggregates: plain numbers, no HTTP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from service.observe.counters import SECONDS
from service.observe.dashboard.aggregates import DELAYS_S
from service.observe.dashboard.sums import top_actions
from service.serving.standing import EarnedByAction
from service.store.sqlite.aggregates import HOUR, MINUTE, REST, SUMS, AggregateReader, Sums

RANGES: dict[str, tuple[int, int]] = {  # length and step in seconds; length 0: no beginning
    "15m": (900, 10), "1h": (3600, 60), "6h": (21600, 300), "1d": (86400, 900),
    "7d": (604800, 3600), "30d": (2592000, 14400), "all": (0, 3600),
}  # fmt: skip
POINTS = 400  # at most, in the range without a beginning
TOP = 8  # actions that are drawn by name
NORMAL_95 = 1.959964

Numbers = list[float | None]


def ratio(top: float, bottom: float) -> float | None:
    """Return top / bottom, None for 0 / 0."""
    return top / bottom if bottom else None


def summaries(aggregates: AggregateReader, uids: Sequence[str], now: float) -> list[dict[str, Any]]:
    """Return the lines of bandits in the overview.

    The rates cover the last hour, or all time when the last hour had no traffic.
    """
    minute = int(now // MINUTE) * MINUTE
    start = minute - 59 * MINUTE
    totals, minutes = aggregates.sums(uids, 0, HOUR), aggregates.sums(uids, start, MINUTE)
    times = list(range(start, minute + MINUTE, MINUTE))
    nothing = (0, 0, 0, 0, 0.0)
    return [_summary(totals.get(uid, [nothing])[0], minutes.get(uid, []), times) for uid in uids]


def _summary(whole: Sums, minutes: list[Sums], times: list[int]) -> dict[str, Any]:
    _, decisions, all_chosen, rewards, all_value = whole
    rows = {at: (selects, num, value) for at, selects, _, num, value in minutes}
    selects, chosen, num, value = (
        sum(row[1] for row in minutes), sum(row[2] for row in minutes),
        sum(row[3] for row in minutes), sum(row[4] for row in minutes),
    )  # fmt: skip
    is_recent = bool(chosen or num)
    nothing = (0, 0, 0.0)
    return {
        "join_rate": ratio(num, chosen) if is_recent else ratio(rewards, all_chosen),
        "reward_mean": ratio(value, num) if is_recent else ratio(all_value, rewards),
        "decisions": decisions,
        "rewards": rewards,
        "last_hour": {"selects": selects, "rewards": num, "reward_mean": ratio(value, num)},
        "spark": {
            "time": times,
            "selects": [rows.get(at, nothing)[0] for at in times],
            "reward": [ratio(rows.get(at, nothing)[2], rows.get(at, nothing)[1]) for at in times],
        },
    }


def action_values(
    aggregates: AggregateReader, uid: str, limit: int
) -> tuple[int, list[EarnedByAction]]:
    """Return how many actions have values, and what those with the most of them earned."""
    return top_actions(aggregates.compared(uid), limit)


def noted(aggregates: AggregateReader, uid: str) -> list[dict[str, Any]]:
    """Return the findings of a bandit over time, the newest first."""
    return [
        {key: value for key, value in each._asdict().items() if key != "bandit"}
        for each in aggregates.noted(uid)
    ]


def window(aggregates: AggregateReader, uid: str, name: str, now: float) -> tuple[int, int, int]:
    """Return (start, end, step) in seconds of a range that ends now."""
    length, step = RANGES[name]
    first = None if length else aggregates.first(uid)
    if first is not None:
        step = HOUR * max(1, math.ceil((now - first) / HOUR / POINTS))
        return first // step * step, (int(now) // step + 1) * step, step
    end = (int(now) // step + 1) * step
    return (end - (length or HOUR)) // step * step, end, step


def series(aggregates: AggregateReader, uid: str, name: str, now: float) -> dict[str, Any]:
    """Return the charts of a bandit over a range; all lists are aligned to `time`."""
    start, end, step = window(aggregates, uid, name, now)
    times = list(range(start, end, step))
    found = aggregates.series(uid, start, end, step)
    rows = [found.get(at) for at in times]

    def of(top: str, bottom: str) -> Numbers:
        return [None if row is None else ratio(row[top], row[bottom]) for row in rows]

    whole = {key: sum(row[key] for row in found.values()) for key in SUMS}
    mean, low, high = _intervals(rows)
    timed = aggregates.latencies(start, end, step)
    return {
        "range": name,
        "start": start,
        "end": end,
        "step_s": step,
        "join_rate": ratio(whole["num_values"], whole["chosen"]),
        "reward_mean": ratio(whole["value"], whole["num_values"]),
        "reward_total": _total(whole),
        "time": times,
        "selects": [row["selects"] if row else 0 for row in rows],
        "rewards": [row["num_values"] if row else 0 for row in rows],
        "joined": of("num_values", "chosen"),
        "reward": {"mean": mean, "low": low, "high": high},
        "actions": _actions(aggregates.shares(uid, start, end, step), times),
        "exploration": {
            "explored": of("explored", "looked"),
            "entropy": of("surprise", "propensities"),
            "propensity_mean": of("propensity", "propensities"),
        },
        "spread": of("std", "stds"),
        "delay": _delay(aggregates.delays(uid, start, end, step)),
        "latency": {
            name: [_quantile_ms(timed.get(at), share) for at in times]
            for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99))
        },
    }


def _total(whole: dict[str, float]) -> dict[str, float | None]:
    """Return the mean reward of a whole range, with its interval."""
    mean, low, high = _intervals([whole])
    return {"num": whole["num_values"], "mean": mean[0], "low": low[0], "high": high[0]}


def _intervals(rows: Sequence[dict[str, float] | None]) -> tuple[Numbers, Numbers, Numbers]:
    """Return mean rewards and their 95 % intervals by the normal law, for two values and more."""
    mean: Numbers = []
    low: Numbers = []
    high: Numbers = []
    for row in rows:
        num = 0 if row is None else row["num_values"]
        if row is None or not num:
            mean.append(None)
            low.append(None)
            high.append(None)
            continue
        middle = row["value"] / num
        mean.append(middle)
        if num < 2:
            low.append(None)
            high.append(None)
            continue
        variance = max(0.0, row["square"] / num - middle * middle) * num / (num - 1)
        half = NORMAL_95 * math.sqrt(variance / num)
        low.append(middle - half)
        high.append(middle + half)
    return mean, low, high


def _actions(shares: dict[int, dict[str, int]], times: Sequence[int]) -> dict[str, Any]:
    totals: dict[str, int] = {}
    for counts in shares.values():
        for action, num in counts.items():
            totals[action] = totals.get(action, 0) + num
    named = sorted((a for a in totals if a != REST), key=lambda action: (-totals[action], action))
    top = named[:TOP]
    columns: list[Numbers] = [[] for _ in top]
    rest: Numbers = []
    for at in times:
        counts = shares.get(at, {})
        whole = sum(counts.values())
        for column, action in zip(columns, top, strict=True):
            column.append(counts.get(action, 0) / whole if whole else None)
        rest.append(1.0 - sum(counts.get(a, 0) for a in top) / whole if whole else None)
    return {"ids": top, "share": columns, "rest": rest, "num": len(named)}


def _delay(bins: dict[int, int]) -> dict[str, Any]:
    counts = [bins.get(number, 0) for number in range(len(DELAYS_S) + 1)]
    return {
        "bounds_s": list(DELAYS_S),
        "counts": counts,
        "median_s": _quantile(DELAYS_S, counts, 0.5),
        "p90_s": _quantile(DELAYS_S, counts, 0.9),
    }


def _quantile_ms(counts: Sequence[int] | None, share: float) -> float | None:
    found = None if counts is None else _quantile(SECONDS, counts, share)
    return None if found is None else 1000.0 * found


def _quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Return a quantile of a histogram, by linear interpolation between its bounds."""
    wanted = share * sum(counts)
    if not wanted:
        return None
    seen, low = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and seen + count >= wanted:
            return low + (bound - low) * (wanted - seen) / count
        seen += count
        low = bound
    return bounds[-1]
