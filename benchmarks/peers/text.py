"""The tables of a run, as Markdown that a terminal shows as well.

One table has the figure that each problem is about, policies by problems. Another has every figure
of every line, and a third the comparisons. A policy that could not play has "-" and its reason
below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.peers.results import Row

_ACROSS = 7
_FORMS = {
    "percent": ".1f",
    "best_share": ".3f",
    "gain_share": ".3f",
    "earned_share": ".3f",
    "ratio": ".2f",
    "cpu_s": ".1f",
}
_WORDS = {
    "percent": "regret in % of the uniform policy's",
    "best_share": "share of the best action in the last 300 steps",
    "gain_share": "share of the possible gain in the last quarter",
    "earned_share": "mean reward in the last quarter over that of the best actions",
    "ratio": "regret over that without the disturbance",
}


def overview(lines: Sequence[Row], figures: Mapping[str, str]) -> str:
    """Return the figure that each problem is about, for all policies."""
    found = {(line["problem"], line["policy"]): line for line in lines}
    policies = list(dict.fromkeys(line["policy"] for line in lines))
    out: list[str] = []
    for figure, words in _WORDS.items():
        problems = list(
            dict.fromkeys(line["problem"] for line in lines if figures[line["problem"]] == figure)
        )
        for first in range(0, len(problems), _ACROSS):
            group = problems[first : first + _ACROSS]
            out += ["", f"{words[0].upper()}{words[1:]}:", "", *_head("policy", *group)]
            for policy in policies:
                cells = [_cell(found.get((problem, policy)), figure) for problem in group]
                if set(cells) != {"-"}:
                    out.append(_line(policy, *cells))
    return "\n".join([*out[1:], *_reasons(lines)])


def details(lines: Sequence[Row]) -> str:
    """Return every figure of every line."""
    out = list(_head("problem", "policy", "seeds", *_FORMS))
    for line in lines:
        if line["seeds"]:
            cells = [_cell(line, figure) for figure in _FORMS]
            out.append(_line(line["problem"], line["policy"], str(line["seeds"]), *cells))
    return "\n".join(out)


def comparisons(compared: Sequence[Row], problems: Sequence[str], of: str) -> str:
    """Return the paired differences, and the problems that have none."""
    missing = [name for name in problems if name not in {line["problem"] for line in compared}]
    without = [f"`{of}` is compared with nothing on: {', '.join(missing)}"] if missing else []
    if not compared:
        return "\n".join(without)
    out = [
        f"`{of}` against the strongest of a group, which was picked on other seeds: differences of "
        "pairs in points of the uniform policy's regret. Below 0 it is better.",
        "",
        *_head("problem", "group", "strongest", "pairs", "difference", "95 % interval"),
    ]
    for line in compared:
        ends = "" if line["low"] is None else f"{line['low']:+.1f} to {line['high']:+.1f}"
        cells = [line[name] for name in ("problem", "group", "rival")]
        out.append(_line(*cells, str(line["pairs"]), f"{line['mean']:+.1f}", ends))
    return "\n".join([*out, "", *without] if without else out)


def _reasons(lines: Sequence[Row]) -> Iterator[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        if "unavailable" in line:
            reasons.setdefault((line["policy"], line["unavailable"]), []).append(line["problem"])
    if reasons:
        yield ""
    for (policy, reason), problems in reasons.items():
        yield f"- {policy}: {reason} ({len(problems)} problems: {', '.join(problems)})"


def _cell(line: Row | None, figure: str) -> str:
    value = None if line is None else line[figure]
    if line is None or value is None:
        return "-"
    text = format(value, _FORMS[figure])
    if figure == "percent" and line["error"] is not None:
        text += f" +- {line['error']:.1f}"
    return text


def _head(*names: str) -> tuple[str, str]:
    return _line(*names), _line(*("---" for _ in names))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
