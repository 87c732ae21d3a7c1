"""How far the values of recent objects are from those that an encoding was fitted to.

Each field has bins: tenths of the rows of a number, the most frequent categories, four hours of the
day of a time, hashes of words and ids, and one bin for what is missing or cannot be read. The
population stability index of a field compares the shares p of recent objects with the shares q of
the encoding's rows over its B bins:

    PSI = sum (p - q) ln(p / q) - (B - 1) (1/n + 1/m),  0 at least

The second term is what n recent objects and m rows of one and the same distribution have by chance,
on average. By a rule of thumb, a field of more than 0.1 is worth a look, and more than 0.25 is
another population: Siddiqi, "Credit Risk Scorecards", 2006.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.schema.fields import Field
from bandexa_core.schema.hashing import bucket
from bandexa_core.schema.objects import JsonObject, flatten
from bandexa_core.schema.sets import gathered
from bandexa_core.schema.values import DAY_S, as_number, as_text, as_texts, as_time, as_truth
from bandexa_core.schema.words import terms

TENTHS = 10
MOST_VALUES = 9
HASHED_BINS = 8
HOURS = tuple(number * DAY_S / 6 for number in range(1, 6))
RECENT = 256  # counted objects, after which earlier ones count half
LEAST = 100  # recent objects before there is an index
MOST_ROWS = 2000  # of an encoding, which say enough of tenths
_HASHED = ("hash", "text")
_CATEGORIES = ("bool", "category", "categories")


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins of one field, and the shares of the rows of an encoding in them.

    Attributes:
        path: Its path.
        type: The type of the field.
        cuts: Between the bins of a number, or of the seconds of a day.
        values: The categories that have a bin; all others share one.
        shares: Of each bin; the last one is for what is missing or cannot be read.
    """

    path: str
    type: str
    cuts: tuple[float, ...]
    values: tuple[str, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.shares) != _num_bins(self.type, self.cuts, self.values):
            raise ValueError("encoding: bins have a share each")

    def of(self, value: Any) -> Iterable[int]:
        """Return the bins of a value; a value with several entries may have several."""
        return _bins(self.path, self.type, self.cuts, self.values, value) or (len(self.shares) - 1,)


def bins_of(
    types: Mapping[str, Field], rows: Sequence[Mapping[str, Any]], weights_N: NDArray[np.float64]
) -> tuple[Bins, ...]:
    """Return the bins of all fields that are inputs.

    Args:
        types: The fields.
        rows: Values by path, N of them.
        weights_N: Their weights.
    """
    found = []
    each = -(-len(rows) // MOST_ROWS)
    rows, weights_N = rows[::each], weights_N[::each]
    for path, known in types.items():
        if known.type == "ignore":
            continue
        values = [row.get(path) for row in rows]
        cuts, kept = _cuts(known.type, values), _frequent(known.type, values)
        sums = np.zeros(_num_bins(known.type, cuts, kept))
        for value, weight in zip(values, weights_N.tolist(), strict=True):
            places = _bins(path, known.type, cuts, kept, value) or [len(sums) - 1]
            for place in places:
                sums[place] += weight / len(places)
        shares = sums / sums.sum()
        found.append(Bins(path, known.type, cuts, kept, tuple(shares.round(6).tolist())))
    return tuple(found)


def _num_bins(kind: str, cuts: Sequence[float], values: Sequence[str]) -> int:
    if kind in _HASHED:
        return HASHED_BINS + 1
    return len(cuts) + len(values) + 2  # the others, or the first bin of a number, and missing


def _cuts(kind: str, values: Sequence[Any]) -> tuple[float, ...]:
    if kind == "time":
        return HOURS
    numbers = [number for number in map(as_number, values) if number is not None]
    if kind != "number" or not numbers:
        return ()
    shares = np.arange(1, TENTHS) / TENTHS
    return tuple(np.unique(np.quantile(numbers, shares, method="lower")).tolist())


def _frequent(kind: str, values: Sequence[Any]) -> tuple[str, ...]:
    if kind not in _CATEGORIES:
        return ()
    counts = Counter(text for value in values for text in _texts(kind, value))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(text for text, _ in ranked[:MOST_VALUES])


def _texts(kind: str, value: Any) -> Sequence[str]:
    """Return the categories of a value; none where it is missing or cannot be read."""
    if value is None:
        return ()
    if kind == "categories":
        return as_texts(value) or ()
    text = as_text(as_truth(value) if kind == "bool" else value)
    return () if text is None else (text,)


def _bins(
    path: str, kind: str, cuts: Sequence[float], values: Sequence[str], value: Any
) -> Sequence[int]:
    """Return the bins of a value; none where it is missing or cannot be read."""
    if value is None:
        return ()
    if kind == "number":
        number = as_number(value)
        return () if number is None else (bisect_right(cuts, number),)
    if kind == "time":
        time = as_time(value)
        return () if time is None else (bisect_right(cuts, time[1] % DAY_S),)
    if kind in _HASHED:
        text = as_text(value)
        found = () if text is None else terms(text) if kind == "text" else (text,)
        return [bucket(path, term, HASHED_BINS) for term in found]
    if kind in _CATEGORIES:
        places = {text: place for place, text in enumerate(values)}
        return [places.get(text, len(values)) for text in _texts(kind, value)]
    return (0,) if isinstance(value, list | tuple) else ()  # of a vector, whether it is there


class RecentBins:
    """The bins of recent objects under one encoding.

    Args:
        bins: Those of the encoding.
        num_rows: The rows behind it, m.
        sets: The paths of objects that it reads as sets.
    """

    def __init__(
        self, bins: Sequence[Bins], num_rows: int, sets: Collection[str] = frozenset()
    ) -> None:
        self._bins = bins
        self._sets = sets
        self._num_rows = min(num_rows, MOST_ROWS)
        self._num = 0
        self._sums = [np.zeros(len(each.shares)) for each in bins]
        self._found: dict[str, float] | None = None  # until the next object

    def add(self, value: JsonObject) -> None:
        """Count an object."""
        if not self._bins:
            return
        if self._num and self._num % RECENT == 0:
            self._sums = [sums / 2 for sums in self._sums]
        self._num += 1
        self._found = None
        found = flatten(value)
        if self._sets:
            found = gathered(found, self._sets)
        for each, sums in zip(self._bins, self._sums, strict=True):
            places = tuple(each.of(found.get(each.path)))
            for place in places:
                sums[place] += 1 / len(places)

    def drift(self) -> dict[str, float]:
        """Return the index of each field by its path; none before 100 objects."""
        if self._num < LEAST:
            return {}
        if self._found is None:
            pairs = zip(self._bins, self._sums, strict=True)
            self._found = {
                each.path: _index(each.shares, sums, self._num_rows) for each, sums in pairs
            }
        return self._found


def _index(shares: Sequence[float], sums_B: NDArray[np.float64], num_rows: int) -> float:
    size, n, m = len(sums_B), float(sums_B.sum()), max(1, num_rows)
    p_B = (sums_B + 0.5) / (n + 0.5 * size)  # no bin is empty: a logarithm is taken
    q_B = (np.array(shares) * m + 0.5) / (m + 0.5 * size)
    by_chance = (size - 1) * (1.0 / n + 1.0 / m)
    return max(0.0, float(((p_B - q_B) * np.log(p_B / q_B)).sum()) - by_chance)
