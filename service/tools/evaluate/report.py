"""An evaluation as a whole: what was asked of which log, and its report for people and programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bandexa_core.evaluation import Interval
from service.tools.evaluate.cases import Cases, Row
from service.tools.evaluate.policies import Asked
from service.tools.evaluate.scoring import Scored, Wanted, score


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What policies would have earned.

    Attributes:
        bandit: The bandit's name.
        position: The position of its log that values are of.
        num_decisions: How many decisions the log has.
        num_imported: How many of them were made elsewhere, and imported.
        skipped: How many of them were left out of estimates, by why.
        wanted: What was asked for.
        policies: What is known of each policy.
    """

    bandit: str
    position: int
    num_decisions: int
    num_imported: int
    skipped: dict[str, int]
    wanted: Wanted
    policies: tuple[Scored, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        wanted = self.wanted
        return {
            "bandit": self.bandit, "position": self.position,
            "num_decisions": self.num_decisions, "imported": self.num_imported,
            "skipped": self.skipped,
            "alpha": wanted.alpha, "precision": wanted.precision,
            "range": None if wanted.low is None else [wanted.low, wanted.high],
            "policies": [each.to_json() for each in self.policies],
        }  # fmt: skip


def evaluate(
    rows: Iterable[Row], policies: Sequence[Asked], wanted: Wanted, missing: float | None = None
) -> Evaluation:
    """Evaluate policies by the rows of an export.

    Raises:
        ValueError: The rows are no export.
        PolicyError: A policy cannot be asked about a case.
    """
    cases = Cases(rows, missing)
    scored = score(cases, policies, wanted)
    header = cases.header
    return Evaluation(
        header.get("bandit", ""), header.get("position", 0), cases.num_decisions,
        cases.num_imported, dict(cases.skipped), wanted, tuple(scored),
    )  # fmt: skip


def table(found: Evaluation) -> tuple[Sequence[str], list[list[str]]]:
    """Return the head and the lines of a table."""
    head = (
        "policy", "rows", "ips", "snips", "dr", "switch", "interval", "over logged", "effective",
        "largest", "mean weight",
    )  # fmt: skip
    lines = []
    for each in found.policies:
        if not each.num:
            lines.append([each.policy, "0", *[""] * (len(head) - 2)])
            continue
        values = [
            f"{each.estimates[name]['value']:.4f} +- {each.estimates[name]['error']:.4f}"
            for name in ("ips", "snips", "dr", "switch")
        ]
        weights = each.weights
        lines.append(
            [
                each.policy, str(each.num), *values, _ends(each.interval), _ends(each.lift),
                f"{weights['effective']:.0f}", f"{weights['largest']:.4g}",
                f"{weights['mean']:.3f} +- {weights['mean_error']:.3f}",
            ]
        )  # fmt: skip
    return head, lines


def remarks(found: Evaluation) -> list[str]:
    """Return sentences: what was left out, and about what nothing should be concluded."""
    out = [
        f"{num} of {found.num_decisions} decisions were left out: {why}"
        for why, num in found.skipped.items()
    ]
    if found.num_imported:
        out.append(
            f"{found.num_imported} of {found.num_decisions} decisions were imported: other models"
            " made them"
        )
    if found.skipped.get("no value"):
        out.append("where silence means that nothing came, count those: --missing 0")
    if found.wanted.low is None:
        out.append("no intervals: the bandit has no reward_range, give --range LOW HIGH")
    for each in found.policies:
        for reason in each.reasons:
            out.append(f"{each.policy}: nothing can be concluded: {reason}")
        if each.reasons and each.needed:
            out.append(f"{each.policy}: {_advice(each.needed)}")
    return out


def _advice(needed: dict[str, Any]) -> str:
    """Return what a difference needs, in words."""
    ways = []
    if needed["floor"] is not None:
        ways.append(
            f"with as many rows a floor (limits.floor) of {needed['share']:.2g} for an action, or"
            f" {needed['floor']:.2g} for all {needed['candidates']:.3g} alike"
        )
    if needed["control"] is not None:
        ways.append(f"a control that it serves, of a share of {needed['control']:.2g}")
    if needed["rows"] is not None:
        ways.append(f"{needed['rows']:,} rows with the exploration of this log")
    if not ways:
        ways.append(f"{needed['share']:.2g} times as many rows, all of them served by it")
    return (
        f"to see a difference of d = {needed['difference']:.3g} at variance v ="
        f" {needed['variance']:.3g}, by n = 10 v / (q d^2) with the share q ="
        f" {needed['share_now']:.2g} of this log, it takes {', or '.join(ways)}"
    )


def _ends(interval: Interval | None) -> str:
    return "" if interval is None else f"[{interval.low:.4f}, {interval.high:.4f}]"
