"""What a verification found: one `Check` per bandit and question, all of them in a `Report`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MOST_PROBLEMS = 20  # told in full; of more, the number is told
_SAY_EVERY_S = 2.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Check:
    """One question about one bandit, and what answered it.

    Attributes:
        bandit: Its name; None: the whole data directory is meant.
        name: Of the question.
        compared: What was looked at, for people.
        difference: Largest relative difference of what was compared, None without numbers.
        tolerance: How large it may be.
        problems: What is wrong, the first `MOST_PROBLEMS` of them.
        num_problems: How many there are.
        notes: What could not be compared, and why.
    """

    bandit: str | None
    name: str
    compared: str = ""
    difference: float | None = None
    tolerance: float | None = None
    problems: list[str] = field(default_factory=list)
    num_problems: int = 0
    notes: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        """Note that something is wrong."""
        self.num_problems += 1
        if self.num_problems <= MOST_PROBLEMS:
            self.problems.append(text)

    def differs(self, difference: float, tolerance: float, what: str) -> None:
        """Note how far two numbers are apart; it is a problem beyond `tolerance`, or as NaN."""
        known = self.difference
        if known is None or not difference <= known:
            self.difference = difference
        self.tolerance = max(tolerance, self.tolerance or 0.0)
        if not difference <= tolerance:
            self.problem(f"{what}: relative difference {difference:.1e}, allowed {tolerance:g}")

    def to_json(self) -> dict[str, Any]:
        """Return the check as JSON-able values; a difference that is no number becomes text."""
        difference: float | str | None = self.difference
        if self.difference is not None and not math.isfinite(self.difference):
            difference = str(self.difference)
        return {
            "bandit": self.bandit, "check": self.name, "ok": not self.num_problems,
            "compared": self.compared, "difference": difference, "tolerance": self.tolerance,
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
        """How many things are wrong."""
        return sum(check.num_problems for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        return {
            "ok": not self.num_problems,
            "num_problems": self.num_problems,
            "checks": [check.to_json() for check in self.checks],
        }


class Progress:
    """Tells on standard error, now and then, what is being done."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._next = time.monotonic() + _SAY_EVERY_S

    def __call__(self, text: str) -> None:
        """Tell it, unless something was told a moment ago."""
        now = time.monotonic()
        if not self._quiet and now >= self._next:
            self._next = now + _SAY_EVERY_S
            print(f"bandexa verify: {text}", file=sys.stderr, flush=True)
