"""Counts what encoding met: missing, unseen, wrong and converted values, unknown keys, collisions.

Plain counters that add up, so that each process counts for itself. One thread at a time fills one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bandexa_core.schema.limits import MAX_FIELDS

MAX_NAMES = 32  # of unknown keys, the first ones met


# What became of one value. Plain numbers: the member of an Enum takes 0.1 us to look up.
OK = 0
CONVERTED = 1  # it had another JSON type, such as "7" for a number
UNSEEN = 2  # a category outside of the vocabulary: it went to a bucket
WRONG = 3  # of a type that cannot be converted: it counts as missing
EXTREME = 4  # a number far beyond all others: it counts as missing


@dataclass(slots=True)
class FieldCounts:
    """Counts of one field.

    Attributes:
        present: Rows with a value, of whatever type; the others lack it.
        converted: Values of another JSON type that were converted.
        unseen: Rows with a category outside of the vocabulary.
        wrong: Values that count as missing because of their type.
        extreme: Numbers that count as missing because they are far beyond all others.
        hashed: Values and words that were hashed into places.
        collided: Those of them that fell on a place where another one was seen first.
    """

    present: int = 0
    converted: int = 0
    unseen: int = 0
    wrong: int = 0
    extreme: int = 0
    hashed: int = 0
    collided: int = 0
    first: dict[int, int] = field(default_factory=dict)

    def add(self, seen: int) -> None:
        """Count one value."""
        self.present += 1
        if seen == OK:
            return
        self.converted += seen == CONVERTED
        self.unseen += seen == UNSEEN
        self.wrong += seen == WRONG
        self.extreme += seen == EXTREME

    def add_hashed(self, places: Iterable[tuple[int, int]]) -> None:
        """Count hashed values by place and hash."""
        first = self.first
        for where, digest in places:
            self.hashed += 1
            self.collided += first.setdefault(where, digest) != digest

    def merge(self, other: FieldCounts) -> None:
        """Add the counts of `other`."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first = other.first | self.first


COUNTS = ("present", "converted", "unseen", "wrong", "extreme", "hashed", "collided")


@dataclass(slots=True)
class Observed:
    """What encoding met since this object was created.

    Attributes:
        rows: Objects.
        unknown: Keys that are no fields, one per object and key.
        unknown_names: How often each of the first 32 such keys was met, by its path.
        fields: Counts by the path of a field.
    """

    rows: int = 0
    unknown: int = 0
    unknown_names: dict[str, int] = field(default_factory=dict)
    fields: dict[str, FieldCounts] = field(default_factory=dict)

    def add_unknown(self, path: str) -> None:
        """Count a key that is no field."""
        self.unknown += 1
        names = self.unknown_names
        if path in names or len(names) < MAX_NAMES:
            names[path] = names.get(path, 0) + 1

    def of(self, path: str) -> FieldCounts:
        """Return the counts of a field, which may be new.

        Of more than 256 fields, those beyond are not counted, so that memory is bounded.
        """
        counts = self.fields.get(path)
        if counts is None:
            counts = FieldCounts()
            if len(self.fields) < MAX_FIELDS:
                self.fields[path] = counts
        return counts

    def missing(self, path: str) -> int:
        """Return how many rows lack a field, or have null."""
        counts = self.fields.get(path)
        return self.rows - (counts.present if counts is not None else 0)

    def merge(self, other: Observed) -> None:
        """Add the counts of `other`; of the names of unknown keys, 32 stay."""
        self.rows += other.rows
        self.unknown += other.unknown
        for name, num in other.unknown_names.items():
            if name in self.unknown_names or len(self.unknown_names) < MAX_NAMES:
                self.unknown_names[name] = self.unknown_names.get(name, 0) + num
        for path, counts in other.fields.items():
            self.of(path).merge(counts)

    def to_json(self) -> dict[str, Any]:
        """Return all counts as JSON-able values, `missing` among those of each field."""
        fields = {
            path: {"missing": self.missing(path)} | {name: getattr(counts, name) for name in COUNTS}
            for path, counts in sorted(self.fields.items())
        }
        return {
            "rows": self.rows,
            "unknown": self.unknown,
            "unknown_names": dict(sorted(self.unknown_names.items())),
            "fields": fields,
        }
