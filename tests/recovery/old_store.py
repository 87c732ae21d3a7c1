"""Reads a database of schema 4 (releases 0.1 and 0.2) by SQL, and nothing of the service's code.

Used by the tests of the migration, to compare what was stored before with what is read after it.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from tests.recovery.saved import quick_or_slow

DATA = Path(__file__).parent / "data"
TABLES = (
    "meta", "bandits", "decisions", "outcomes", "rewards", "windows", "activations", "log", "trims",
    "evicted", "rounds",
)  # fmt: skip
COUNTED = ("applied", "aggregated")


class OldReward(NamedTuple):
    """A row of `rewards`, without its decision."""

    item: int
    reward_id: str | None
    reward: float
    status: str
    time: float


class OldOutcome(NamedTuple):
    """A row of `outcomes`, without its key."""

    origin: int
    value: float
    latest: int


class OldDecision(NamedTuple):
    """A decision, with everything that was reported about it.

    Attributes:
        id: Its id.
        bandit, rowid: Its bandit's key, and its place in the table.
        columns: All other columns by name.
        rewards: In the order in which they came.
        outcomes: By item.
        activated_at: None where it was not activated after the select.
        closes, closed: Those of its window; None without one, or while it is open.
    """

    id: str
    bandit: int
    rowid: int
    columns: dict[str, Any]
    rewards: tuple[OldReward, ...]
    outcomes: dict[int, OldOutcome]
    activated_at: float | None
    closes: float | None
    closed: float | None

    @property
    def is_active(self) -> bool:
        """Whether its rewards count."""
        return bool(self.columns["activated"]) or self.activated_at is not None

    @property
    def is_reported(self) -> bool:
        """Whether anything happened to it since the select."""
        happened = self.activated_at is not None or self.closed is not None
        return bool(self.rewards or self.outcomes) or happened

    def counted(self, item: int) -> list[float]:
        """Return the rewards of an item that count."""
        mine = [reward for reward in self.rewards if reward.item == item]
        return [reward.reward for reward in mine if reward.status in COUNTED]


class OldStore(NamedTuple):
    """The content of a database: the rows of the tables by name, and the decisions by id."""

    tables: dict[str, list[tuple[Any, ...]]]
    decisions: dict[str, OldDecision]


def is_old(path: Path) -> bool:
    """Whether a database has schema 4."""
    with closing(opened(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0]) == 4


def opened(path: Path) -> sqlite3.Connection:
    """Open a database that nobody writes; no other file is made beside it."""
    return sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)


def read(path: Path) -> OldStore:
    """Read a database that no process has open."""
    with closing(opened(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (4,)
        tables = {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in TABLES}
        rewards = defaultdict(list)
        for name, *reward in db.execute(
            "SELECT decision_id, item, reward_id, reward, status, time FROM rewards ORDER BY rowid"
        ):
            rewards[name].append(OldReward._make(reward))
        decisions = db.execute("SELECT rowid, * FROM decisions ORDER BY rowid")
        names = [column[0] for column in decisions.description][3:]
        outcomes: dict[str, dict[int, OldOutcome]] = defaultdict(dict)
        for name, item, origin, value, latest in tables["outcomes"]:
            outcomes[name][item] = OldOutcome(origin, value, latest)
        activations = dict(tables["activations"])
        windows = {name: (closes, closed) for name, _, closes, closed in tables["windows"]}
        found = {}
        for rowid, name, bandit, *columns in decisions:
            found[name] = OldDecision(
                name, bandit, rowid, dict(zip(names, columns, strict=True)), tuple(rewards[name]),
                outcomes[name], activations.get(name), *windows.get(name, (None, None)),
            )  # fmt: skip
        return OldStore(tables, found)


OLD = sorted(path.parent.name for path in DATA.glob("*/bandexa.db") if is_old(path))
OLD_PARAMS = [quick_or_slow(release) for release in OLD]
