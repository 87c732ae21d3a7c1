"""What a folder of backups has: the complete ones, and of which data directory each is.

A data directory is known by its path and its store: those of several containers may have one path.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.tools.backup import MARKER

NAME, NAMED = "bandexa-", "bandexa-%Y%m%dT%H%M%SZ"
AHEAD_S = 60.0  # by so much a clock may have been set back without that being noticed


@dataclass(frozen=True, slots=True)
class Found:
    """A backup that is there.

    Attributes:
        path: Its folder.
        begun: When it was begun, by its name; None: another name.
        source: The data directory that it is a copy of.
        store: The name of the store there; None: a release before 0.4 made it.
        created_at: When the copy ended.
        bandits: The position of each bandit's log.
    """

    path: Path
    begun: float | None
    source: str
    store: str | None
    created_at: float
    bandits: dict[str, int]

    @property
    def time(self) -> float:
        """The time up to which it surely has everything."""
        return self.created_at if self.begun is None else self.begun


def backups_in(folder: Path) -> list[Found]:
    """Return the complete backups in a folder, oldest first.

    Raises:
        OSError: The folder cannot be read.
    """
    if not folder.exists():
        return []
    found = [_found(path) for path in folder.iterdir() if path.is_dir()]
    known = [each for each in found if each is not None]
    return sorted(known, key=lambda each: (each.time, each.path.name))


def backups_of(data_dir: Path, store: str | None, folder: Path, now: float) -> list[Found]:
    """Return the complete backups of one data directory, oldest first.

    What is named after a time to come was made while a clock was wrong: it is the oldest.
    `store`: the name of its store; None: of whatever stores were there.

    Raises:
        OSError: The folder cannot be read.
    """
    source = str(data_dir.resolve())
    mine = [
        each
        for each in backups_in(folder)
        if each.source == source and (store is None or each.store in (None, store))
    ]
    return sorted(mine, key=lambda each: each.time <= now + AHEAD_S)


def newest_time(backups: list[Found], now: float) -> float | None:
    """Return up to when the newest of some backups has everything; None: there is none."""
    return max((each.time for each in backups if each.time <= now + AHEAD_S), default=None)


def num_bytes(path: Path) -> int:
    """Return how large a backup is.

    Raises:
        OSError: It cannot be read.
    """
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _found(path: Path) -> Found | None:
    begun = None
    with contextlib.suppress(ValueError):
        begun = datetime.strptime(path.name, NAMED).replace(tzinfo=UTC).timestamp()
    try:
        marker = json.loads((path / MARKER).read_text())
        positions = {name: int(one["position"]) for name, one in marker["bandits"].items()}
        source, created_at = str(marker["source"]), float(marker["created_at"])
        store = marker.get("store")
        return Found(path, begun, source, store, created_at, positions)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # incomplete, or no backup
        return None
