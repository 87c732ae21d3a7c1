"""The rows of an exported log, as an evaluation uses them: decisions with value and propensity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.spec.arms import BANDIT

Row = dict[str, Any]
LATER = "not the first of its unit (sticky: action)"
LEAST_BLOCK, MOST_BLOCK = 8, 256  # cases that policies are asked about before they learn them


class Case(NamedTuple):
    """A decision whose value is known.

    Attributes:
        decision_id: Its id.
        time: Seconds since the epoch.
        context: As it was sent: an object, nested lists, or an array with dtype, shape and data.
        candidates: The ids of what could be chosen, K of them.
        features: The features of candidates that brought their own; None: the catalogue has them.
        listed: Whether the request named the candidates; False: they were all enabled actions.
        chosen: The place of the chosen action among the candidates.
        propensity: Its probability.
        propensities: Those of all candidates, (K,), where the log has them.
        value: What it earned.
        counts: Whether estimates count it. A later decision of a unit with one draw is learned and
            no more: its propensity is no chance any more once the first one is known.
    """

    decision_id: str
    time: float
    context: Any
    candidates: tuple[str, ...]
    features: list[Any] | None
    listed: bool
    chosen: int
    propensity: float
    propensities: NDArray[np.float64] | None
    value: float
    counts: bool = True


class Changes(NamedTuple):
    """Actions that changed before the next case; rows of an export."""

    actions: list[Row]


@dataclass(slots=True)
class Cases:
    """Reads rows once.

    Args:
        rows: Those of an export, in order.
        missing: The value of decisions without one; None: they are left out.

    Attributes:
        header: The first row.
        actions: What is known of each action, by id, as of the last case.
        skipped: How many decisions were left out of estimates, by why.
        num_decisions: How many there were.
        num_imported: How many of them were made elsewhere.
    """

    rows: Iterable[Row]
    missing: float | None = None
    header: Row = field(default_factory=dict)
    actions: dict[str, Row] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    num_decisions: int = 0
    num_imported: int = 0

    def __iter__(self) -> Iterator[Case | Changes]:
        """Yield the cases, and between them what changed in the catalogue.

        Raises:
            ValueError: The rows are no export.
        """
        enabled: tuple[str, ...] = ()
        for row in self.rows:
            kind = row["kind"]
            if kind == "bandit":
                self.header = self.header or row
            elif kind == "actions":
                for line in row["actions"]:
                    self.actions[line["id"]] = self.actions.get(line["id"], {}) | line
                enabled = tuple(name for name, line in self.actions.items() if line["enabled"])
                yield Changes(row["actions"])
            elif kind == "decision":
                self.num_decisions += 1
                self.num_imported += row.get("imported") is not None
                case = self._case(row, enabled)
                if case is not None:
                    yield case
            elif kind == "error":
                raise ValueError(f"the log broke off: {row['detail']}")

    def _case(self, row: Row, enabled: tuple[str, ...]) -> Case | None:
        value = self.missing if row["value"] is None else row["value"]
        candidates = enabled if row["candidates"] is None else tuple(row["candidates"])
        if not row["activated"]:
            self.skipped["never activated"] += 1
            return None
        if row.get("void"):
            self.skipped["void value"] += 1
            return None
        if value is None:
            self.skipped["no value"] += 1
            return None
        if not row["propensity"]:
            self.skipped["no propensity"] += 1
            return None
        if row["propensity"] >= 1.0 and row.get("arm") not in (None, BANDIT):
            self.skipped["decided by an arm alone"] += 1  # it says nothing of other actions
            return None
        if row["action"] not in candidates:
            self.skipped["unknown candidates"] += 1
            return None
        counts = row.get("first_of_unit") is not False
        self.skipped.update(() if counts else (LATER,))
        chances = row.get("propensities")
        return Case(
            row["decision_id"], row["time"], row["context"], candidates, row.get("features"),
            row["candidates"] is not None, candidates.index(row["action"]), row["propensity"],
            None if chances is None else np.array([chances.get(name, 0.0) for name in candidates]),
            float(value), counts,
        )  # fmt: skip


def blocks(cases: Iterable[Case | Changes]) -> Iterator[list[Case] | Changes]:
    """Yield cases in blocks of an eighth of those before, 8 to 256; a change ends a block."""
    waiting: list[Case] = []
    num = 0
    for each in cases:
        if waiting and (isinstance(each, Changes) or len(waiting) >= block_size(num)):
            yield waiting
            num += len(waiting)
            waiting = []
        if isinstance(each, Changes):
            yield each
        else:
            waiting.append(each)
    if waiting:
        yield waiting


def block_size(num_before: int) -> int:
    """Return how many cases the next block has, after so many before it."""
    return min(max(LEAST_BLOCK, num_before // 8), MOST_BLOCK)
