"""Free text and ids of high cardinality: signed hashes into a vector of fixed width."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from bandexa_core.schema.hashing import hash64, place
from bandexa_core.schema.observed import CONVERTED, OK, WRONG
from bandexa_core.schema.parts.part import Part, Write, require
from bandexa_core.schema.values import as_text
from bandexa_core.schema.words import hashed_terms, terms


@dataclass(frozen=True, slots=True)
class _HashedPart(Part):
    """Attributes: width: the number of places."""

    width: int

    def __post_init__(self) -> None:
        require(self.width >= 1, "a width of 1 or more")

    def _names(self) -> Iterable[str]:
        return (f"#{number}" for number in range(self.width))

    def _digests(self, text: str) -> Iterable[str]:
        return (text,)

    def hashed(self, value: Any) -> Iterable[tuple[int, int]]:
        """Return the place and the hash of everything in a value that is hashed."""
        text = as_text(value)
        for term in () if text is None else self._digests(text):
            digest = hash64(self.path, term)
            yield (digest >> 1) % self.width, digest


@dataclass(frozen=True, slots=True)
class HashPart(_HashedPart):
    """1 or -1 at the place of the value, and 0 at all others."""

    kind: ClassVar[str] = "hash"

    def writer(self, first: int) -> Write:
        """Return the function that writes values into columns from number `first` on."""
        path, width = self.path, self.width
        missing = first + width if self.missing else None

        def write(value: Any, out: array[float], base: int) -> int:
            text = as_text(value)
            if text is None:
                return WRONG
            where, sign = place(path, text, width)
            out[base + first + where] = sign
            if missing is not None:
                out[base + missing] = 0.0
            return OK if text is value else CONVERTED

        return write


@dataclass(frozen=True, slots=True)
class TextPart(_HashedPart):
    """The sum of 1 or -1 at the place of each word and pair of words, over its length."""

    kind: ClassVar[str] = "text"

    def _digests(self, text: str) -> Iterable[str]:
        return terms(text)

    def writer(self, first: int) -> Write:
        """Return the function that writes values into columns from number `first` on."""
        path, width = self.path, self.width
        missing = first + width if self.missing else None

        def write(value: Any, out: array[float], base: int) -> int:
            text = as_text(value)
            if text is None:
                return WRONG
            start = base + first
            for where, share in hashed_terms(path, text, width):
                out[start + where] = share
            if missing is not None:
                out[base + missing] = 0.0
            return OK if text is value else CONVERTED

        return write
