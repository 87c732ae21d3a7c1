"""The features of a linear model on named fields: actions, contexts, and crosses of both.

A round chooses which fields are crossed, within a budget of inputs (`encoders.crossing`), and
stores its choice in buffers, so that a model stays a function of its snapshot and its position.
Columns are centred, and scaled by field: a rare value is no larger than a frequent one. Before the
first round all columns, and all their products, share places by signed hashes.

Legend: N rows, K candidates, X and A columns, P products, F features, M draws of weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from bandexa_core.encoders.crossing import (
    MANY_FIELDS,
    MOST_BLOCKS,
    MOST_INPUTS,
    MOST_SHARED,
    Block,
    Layout,
    Products,
    crossed,
    first_blocks,
    found_crossing,
)
from bandexa_core.encoders.protocol import Raw
from bandexa_core.encoders.torch.dense import Array64, flat64, float64_of, with_constant
from bandexa_core.encoders.torch.fitted import FittedModule, Sample, Side
from bandexa_core.encoders.torch.mlp import check_sizes
from bandexa_core.encoders.torch.module import flatten
from bandexa_core.schema.shared import SharedColumns

AUTO, NO_CROSSES = "auto", "none"
_ROOM = MOST_BLOCKS + 2 * MANY_FIELDS  # blocks; those of actions and of declared crosses are more
_AT_ONCE = 1 << 21  # products


class Cross(NamedTuple):
    """A cross in use.

    Attributes:
        x, a: The numbers of the fields of contexts and of actions.
        inputs: The inputs that it has.
        shared: Whether it is how many values both have in common.
        gain: By which share of the variance of rewards it lowered the error of held-out rows.
    """

    x: int
    a: int
    inputs: int
    shared: bool
    gain: float


class CrossesEncoder(FittedModule):
    """F inputs of a linear model: fields of actions and of contexts, and crosses of both.

    Args:
        context_shape: Shape of a context, flattened here.
        action_dim: A; 0: each action has a posterior of its own over contexts, without crosses.
        crosses: "auto": chosen at rounds by their gain on held-out rows; "none"; or pairs of a
            field of contexts and one of actions.
        inputs: The most inputs of contexts and crosses together.
    """

    x_mean: Tensor
    x_scale: Tensor
    x_field: Tensor
    a_mean: Tensor
    a_scale: Tensor
    a_field: Tensor
    blocks: Tensor
    shared: Tensor

    def __init__(
        self,
        context_shape: tuple[int, ...],
        action_dim: int,
        *,
        crosses: Any = AUTO,
        inputs: int = MOST_INPUTS,
    ) -> None:
        super().__init__()
        check_sizes("inputs", [inputs], 4096)
        self._asked = _pairs(crosses)
        if not action_dim and self._asked:
            raise ValueError("encoder.params.crosses: actions have no features to be crossed")
        size_x, size_a = math.prod(context_shape), action_dim
        self._inputs, self.uses_action = inputs, action_dim > 0
        first = first_blocks(size_x, size_a, inputs, crosses=self._asked != ())
        self.output_dim = sum(block.places for block in first)
        self._hold(
            x_mean=torch.zeros(size_x),
            x_scale=torch.ones(size_x),
            x_field=torch.zeros(size_x),
            a_mean=torch.zeros(size_a),
            a_scale=torch.ones(size_a),
            a_field=torch.zeros(size_a),
            blocks=torch.zeros(_ROOM, len(Block._fields)),
            shared=torch.zeros(MOST_SHARED, 3),
        )
        self._fill(blocks=np.array(first, np.float64))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load what another module found, and have as many inputs."""
        keys = super().load_state_dict(*args, **kwargs)
        self._take_blocks()
        return keys

    def fit(self, sample: Sample) -> dict[str, float]:
        """Choose the crosses, and the scales of columns; see `FittedModule.fit`."""
        rng = np.random.Generator(np.random.Philox(key=sample.seed))
        x, a = sample.x, sample.a
        offered_KA = sample.offered if len(sample.offered) > 1 else a.rows
        shared = _fitting(sample.shared)
        layout = Layout(x.fields, a.fields, shared)
        found = found_crossing(
            x.rows, a.rows, sample.rewards, offered_KA, layout, self._numbered(x, a),
            self._inputs, rng,
        )  # fmt: skip
        columns = [
            np.stack([np.full(len(pair.x), number + 1), pair.x, pair.a], axis=1)
            for number, pair in enumerate(shared)
        ]
        self._fill(
            x_mean=found.x.mean, x_scale=found.x.scale, x_field=x.fields,
            a_mean=found.a.mean, a_scale=found.a.scale, a_field=a.fields,
            blocks=np.array(found.blocks, np.float64).reshape(-1, len(Block._fields)),
            shared=np.concatenate([np.zeros((0, 3)), *columns]),
        )  # fmt: skip
        self.num_rows.fill_(sample.num_rows)
        self._take_blocks()
        return {"crosses": float(len(self.crosses())), "inputs": float(self.output_dim)}

    def _numbered(self, x: Side, a: Side) -> Sequence[tuple[int, int]] | None:
        """Return the declared crosses of fields that there are; None: they are to be chosen."""
        if self._asked is None:
            return None
        of_x, of_a = ({name: number for number, name in enumerate(side.names)} for side in (x, a))
        present = set(x.fields.tolist()), set(a.fields.tolist())
        pairs = [(of_x.get(one, -1), of_a.get(other, -1)) for one, other in self._asked]
        return [pair for pair in pairs if pair[0] in present[0] and pair[1] in present[1]]

    def _take_blocks(self) -> None:
        self.output_dim = sum(block.places for block in self.chosen())

    def chosen(self) -> list[Block]:
        """Return the blocks of inputs in use."""
        rows = float64_of(self.blocks)
        return [
            Block(int(x), int(a), int(places), bool(shared), float(scale), float(gain))
            for x, a, places, shared, scale, gain in rows[rows[:, 2] > 0.0]
        ]

    def crosses(self) -> list[Cross]:
        """Return the crosses in use; none before the first fit."""
        return [
            Cross(block.x, block.a, block.places, block.shared, block.gain)
            for block in self.chosen()
            if block.is_cross and block.x >= 0
        ]

    def products(self) -> Products:
        """Return which products are summed for which input."""
        rows = float64_of(self.shared).astype(np.intp)
        pairs = [rows[rows[:, 0] == number + 1] for number in range(int(rows[:, 0].max()))]
        shared = [SharedColumns(pair[:, 1], pair[:, 2]) for pair in pairs]
        x, a = (float64_of(each).astype(np.intp) for each in (self.x_field, self.a_field))
        return Products.of(Layout(x, a, shared), self.chosen())

    def context_part(self, contexts: Tensor) -> Tensor:
        """Centred and scaled columns and a 1, (N, X + 1)."""
        x = (flatten(contexts, torch.float64) - self.x_mean) * self.x_scale
        return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)

    def action_part(self, actions: Tensor) -> Tensor:
        """Centred and scaled columns and a 1, (K, A + 1)."""
        a = (actions.to(torch.float64) - self.a_mean) * self.a_scale
        return torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], dim=1)

    def combine(self, context_parts: Tensor, action_parts: Tensor) -> Tensor:
        """Sum the products, (N or 1, X + 1) and (N, A + 1) -> (N, F)."""
        x, a, place, weight, _ = map(torch.from_numpy, self.products())
        terms = context_parts[:, x] * weight * action_parts[:, a]
        out = torch.zeros(len(terms), self.output_dim, dtype=terms.dtype)
        return out.index_add(1, place, terms)


