"""Free text as words and pairs of neighbouring words, hashed into places."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from bandexa_core.schema.hashing import hash64

_WORD = re.compile(r"\w+")
_CACHED_CHARACTERS = 64  # search terms and titles; longer texts hardly repeat


def terms(text: str) -> list[str]:
    """Return the lower-cased words of a text, then the pairs of neighbouring ones."""
    words = _WORD.findall(text.lower())
    return words + [f"{one} {other}" for one, other in pairwise(words)]


def is_prose(text: str) -> bool:
    """Return whether a text has several words, with blanks between them."""
    return len(text.split(maxsplit=1)) > 1


def hashed_terms(path: str, text: str, width: int) -> Sequence[tuple[int, float]]:
    """Return place and value of the terms of a text in a vector (width,) of length 1.

    A text without words, or whose terms cancel out, has none.
    """
    return (_hashed if len(text) > _CACHED_CHARACTERS else _cached)(path, text, width)


def _hashed(path: str, text: str, width: int) -> Sequence[tuple[int, float]]:
    sums: dict[int, int] = {}
    for term in terms(text):
        digest = hash64(path, term)
        where = (digest >> 1) % width
        sums[where] = sums.get(where, 0) + (1 if digest & 1 else -1)
    square = sum([num * num for num in sums.values()])
    if not square:
        return ()
    share = 1.0 / math.sqrt(square)
    return [(where, num * share) for where, num in sums.items()]


_cached = lru_cache(1 << 12)(_hashed)
