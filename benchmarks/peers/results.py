"""Runs that are stored as they end, one JSON object a line, so that a later call goes on from them.

A stored run counts where problem, policy, seed, steps and version are the same (`policies.Policy.
version`), so that a change of the learning plays our policies again and leaves the peers alone. A
last line that was cut off is ignored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]


class Key(NamedTuple):
    """What identifies a run."""

    problem: str
    policy: str
    seed: int
    steps: int
    version: str


class Results:
    """The runs of a file, or of this process alone where there is no file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[Key, Row] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self._rows[key_of(row)] = row

    def find(self, key: Key) -> Row | None:
        """Return the stored run, or None."""
        return self._rows.get(key)

    def add(self, row: Row) -> None:
        """Store a run."""
        self._rows[key_of(row)] = row
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def key_of(row: Row) -> Key:
    """Return the key of a run."""
    return Key(*(row[name] for name in Key._fields))
