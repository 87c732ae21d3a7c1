"""One or several of many values: a column for each known one, and buckets for all others."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from bandexa_core.schema.hashing import bucket, hash64
from bandexa_core.schema.limits import MAX_ENTRIES, is_text
from bandexa_core.schema.observed import CONVERTED, OK, UNSEEN, WRONG
from bandexa_core.schema.parts.part import Part, Write, require
from bandexa_core.schema.values import as_text, as_texts

_TEXT = {str}


@dataclass(frozen=True, slots=True)
class _VocabularyPart(Part):
    """Attributes: values: those with a column; buckets: the number of columns for all others."""

    values: tuple[str, ...]
    buckets: int

    def __post_init__(self) -> None:
        require(len(set(self.values)) == len(self.values), "values that differ")
        require(self.buckets >= 0, "0 buckets or more")

    def _names(self) -> Iterable[str]:
        yield from (f"={value}" for value in self.values)
        yield from (f"#{number}" for number in range(self.buckets))

    def same_columns(self, before: Part) -> set[str]:
        """Return the columns that have the same value in both fields, whatever the object.

        The column of a value does not depend on what else has one; what is in a bucket does.
        """
        if type(before) is not type(self) or not isinstance(before, _VocabularyPart):
            return set()
        same = set(self.columns) & set(before.columns)
        if (self.values, self.buckets) == (before.values, before.buckets):
            return same
        others = len(self.values)
        return same.difference(self.columns[others : others + self.buckets])

    def _places(self, first: int) -> dict[str, int]:
        return {value: first + number for number, value in enumerate(self.values)}

    def _missing_place(self, first: int) -> int | None:
        return first + len(self.values) + self.buckets if self.missing else None

    def hashed(self, value: Any) -> Iterable[tuple[int, int]]:
        """Return the bucket and the hash of every value outside of the vocabulary."""
        if not self.buckets:
            return
        for text in as_texts(value) or ():
            if text not in self.values:
                yield bucket(self.path, text, self.buckets), hash64(self.path, text)


@dataclass(frozen=True, slots=True)
class CategoryPart(_VocabularyPart):
    """1 in the column of the value, or of its bucket, and 0 in all others."""

    kind: ClassVar[str] = "category"

    def writer(self, first: int) -> Write:
        """Return the function that writes values into columns from number `first` on."""
        path, buckets = self.path, self.buckets
        find, others = self._places(first).get, first + len(self.values)
        missing = self._missing_place(first)

        def write(value: Any, out: array[float], base: int) -> int:
            seen: int = OK
            text = value if type(value) is str else None
            if text is None:
                text, seen = as_text(value), CONVERTED
                if text is None:
                    return WRONG
            at = find(text)
            if at is None:
                if not is_text(text):
                    return WRONG
                seen = UNSEEN
                if buckets:
                    at = others + bucket(path, text, buckets)
            if at is not None:
                out[base + at] = 1.0
            if missing is not None:
                out[base + missing] = 0.0
            return seen

        return write


@dataclass(frozen=True, slots=True)
class CategoriesPart(_VocabularyPart):
    """The sum of what a category has for each different value, over the root of their number."""

    kind: ClassVar[str] = "categories"

    def writer(self, first: int) -> Write:
        """Return the function that writes values into columns from number `first` on."""
        path, buckets = self.path, self.buckets
        find, others = self._places(first).get, first + len(self.values)
        missing = self._missing_place(first)

        def write(value: Any, out: array[float], base: int) -> int:
            if (
                type(value) is list
                and len(value) <= MAX_ENTRIES
                and _TEXT.issuperset(map(type, value))
            ):
                different, seen = set(value), OK
            else:
                texts = as_texts(value)
                if texts is None:
                    return WRONG
                different, seen = set(texts), CONVERTED
            share = 1.0 / math.sqrt(len(different)) if different else 0.0
            for text in different:  # in any order: all add the same
                at = find(text)
                if at is None:
                    seen = UNSEEN
                    if not buckets or not is_text(text):
                        continue
                    at = others + bucket(path, text, buckets)
                out[base + at] += share
            if missing is not None:
                out[base + missing] = 0.0
            return seen

        return write
