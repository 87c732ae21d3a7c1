"""A number: its scaled value, and pieces of it, so that a linear model learns curves.

The pieces are the piecewise-linear encoding of Gorishniy, Rubachev and Babenko, "On Embeddings for
Numerical Features in Tabular Deep Learning", NeurIPS 2022: with edges e_0 < ... < e_T, piece t is
(x - e_t) / (e_{t+1} - e_t), 0 below and 1 above; the first goes down to -1 and the last up to 2, so
that values outside of the edges are recognised without owning the model. Where every value is an
edge, a linear model of the pieces can give each value its own effect, as with a column per value,
while neighbours share what is learned.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

from bandexa_core.schema.limits import MAX_NUMBER
from bandexa_core.schema.observed import CONVERTED, EXTREME, OK, WRONG
from bandexa_core.schema.parts.part import BOUND, Part, Write, is_scale, require
from bandexa_core.schema.values import as_number

Curve = Literal["linear", "log", "quantile"]
_ROOT_12 = math.sqrt(12.0)  # a uniform share has the deviation 1 / sqrt(12)


@dataclass(frozen=True, slots=True)
class NumberPart(Part):
    """A number x as t(x), which is scaled, and which pieces are taken of.

    Attributes:
        curve: "linear": t = x; "log": t = asinh(x / unit), the sign with the order of magnitude;
            "quantile": t is the share of values below x, by linear interpolation of the knots.
        unit: Of "log": around it the curve bends from linear to logarithmic; else unused.
        knots: Of "quantile": values in ascending order, and ...
        shares: ... the share of values below each.
        mean: Subtracted from t.
        std: What (t - mean) is divided by.
        far: A scaled value of a larger size is no value of this number: it counts as missing.
        edges: The T + 1 edges of the pieces, on t, in ascending order; none: no pieces.
        middle: t of a usual value, whose pieces a missing one has: neither low nor high.
    """

    kind: ClassVar[str] = "number"

    curve: Curve
    unit: float
    knots: tuple[float, ...]
    shares: tuple[float, ...]
    mean: float
    std: float
    far: float
    edges: tuple[float, ...]
    middle: float

    def __post_init__(self) -> None:
        require(is_scale(self.mean, self.std, self.far), "a usable scale")
        require(0.0 < self.unit < math.inf, "a unit above 0")
        require(_ascends(self.edges) and len(self.edges) != 1, "edges in ascending order")
        require(math.isfinite(self.middle), "a finite middle")
        if self.curve == "quantile":
            require(_ascends(self.knots) and len(self.knots) > 1, "knots in ascending order")
            require(len(self.shares) == len(self.knots), "a share for each knot")
            require(all(0.0 <= share <= 1.0 for share in self.shares), "shares of 0 to 1")

    def _names(self) -> Iterable[str]:
        yield ""
        yield from (f"[{number}]" for number in range(max(len(self.edges) - 1, 0)))

    def _fill(self) -> Sequence[float]:
        return [0.0, *pieces(self.middle, self.edges)]

    def bent(self) -> Callable[[float], float]:
        """Return t as a function of x."""
        if self.curve == "log":
            unit = self.unit
            return lambda x: math.asinh(x / unit)
        if self.curve == "quantile":
            knots, shares = self.knots, self.shares
            return lambda x: share_below(x, knots, shares)
        return lambda x: x

    def writer(self, first: int) -> Write:
        """Return the function that writes values into columns from number `first` on."""
        bend = None if self.curve == "linear" else self.bent()
        mean, std, far, edges = self.mean, self.std, self.far, self.edges
        start, missing = first + 1, first + len(self.columns) - 1 if self.missing else None
        num = max(len(edges) - 1, 0)
        rising = [array("f", [1.0] * full + [0.0] * (num - full)) for full in range(num)]
        per_width = [1.0 / (high - low) for low, high in pairwise(edges)]

        def write(value: Any, out: array[float], base: int) -> int:
            x = value if type(value) is float else as_number(value)
            if x is None:
                return WRONG
            if not -MAX_NUMBER <= x <= MAX_NUMBER:
                return EXTREME if math.isfinite(x) else WRONG
            t = x if bend is None else bend(x)
            scaled = (t - mean) / std
            if not -far <= scaled <= far:
                return EXTREME
            out[base + first] = min(max(scaled, -BOUND), BOUND)
            if num:
                at = base + start
                piece = min(max(bisect_right(edges, t) - 1, 0), num - 1)
                out[at : at + num] = rising[piece]
                part = (t - edges[piece]) * per_width[piece]
                out[at + piece] = min(max(part, -1.0), 2.0)
            if missing is not None:
                out[base + missing] = 0.0
            kind = type(value)
            return OK if kind is float or kind is int else CONVERTED

        return write


def pieces(t: float, edges: Sequence[float]) -> list[float]:
    """Return the pieces of a number (T,), given T + 1 edges; none of fewer than 2 edges."""
    num = max(len(edges) - 1, 0)
    found = []
    for number, (low, high) in enumerate(pairwise(edges)):
        least = -1.0 if number == 0 else 0.0
        most = 2.0 if number == num - 1 else 1.0
        found.append(min(max((t - low) / (high - low), least), most))
    return found


def share_below(x: float, knots: Sequence[float], shares: Sequence[float]) -> float:
    """Return the scaled share of values below x: 0 in the middle, of deviation 1 over all values.

    Linear between the knots, constant outside of them.
    """
    number = bisect_right(knots, x)
    if number == 0:
        share = shares[0]
    elif number == len(knots):
        share = shares[-1]
    else:
        low, high = knots[number - 1], knots[number]
        part = (x - low) / (high - low)
        share = shares[number - 1] + part * (shares[number] - shares[number - 1])
    return _ROOT_12 * (share - 0.5)


def _ascends(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values)) and all(low < high for low, high in pairwise(values))