class _Columns(NamedTuple):
    """Inputs that are columns of contexts, (F,) each.

    Attributes:
        x: Which columns; None: all of them, in their order.
        mean, scale, weight: An input is (column - mean) scale weight.
    """

    x: NDArray[np.intp] | None
    mean: Array64
    scale: Array64
    weight: Array64

    def of(self, x_NX: Array64) -> Array64:
        """Return the inputs of rows and a 1, (N, F + 1)."""
        z_ND = np.empty((len(x_NX), len(self.mean) + 1))
        z_NF = z_ND[:, :-1]
        np.subtract(x_NX if self.x is None else x_NX[:, self.x], self.mean, out=z_NF)
        z_NF *= self.scale
        z_NF *= self.weight
        z_ND[:, -1] = 1.0
        return z_ND


class CrossesServing:
    """Serves a crosses encoder in numpy: the same map."""

    def __init__(self, module: CrossesEncoder) -> None:
        self.feature_dim = module.output_dim + 1
        self.uses_action = module.uses_action
        self._x_mean, self._x_scale = float64_of(module.x_mean), float64_of(module.x_scale)
        self._a_mean, self._a_scale = float64_of(module.a_mean), float64_of(module.a_scale)
        self._products = products = module.products()
        num, size_a = len(products.place), len(self._a_mean)
        ones, terms = np.ones(num), np.arange(num)
        self._columns = None if module.uses_action else self._own_columns()
        # Sums the terms of products by the column of actions that they have.
        self._by_action = csr_array((ones, (products.a, terms)), shape=(size_a + 1, num))

    def _own_columns(self) -> _Columns | None:
        """Return the columns that inputs are, if each is one column of the context."""
        places, x = self._products.place, self._products.x
        num = self.feature_dim - 1
        if len(places) != num or len(np.unique(places)) < num or (x >= len(self._x_mean)).any():
            return None
        x = x[np.argsort(places)]
        found = self._x_mean[x], self._x_scale[x], self._products.weight[np.argsort(places)]
        in_order = np.array_equal(x, np.arange(len(self._x_mean)))
        return _Columns(None if in_order else x, *found)

    def context_part(self, context: Raw) -> Array64:
        """See `SplitEncoder.context_part`."""
        part: Array64 = self._context_parts(context[None])[0]
        return part

    def _context_parts(self, contexts: Raw) -> Array64:
        return with_constant((flat64(contexts) - self._x_mean) * self._x_scale)

    def action_part(self, actions: NDArray[np.float32]) -> Array64:
        """See `SplitEncoder.action_part`."""
        return with_constant((actions.astype(np.float64) - self._a_mean) * self._a_scale)

    def combine(self, context_part: Array64, action_parts: Array64) -> Array64:
        """See `SplitEncoder.combine`."""
        return self._combine(context_part.reshape(1, -1), action_parts)

    def encode(self, contexts: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode`."""
        if self._columns is not None:  # the same numbers, bit for bit, in a third of the time
            return self._columns.of(flat64(contexts))
        return self._combine(self._context_parts(contexts), self.action_part(actions))

    def encode_batch(self, context: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode_batch`."""
        return self.combine(self.context_part(context), self.action_part(actions))

    def _combine(self, x: Array64, a: Array64) -> Array64:
        size, num = self.feature_dim - 1, len(a)
        step = max(1, _AT_ONCE // max(1, len(self._products.place)))
        if 0 < num <= step:
            return with_constant(crossed(x, a, self._products, size))
        parts = [np.zeros((0, size))]
        for first in range(0, num, step):
            of_x = x if len(x) == 1 else x[first : first + step]
            parts.append(crossed(of_x, a[first : first + step], self._products, size))
        return with_constant(np.concatenate(parts))

    def fold(self, context_part: Array64, weights: Array64) -> tuple[Array64, Array64]:
        """See `FoldingEncoder.fold`: sums of weights over the products of each action's column."""
        products = self._products
        terms_MP = weights[:, products.place] * (
            context_part.reshape(-1)[products.x] * products.weight
        )
        queries: Array64 = np.ascontiguousarray((self._by_action @ terms_MP.T).T)
        return queries, weights[:, -1]


def _pairs(crosses: Any) -> tuple[tuple[str, str], ...] | None:
    """Return declared pairs of fields; None: they are chosen."""
    if crosses == AUTO:
        return None
    if crosses == NO_CROSSES:
        return ()
    if isinstance(crosses, str) or not isinstance(crosses, Sequence):
        raise ValueError(
            'encoder.params.crosses: must be "auto", "none", or pairs of a field of contexts and'
            " one of actions"
        )
    if not 1 <= len(crosses) <= MANY_FIELDS:
        raise ValueError(f"encoder.params.crosses: 1 to {MANY_FIELDS} pairs are needed")
    found = []
    for number, pair in enumerate(crosses):
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2
        if not is_pair or not all(isinstance(name, str) for name in pair):
            raise ValueError(
                f"encoder.params.crosses[{number}]: must name a field of contexts and one of"
                " actions"
            )
        found.append((pair[0], pair[1]))
    if len(set(found)) < len(found):
        raise ValueError("encoder.params.crosses: each pair may be given once")
    return tuple(found)


def _fitting(pairs: Sequence[SharedColumns]) -> list[SharedColumns]:
    """Return the pairs with most values in common, as far as there is room."""
    found, room = [], MOST_SHARED
    for pair in pairs:
        if len(pair.x) <= room:
            found.append(pair)
            room -= len(pair.x)
    return found
