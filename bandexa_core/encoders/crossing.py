"""Which fields of contexts are crossed with which of actions, by what they predict of unseen rows.

A linear model on named features needs products of what contexts and actions have: sums alone rank
actions alike for every context. Of all pairs of fields a few hold what matters, so pairs compete
for a budget of inputs. They are taken one by one, the one first that lowers the squared error of
held-out rows most, as long as the gain is more than its standard error (forward selection with
cross-validation; Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 2009,
sections 3.3 and 7.10). Every block of inputs is a share of the variance of rewards, whatever number
of columns it has, so that wide fields are not expected to say more than narrow ones.

Legend: N rows, X and A columns of an encoded context and action, P products, F inputs, B blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from bandexa_core.encoders.evidence import Columns, usual_columns
from bandexa_core.schema.shared import SharedColumns

Array64 = NDArray[np.float64]
Places = NDArray[np.intp]

NONE, WHOLE = -1, -2  # in place of a field: none of this side, or all of its columns
MOST_INPUTS = 256  # of contexts and crosses together
MOST_PLACES = 64  # of a block: one with more products shares these by a hash
UNHASHED = 128  # of a block whose products each have an input of their own
MOST_PRODUCTS = 4096  # of a block
MOST_BLOCKS = 64
MANY_FIELDS = 24  # of a side: beyond it their columns are hashed together
MOST_SHARED = 256  # values that both sides have
MOST_CANDIDATES = 64  # crosses that are looked at
MOST_ROWS, FOLDS = 1500, 5
LEAST_ROWS = 2 * FOLDS
STANDARD_ERRORS = 1.0
# What is expected of actions, contexts and crosses, as shares of the variance of rewards, where
# NOISE is chance; held-out rows say by how much to multiply them.
OF_ACTIONS, OF_CONTEXTS, OF_CROSSES, NOISE = 0.05, 0.02, 0.10, 0.9
_MULTIPLES = 4.0 ** np.arange(-1, 5)
_FIRST_SCALE = 8**-0.5  # objects have some eight fields
_FEW = 3  # crosses, which share what is expected of crosses before more are known


class Block(NamedTuple):
    """The inputs of one field, or of the products of two.

    Attributes:
        x, a: The fields of contexts and of actions; `NONE` or `WHOLE`.
        places: Its inputs.
        shared: Of the products, those of values that both fields have alone, in one sum.
        scale: What its inputs are multiplied by.
        gain: By which share of the variance of rewards it lowered the error of held-out rows when
            it was taken; 0 where that was not asked.
    """

    x: int
    a: int
    places: int
    shared: bool = False
    scale: float = 1.0
    gain: float = 0.0

    @property
    def is_cross(self) -> bool:
        """Whether it has products of both sides."""
        return self.x != NONE and self.a != NONE


class Layout(NamedTuple):
    """What columns of both sides are.

    Attributes:
        x, a: For each column, the number of its field.
        shared: Columns that stand for the same values, by pairs of fields.
    """

    x: Places
    a: Places
    shared: Sequence[SharedColumns] = ()

    def columns(self, block: Block) -> tuple[Places, Places]:
        """Return the columns of a block's fields; `NONE` has the constant 1 behind the others."""
        return _columns(self.x, block.x), _columns(self.a, block.a)

    def shared_by(self, x: int, a: int) -> SharedColumns | None:
        """Return the columns of values that two fields have in common."""
        pairs = (each for each in self.shared if len(each.x))
        return next(
            (each for each in pairs if self.x[each.x[0]] == x and self.a[each.a[0]] == a), None
        )


class Products(NamedTuple):
    """Which products are summed for which input, in the order of inputs, (P,) each.

    Attributes:
        x, a: The factors; the number of columns of a side stands for the constant 1.
        place: The input that a product is added to.
        weight: What it is multiplied by.
        starts: The first product of each input that has one.
    """

    x: Places
    a: Places
    place: Places
    weight: Array64
    starts: Places

    @classmethod
    def of(cls, layout: Layout, blocks: Sequence[Block]) -> Products:
        """Return the products of blocks, whose inputs follow each other."""
        parts, first = [], 0
        for block in blocks:
            x, a, place, sign = _block_products(layout, block)
            order = np.argsort(place, kind="stable")
            parts.append((x[order], a[order], first + place[order], block.scale * sign[order]))
            first += block.places
        none = (np.zeros(0, np.intp),) * 3 + (np.zeros(0),)
        columns = zip(none, *parts, strict=True) if parts else zip(none, strict=True)
        x, a, place, weight = (np.concatenate(each) for each in columns)
        return cls(x, a, place, weight, np.flatnonzero(np.diff(place, prepend=-1)))


