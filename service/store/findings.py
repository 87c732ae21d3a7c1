"""What a verification finds: a `Report` with one `Check` per bandit and question."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_PROBLEMS = 20  # per check are listed; others are only counted

Say = Callable[[str], None]


@dataclass(slots=True)
class Check:
    """One question about one bandit, and its answer.

    Attributes:
        bandit: The bandit's name; None: the question is about the whole data directory.
        name: The name of the question.
        compared: What was checked, for people.
        difference: The largest relative difference; None where no numbers were compared.
        tolerance: How large it may be.
        problems: The first `MAX_PROBLEMS` problems.
        num_problems: The number of all problems.
        notes: What could not be compared, and why.
        checked: Whether there was anything to compare with.
    """

    bandit: str | None
    name: str
    compared: str = ""
    difference: float | None = None
    tolerance: float | None = None
    problems: list[str] = field(default_factory=list)
    num_problems: int = 0
    notes: list[str] = field(default_factory=list)
    checked: bool = True

    @property
    def result(self) -> str:
        """The result, for people: nothing that was not compared is called ok."""
        if self.num_problems:
            return f"{self.num_problems} WRONG"
        return "ok" if self.checked else "not checked"

    def problem(self, text: str) -> None:
        """Add a problem."""
        self.num_problems += 1
        if self.num_problems <= MAX_PROBLEMS:
            self.problems.append(text)

    def differs(self, difference: float, tolerance: float, what: str) -> None:
        """Add a relative difference; it is a problem above `tolerance`, or as NaN."""
        known = self.difference
        if known is None or not difference <= known:
            self.difference = difference
        self.tolerance = max(tolerance, self.tolerance or 0.0)
        if not difference <= tolerance:
            self.problem(f"{what}: relative difference {difference:.1e}, allowed {tolerance:g}")

    def to_json(self) -> dict[str, Any]:
        """Return the check as JSON values; an infinite or NaN difference becomes text."""
        difference: float | str | None = self.difference
        if self.difference is not None and not math.isfinite(self.difference):
            difference = str(self.difference)
        return {
            "bandit": self.bandit, "check": self.name, "ok": not self.num_problems,
            "checked": self.checked, "compared": self.compared,
            "difference": difference, "tolerance": self.tolerance,
            "problems": self.problems, "num_problems": self.num_problems, "notes": self.notes,
        }  # fmt: skip


@dataclass(slots=True)
class Report:
    """All checks of one run."""

    checks: list[Check] = field(default_factory=list)

    def check(self, bandit: str | None, name: str) -> Check:
        """Add a check and return it."""
        self.checks.append(Check(bandit, name))
        return self.checks[-1]

    @property
    def num_problems(self) -> int:
        """The number of all problems."""
        return sum(check.num_problems for check in self.checks)

    @property
    def num_unchecked(self) -> int:
        """The number of checks without problems that had nothing to compare with."""
        return sum(not check.checked and not check.num_problems for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "ok": not self.num_problems,
            "num_problems": self.num_problems,
            "num_unchecked": self.num_unchecked,
            "checks": [check.to_json() for check in self.checks],
        }
