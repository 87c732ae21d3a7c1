"""The multi-layer perceptron encoder: z = a network of x, a and products of both, or of x."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bandexa_core.encoders.protocol import Raw
from bandexa_core.encoders.torch.dense import (
    Array32,
    Array64,
    DenseColumns,
    DenseLayers,
    flat64,
    float64_of,
    with_constant,
)
from bandexa_core.encoders.torch.module import SplitModule, flatten

MAX_LAYERS = 64
MOST_KEPT = 1 << 18  # numbers of action parts in columns; more take little beside the layers
FILM_SCALE = 0.5  # of the initial weights V: at first, actions scale the context's share by a half
MODERATE = 32.0  # float32 is not used for larger inputs or action parts: its error grows with them
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


class MLPEncoder(SplitModule):
    """Layers `hidden`, then F = `feature_dim` features, each after the activation.

    A first layer that adds the shares of context and action would leave it to the layers behind it
    to find out that an action suits one context better than another. So it sees interactions. Where
    context and action have the same size, their elementwise product is an input too: W_x x + b +
    W_a a + W_xa (x * a). Otherwise the action scales the share of the context:
    (W_x x + b) * (1 + V a) + W_a a, feature-wise linear modulation (FiLM; Perez, Strub, de Vries,
    Dumoulin & Courville, AAAI 2018, eq. 2).

    Args:
        context_shape: Shape of a context, flattened here.
        action_dim: A; not used with `heads="per_action"`.
        feature_dim: F.
        hidden: Sizes of the hidden layers, at least one.
        film: Whether actions scale the share of the context, where x * a is no input.
        elementwise: Whether x * a is an input where sizes agree; never with named features.
        heads: "shared": one posterior over z(x, a); "per_action": z(x), a posterior per action.
        activation: "tanh" (bounded features suit the linear head), "relu" or "silu".
    """

    def __init__(
        self,
        context_shape: tuple[int, ...],
        action_dim: int,
        *,
        feature_dim: int = 64,
        hidden: Sequence[int] = (128,),
        heads: str = "shared",
        activation: str = "tanh",
        film: bool = True,
        elementwise: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("film", film), ("elementwise", elementwise)):
            if not isinstance(value, bool):
                raise ValueError(f"encoder.params.{name}: must be true or false")
        check_sizes("feature_dim", [feature_dim])
        check_sizes("hidden", hidden)
        if heads not in ("shared", "per_action"):
            raise ValueError("encoder.params.heads: must be 'shared' or 'per_action'")
        check_activation(activation)
        self.uses_action = heads == "shared"
        if self.uses_action and not action_dim:
            raise ValueError(
                "action_dim: actions need features here: say how many each has, or set"
                " encoder.params.heads to 'per_action'"
            )
        self.output_dim = feature_dim
        size_x = math.prod(context_shape)
        size_a = action_dim if self.uses_action else 0
        self.interacts = elementwise and size_x == size_a
        sizes = [*hidden, feature_dim]
        size_xa = size_x if self.interacts else 0
        self._inputs = (size_x, size_a, size_xa)
        self.first = nn.Linear(size_x + size_a + size_xa, sizes[0])
        self.modulates = film and self.uses_action and not self.interacts
        if self.modulates:
            bound = FILM_SCALE / math.sqrt(size_a)
            self.film = nn.Linear(size_a, sizes[0], bias=False)
            nn.init.uniform_(self.film.weight, -bound, bound)
        layers: list[nn.Module] = [ACTIVATIONS[activation]()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)

    def input_sides(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        """See `EncoderModule.input_sides`."""
        size_x, size_a, _ = self._inputs
        if self.interacts:  # its inputs are numbers, which do not come and go
            return {}
        if not self.uses_action:
            return {"first.weight": [("x", size_x)]}
        film = {"film.weight": [("a", size_a)]} if self.modulates else {}
        return {"first.weight": [("x", size_x), ("a", size_a)]} | film

    def _weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first layer's W_x, W_a and W_xa, (H, X), (H, A) and (H, X or 0)."""
        w_x, w_a, w_xa = torch.split(self.first.weight, list(self._inputs), dim=1)
        return w_x, w_a, w_xa

    def context_part(self, contexts: Tensor) -> Tensor:
        """W_x x + b, (N, H); followed by x, (N, X), where the product is an input."""
        x_NX = flatten(contexts, self.first.weight.dtype)
        part = nn.functional.linear(x_NX, self._weights()[0], self.first.bias)
        return torch.cat([part, x_NX], dim=1) if self.interacts else part

    def action_part(self, actions: Tensor) -> Tensor:
        """W_a a, (K, H); followed by 1 + V a, (K, H), or by a, (K, A), where x * a is an input."""
        if not self.uses_action:
            return actions.new_zeros((len(actions), self.first.out_features))
        part = nn.functional.linear(actions, self._weights()[1])
        if self.modulates:
            return torch.cat([part, 1.0 + self.film(actions)], dim=1)
        return torch.cat([part, actions], dim=1) if self.interacts else part

    def combine(self, context_parts: Tensor, action_parts: Tensor) -> Tensor:
        """The layers after the first, (N, F)."""
        size = self.first.out_features
        first = context_parts[:, :size]
        if self.modulates:
            first = first * action_parts[:, size:]
        first = first + action_parts[:, :size]
        if self.interacts:
            products = context_parts[:, size:] * action_parts[:, size:]
            first = first + nn.functional.linear(products, self._weights()[2])
        features: Tensor = self.layers(first)
        return features