class Crossing(NamedTuple):
    """What a round found.

    Attributes:
        x, a: How the columns of either side are centred and scaled.
        blocks: The inputs.
    """

    x: Columns
    a: Columns
    blocks: tuple[Block, ...]


def first_blocks(num_x: int, num_a: int, budget: int, *, crosses: bool) -> tuple[Block, ...]:
    """Return the blocks before anything was fitted: hashes of all columns, and of all products."""
    contexts = Block(WHOLE, NONE, max(1, min(num_x, MOST_PLACES, budget)))
    if not num_a:
        whole = contexts._replace(places=max(1, min(num_x, budget)))
        return tuple(_shared_out([whole], _FIRST_SCALE**2))
    actions = Block(NONE, WHOLE, min(num_a, MOST_PLACES))
    rest = budget - contexts.places
    products = [Block(WHOLE, WHOLE, min(num_x * num_a, rest))] if crosses and rest > 0 else []
    # Few of the places are not 0, and their number is not known yet.
    return tuple(
        each._replace(scale=each.scale * _FIRST_SCALE ** (2 if each.is_cross else 1))
        for each in _shared_out((actions, contexts, *products), 1.0)
    )


def found_crossing(
    x_NX: Array64,
    a_NA: Array64,
    rewards_N: Array64,
    offered_KA: Array64,
    layout: Layout,
    asked: Sequence[tuple[int, int]] | None,
    budget: int,
    rng: np.random.Generator,
) -> Crossing:
    """Return the inputs that predict held-out rows best.

    Args:
        x_NX: Encoded contexts of learned rows.
        a_NA: Their encoded actions.
        rewards_N: Their rewards.
        offered_KA: The actions that may be chosen, by which those columns are centred and scaled.
        layout: What the columns are.
        asked: The crosses that are declared; None: they are chosen.
        budget: The most inputs of contexts and crosses.
        rng: Draws rows where there are many, and folds.
    """
    x, a = _by_field(x_NX, layout.x), _by_field(offered_KA, layout.a)
    some = rng.permutation(len(rewards_N))[:MOST_ROWS]
    spread = float(rewards_N.std())
    rewards = (rewards_N[some] - rewards_N[some].mean()) / (spread if spread > 0.0 else 1.0)
    rows = _Rows(x.scaled(x_NX[some]), a.scaled(a_NA[some]), rewards, layout)
    chosen = _action_blocks(layout)
    given = [_declared(layout, pair, budget // max(1, len(asked or ()))) for pair in asked or ()]
    contexts = [Block(field, NONE, _places(num)) for field, num in _counts(layout.x)]
    candidates = rows.likely([*contexts, *([] if asked is not None else _every_cross(layout))])
    if not a_NA.shape[1]:
        chosen, candidates = _whole_contexts(layout, budget), []
    if not spread > 0.0 or len(some) < LEAST_ROWS:
        return Crossing(x, a, tuple(_shared_out(rows.normed([*chosen, *given]), 1.0)))
    blocks, multiple = _selected(rows, chosen, given, candidates, budget)
    return Crossing(x, a, tuple(_shared_out(blocks, multiple)))


def _selected(
    rows: _Rows,
    chosen: Sequence[Block],
    given: Sequence[Block],
    candidates: Sequence[Block],
    budget: int,
) -> tuple[list[Block], float]:
    """Return blocks and by what to multiply what is expected of them."""
    blocks = rows.normed(chosen)
    error_N, multiple = rows.fitted(blocks, 1.0)
    left = budget
    for block in rows.normed(given):
        gain, _ = rows.gain_of(block, error_N, multiple)
        blocks.append(block._replace(gain=gain))
        left -= block.places
    if given:
        error_N, multiple = rows.fitted(blocks, multiple)
    waiting = rows.normed(candidates)
    while waiting and len(blocks) < MOST_BLOCKS:
        waiting = [block for block in waiting if block.places <= left]
        gains = [rows.gain_of(block, error_N, multiple) for block in waiting]
        # What gains less than chance now hardly gains more once others have explained their part.
        order = np.argsort([-gain for gain, _ in gains], kind="stable")
        best = next((n for n in order if gains[n][0] > STANDARD_ERRORS * gains[n][1]), None)
        if best is None:
            break
        block = waiting[best]
        now_N, now = rows.fitted([*blocks, block], multiple)
        gain = float((error_N**2 - now_N**2).mean())
        waiting = [
            each for number, each in enumerate(waiting)
            if number != best and gains[number][0] > -gains[number][1]
        ]  # fmt: skip
        if gain > 0.0:
            blocks.append(block._replace(gain=gain))
            error_N, multiple, left = now_N, now, left - block.places
    return blocks, multiple


class _Rows:
    """Rows in folds, each of which is predicted from the others."""

    def __init__(self, x_NX: Array64, a_NA: Array64, rewards_N: Array64, layout: Layout) -> None:
        ones = np.ones((len(rewards_N), 1))
        self._x, self._a = np.hstack([x_NX, ones]), np.hstack([a_NA, ones])
        self._rewards, self._layout = rewards_N, layout
        edges = np.linspace(0, len(rewards_N), FOLDS + 1).astype(int)
        self._folds = [slice(*edge) for edge in pairwise(edges)]
        self._known: dict[tuple[int, int, bool], Array64] = {}

    def normed(self, blocks: Sequence[Block]) -> list[Block]:
        """Return blocks whose rows have the mean squared length 1; without those that are 0."""
        found = []
        for block in blocks:
            length = float((self._inputs(block) ** 2).sum(axis=1).mean())
            if length > 1e-9:
                found.append(block._replace(scale=length**-0.5))
        return found

    def likely(self, blocks: Sequence[Block]) -> Sequence[Block]:
        """Return the blocks whose products go with rewards most, where there are many."""
        if len(blocks) <= MOST_CANDIDATES:
            return blocks
        layout, scores = self._layout, np.empty(len(blocks))
        for field in {block.x for block in blocks}:  # one at a time: sides may be wide
            of_x, _ = layout.columns(Block(field, NONE, 1))
            squares_A = (((self._x[:, of_x] * self._rewards[:, None]).T @ self._a) ** 2).sum(axis=0)
            for number, block in enumerate(blocks):
                if block.x == field:
                    scores[number] = squares_A[layout.columns(block)[1]].sum()
        return [blocks[n] for n in np.argsort(scores, kind="stable")[::-1][:MOST_CANDIDATES]]

    def _inputs(self, block: Block) -> Array64:
        key = block.x, block.a, block.shared
        known = self._known.get(key)
        if known is None:
            products = Products.of(self._layout, [block._replace(scale=1.0)])
            known = self._known[key] = crossed(self._x, self._a, products, block.places)
        return known

    def gain_of(self, block: Block, error_N: Array64, multiple: float) -> tuple[float, float]:
        """Return what a block alone gains on the errors so far, and its standard error."""
        scale = block.scale * (multiple * OF_CROSSES / _FEW / NOISE) ** 0.5
        z_NF = scale * self._inputs(block)
        total, sums = z_NF.T @ z_NF, z_NF.T @ error_N
        predicted_N = np.empty(len(error_N))
        for fold in self._folds:
            z, error = z_NF[fold], error_N[fold]
            inner = total - z.T @ z
            inner[np.diag_indices(len(inner))] += 1.0
            predicted_N[fold] = z @ cho_solve(
                cho_factor(inner, overwrite_a=True), sums - z.T @ error
            )
        gains_N = error_N**2 - (error_N - predicted_N) ** 2
        return float(gains_N.mean()), float(gains_N.std() / len(gains_N) ** 0.5)

    def fitted(self, blocks: Sequence[Block], multiple: float) -> tuple[Array64, float]:
        """Return the errors of held-out rows, and the best multiple near to the one given."""
        parts = [b.scale * self._inputs(b) for b in _shared_out(blocks, 1.0)]
        z_NF = np.hstack([*parts, np.ones((len(self._rewards), 1))])
        total, sums = z_NF.T @ z_NF, z_NF.T @ self._rewards
        place = int(np.abs(np.log(_MULTIPLES / multiple)).argmin())
        tried = _MULTIPLES[max(0, place - 1) : place + 2]
        errors = np.empty((len(tried), len(z_NF)))
        for fold in self._folds:
            z, rewards = z_NF[fold], self._rewards[fold]
            inner, right = total - z.T @ z, sums - z.T @ rewards
            for number, each in enumerate(tried):
                whole = inner.copy()
                whole[np.diag_indices(len(whole))] += 1.0 / each
                found = cho_solve(cho_factor(whole, overwrite_a=True), right)
                errors[number, fold] = rewards - z @ found
        best = int((errors**2).sum(axis=1).argmin())
        return errors[best], float(tried[best])


def crossed(x_NX: Array64, a_NA: Array64, products: Products, num: int) -> Array64:
    """Return the inputs of rows whose last columns are 1, (N, F); one side may have one row."""
    if not len(products.place):
        return np.zeros((max(len(x_NX), len(a_NA)), num))
    terms = x_NX[:, products.x] * products.weight * a_NA[:, products.a]
    starts = products.starts
    if len(starts) == num and len(terms.T) == num:
        return terms
    out = np.zeros((len(terms), num))
    out[:, products.place[starts]] = np.add.reduceat(terms, starts, axis=1)
    return out


def _shared_out(blocks: Sequence[Block], multiple: float) -> list[Block]:
    """Return normed blocks with the scale of their share of what is expected."""
    crosses = sum(block.is_cross for block in blocks)
    contexts = sum(block.a == NONE for block in blocks)
    actions = len(blocks) - crosses - contexts
    found = []
    for block in blocks:
        if block.is_cross:
            share = OF_CROSSES / max(crosses, _FEW if block.x != WHOLE else 1)
        elif block.a == NONE:
            share = (OF_CONTEXTS if actions else OF_CROSSES) / contexts
        else:
            share = OF_ACTIONS / actions
        found.append(block._replace(scale=block.scale * (multiple * share / NOISE) ** 0.5))
    return found


def _by_field(rows: Array64, fields: Places) -> Columns:
    """Return columns centred, and scaled so that each field varies by 1 in all."""
    if not rows.shape[1]:
        return Columns(np.zeros(0), np.zeros(0))
    columns, groups = usual_columns(rows, fields)
    vary = len(np.unique(groups[columns.scale > 0.0]))
    return Columns(columns.mean, columns.scale * vary**0.5)


def _counts(fields: Places) -> list[tuple[int, int]]:
    numbers, counts = np.unique(fields, return_counts=True)
    return [(int(number), int(count)) for number, count in zip(numbers, counts, strict=True)]


def _places(num: int) -> int:
    return num if num <= UNHASHED else MOST_PLACES


def _action_blocks(layout: Layout) -> list[Block]:
    fields = _counts(layout.a)
    if len(fields) > MANY_FIELDS:
        return [Block(NONE, WHOLE, min(len(layout.a), UNHASHED))]
    total = sum(_places(num) for _, num in fields)
    most = min(1.0, MOST_INPUTS / max(1, total))
    return [Block(NONE, field, max(1, int(most * _places(num)))) for field, num in fields]


def _whole_contexts(layout: Layout, budget: int) -> list[Block]:
    """Return the blocks of contexts for actions without features, which each learn their own."""
    fields = _counts(layout.x)
    if len(layout.x) <= budget and len(fields) <= MANY_FIELDS:
        return [Block(field, NONE, num) for field, num in fields]
    return [Block(WHOLE, NONE, min(len(layout.x), budget))]


def _every_cross(layout: Layout) -> list[Block]:
    """Return all crosses that may be taken, those of values in common first."""
    shared, others = [], []
    for x, num_x in _counts(layout.x):
        for a, num_a in _counts(layout.a):
            if layout.shared_by(x, a) is not None:
                shared.append(Block(x, a, 1, shared=True))
            if num_x * num_a <= MOST_PRODUCTS:
                others.append(Block(x, a, _places(num_x * num_a)))
    return [*shared, *others]


def _declared(layout: Layout, pair: tuple[int, int], budget: int) -> Block:
    x, a = pair
    num = int((layout.x == x).sum()) * int((layout.a == a).sum())
    return Block(x, a, max(1, min(num, budget)))


def _columns(fields: Places, field: int) -> Places:
    if field == NONE:
        return np.array([len(fields)])
    return np.arange(len(fields)) if field == WHOLE else np.flatnonzero(fields == field)


def _block_products(layout: Layout, block: Block) -> tuple[Places, Places, Places, Array64]:
    if block.shared:
        both = layout.shared_by(block.x, block.a)
        assert both is not None, "the fields have values in common"
        return both.x, both.a, np.zeros(len(both.x), np.intp), np.ones(len(both.x))
    of_x, of_a = layout.columns(block)
    x, a = np.repeat(of_x, len(of_a)), np.tile(of_a, len(of_x))
    if len(x) <= block.places:
        return x, a, np.arange(len(x)), np.ones(len(x))
    place, sign = _hashed(x, a, block.places)
    return x, a, place, sign


def _hashed(x: Places, a: Places, num: int) -> tuple[Places, Array64]:
    """Return a place below `num` and a sign for each pair of columns, by a fixed hash."""
    bits = x.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits ^= a.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    bits ^= bits >> np.uint64(29)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(32)
    sign = 1.0 - 2.0 * (bits >> np.uint64(63)).astype(np.float64)
    return ((bits & np.uint64(0x7FFFFFFF)) % np.uint64(num)).astype(np.intp), sign