class _Columns(NamedTuple):
    """Action parts in float32 and in columns.

    Attributes:
        of: The parts as they were given, (K, V).
        parts: In columns, (V, K).
        largest: The size of the largest of them.
    """

    of: weakref.ref[Array64]
    parts: Array32
    largest: float


class MLPServing:
    """Serves an `MLPEncoder` in numpy: the same map, and the same split of its first layer."""

    def __init__(self, module: MLPEncoder) -> None:
        self.feature_dim = module.output_dim + 1
        self.uses_action = module.uses_action
        w_x, w_a, w_xa = (float64_of(part) for part in module._weights())
        self._w_x, self._w_a, self._w_xa = (np.ascontiguousarray(w.T) for w in (w_x, w_a, w_xa))
        self._bias = float64_of(module.first.bias)
        self._interacts = module.interacts
        self._modulates = module.modulates
        if module.modulates:
            self._film = np.ascontiguousarray(float64_of(module.film.weight).T)
        self._layers = DenseLayers(module.layers)
        self._w_xa32 = np.ascontiguousarray(w_xa, np.float32)
        self._columns = DenseColumns(module.layers)
        self._bounded = isinstance(module.layers[0], nn.Tanh)
        self._last: _Columns | None = None

    def context_part(self, context: Raw) -> Array64:
        """See `SplitEncoder.context_part`."""
        part: Array64 = self._context_parts(context[None])[0]
        return part

    def _context_parts(self, contexts: Raw) -> Array64:
        x_NX = flat64(contexts)
        part = x_NX @ self._w_x
        part += self._bias
        return np.concatenate([part, x_NX], axis=1) if self._interacts else part

    def action_part(self, actions: NDArray[np.float32]) -> Array64:
        """See `SplitEncoder.action_part`."""
        if not self.uses_action:
            return np.zeros((len(actions), len(self._bias)))
        a_KA = actions.astype(np.float64)
        part: Array64 = a_KA @ self._w_a
        if self._modulates:
            return np.concatenate([part, 1.0 + a_KA @ self._film], axis=1)
        return np.concatenate([part, a_KA], axis=1) if self._interacts else part

    def combine(self, context_part: Array64, action_parts: Array64) -> Array64:
        """See `SplitEncoder.combine`."""
        return self._combine(context_part[None], action_parts)

    def _combine(self, context_parts: Array64, action_parts: Array64) -> Array64:
        size = len(self._bias)
        if self._modulates:
            first = context_parts * action_parts[:, size:]
            first += action_parts[:, :size]
        else:
            first = context_parts[:, :size] + action_parts[:, :size]
        if self._interacts:
            first += (context_parts[:, size:] * action_parts[:, size:]) @ self._w_xa
        return with_constant(self._layers(first))

    def combine_many(self, contexts: Raw, action_parts: Array64) -> Array64:
        """See `JointEncoder.combine_many`: in float32, unless inputs are large."""
        x_BX = flat64(contexts)
        z_BDK = np.empty((len(x_BX), self.feature_dim, len(action_parts)))
        columns = self._in_columns(action_parts)
        largest_B = np.maximum(np.abs(x_BX).max(axis=1), columns.largest)
        float32_B = largest_B <= MODERATE
        if float32_B.all():
            z_BDK[:, :-1] = self._columns_of(x_BX, columns.parts)
        elif float32_B.any():
            z_BDK[float32_B, :-1] = self._columns_of(x_BX[float32_B], columns.parts)
        z_BDK[:, -1] = 1.0
        if not self._bounded:  # weights may be large, too
            float32_B &= np.isfinite(z_BDK).all(axis=(1, 2))
        for row in np.flatnonzero(~float32_B):
            z_BDK[row] = self.combine(self.context_part(contexts[row]), action_parts).T
        return z_BDK

    def _in_columns(self, action_parts: Array64) -> _Columns:
        """Return action parts in columns; those of the last array, which nobody changes, again."""
        last = self._last
        if last is None or last.of() is not action_parts:
            parts_VK = np.ascontiguousarray(action_parts.T, np.float32)
            largest = float(np.abs(action_parts).max())
            last = _Columns(weakref.ref(action_parts), parts_VK, largest)
            if parts_VK.size <= MOST_KEPT:
                self._last = last
        return last

    def _columns_of(self, x_BX: Array64, parts_VK: Array32) -> Array32:
        """Return the features in columns, (B, F, K); the context's share is summed in float64."""
        size = len(self._bias)
        given_B1H = np.matmul(x_BX[:, None], self._w_x) + self._bias
        given_BH1 = given_B1H.astype(np.float32).transpose(0, 2, 1)
        if self._modulates:
            h_BHK = given_BH1 * parts_VK[size:]
            h_BHK += parts_VK[:size]
        else:
            h_BHK = given_BH1 + parts_VK[:size]
        if self._interacts:
            products_BXK = x_BX.astype(np.float32)[:, :, None] * parts_VK[size:]
            h_BHK += np.matmul(self._w_xa32, products_BXK)
        with np.errstate(over="ignore", invalid="ignore"):
            return self._columns(h_BHK)

    def encode(self, contexts: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode`."""
        return self._combine(self._context_parts(contexts), self.action_part(actions))

    def encode_batch(self, context: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode_batch`."""
        return self._combine(self._context_parts(context[None]), self.action_part(actions))


def check_activation(name: object) -> None:
    """Refuse an unknown activation (ValueError names the field)."""
    if name not in ACTIVATIONS:
        raise ValueError(f"encoder.params.activation: must be one of {', '.join(ACTIVATIONS)}")


def check_sizes(name: str, sizes: object, most: int = 8192) -> None:
    """Refuse layer sizes that are not whole numbers in 1..most (ValueError names the field)."""
    if isinstance(sizes, str) or not isinstance(sizes, Sequence) or not sizes:
        raise ValueError(f"encoder.params.{name}: whole numbers are needed")
    if any(not isinstance(n, int) or isinstance(n, bool) for n in sizes):
        raise ValueError(f"encoder.params.{name}: whole numbers are needed")
    if len(sizes) > MAX_LAYERS:
        raise ValueError(f"encoder.params.{name}: at most {MAX_LAYERS} layers")
    if any(not 1 <= n <= most for n in sizes):
        raise ValueError(f"encoder.params.{name}: must be 1 to {most}")
