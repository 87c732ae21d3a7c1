"""The two-tower encoder: u = f(x), v = g(a), z = [u; v; u * v].

z is affine in v, so sampled weights fold into one query over cached item vectors:
z . w = (w_v + w_uv * u) . v + w_u . u + w_1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bandexa_core.encoders.protocol import Raw
from bandexa_core.encoders.torch.dense import Array64, DenseLayers, flat64
from bandexa_core.encoders.torch.mlp import ACTIVATIONS, check_activation, check_sizes
from bandexa_core.encoders.torch.module import SplitModule, flatten


def tower(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Return linear layers of these sizes, input first, each followed by the activation."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class TwoTowerEncoder(SplitModule):
    """Two towers of `tower_dim` outputs each; F = 3 * tower_dim.

    Args:
        context_shape: Shape of a context, flattened here.
        action_dim: A, at least 1.
        tower_dim: Size T of u and v.
        hidden: Sizes of each tower's hidden layers. Without any, the few weights are learned from
            fewer rewards.
        activation: "tanh" (bounded u and v suit the linear head), "relu" or "silu".
    """

    def __init__(
        self,
        context_shape: tuple[int, ...],
        action_dim: int,
        *,
        tower_dim: int = 64,
        hidden: Sequence[int] = (),
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        check_sizes("tower_dim", [tower_dim])
        if hidden not in ([], ()):  # none at all is allowed here
            check_sizes("hidden", hidden)
        check_activation(activation)
        if not action_dim:
            raise ValueError("action_dim: the two_tower encoder needs actions with features")
        self.tower_dim = tower_dim
        self.output_dim = 3 * tower_dim
        size_x = math.prod(context_shape)
        self._inputs = (size_x, action_dim)
        self.context_tower = tower([size_x, *hidden, tower_dim], activation)
        self.action_tower = tower([action_dim, *hidden, tower_dim], activation)

    def input_sides(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        """See `EncoderModule.input_sides`."""
        size_x, size_a = self._inputs
        return {
            "context_tower.0.weight": [("x", size_x)],
            "action_tower.0.weight": [("a", size_a)],
        }

    def context_part(self, contexts: Tensor) -> Tensor:
        """u, (N, T)."""
        u_NT: Tensor = self.context_tower(flatten(contexts, self.dtype))
        return u_NT

    def action_part(self, actions: Tensor) -> Tensor:
        """v, (K, T)."""
        v_KT: Tensor = self.action_tower(actions)
        return v_KT

    def combine(self, context_parts: Tensor, action_parts: Tensor) -> Tensor:
        """[u; v; u * v], (N, 3T)."""
        u_NT = context_parts.expand(len(action_parts), -1)
        return torch.cat([u_NT, action_parts, u_NT * action_parts], dim=1)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.context_tower.parameters()).dtype


class TwoTowerServing:
    """Serves a two-tower encoder in numpy, with its weights folded into queries."""

    uses_action = True

    def __init__(self, module: TwoTowerEncoder) -> None:
        self.feature_dim = module.output_dim + 1
        self._context_tower = DenseLayers(module.context_tower)
        self._action_tower = DenseLayers(module.action_tower)

    def context_part(self, context: Raw) -> Array64:
        """See `SplitEncoder.context_part`."""
        part: Array64 = self._context_tower(flat64(context[None]))[0]
        return part

    def action_part(self, actions: NDArray[np.float32]) -> Array64:
        """See `SplitEncoder.action_part`."""
        return self._action_tower(actions.astype(np.float64))

    def combine(self, context_part: Array64, action_parts: Array64) -> Array64:
        """See `SplitEncoder.combine`."""
        return _joined(context_part, action_parts)

    def encode(self, contexts: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode`."""
        return _joined(self._context_tower(flat64(contexts)), self.action_part(actions))

    def encode_batch(self, context: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode_batch`."""
        return self.combine(self.context_part(context), self.action_part(actions))

    def fold(self, context_part: Array64, weights: Array64) -> tuple[Array64, Array64]:
        """Q = w_v + w_uv * u, c = w_u . u + w_1."""
        size = len(context_part)
        u, w_u = context_part, weights[:, :size]
        w_v, w_uv = weights[:, size : 2 * size], weights[:, 2 * size : 3 * size]
        return np.add(w_v, w_uv * u), w_u @ u + weights[:, -1]


def _joined(u_NT: Array64, v_NT: Array64) -> Array64:
    """[u; v; u * v; 1], (N, 3T + 1); one u, (T,), for all v, or one for each."""
    size = v_NT.shape[1]
    z_ND = np.empty((len(v_NT), 3 * size + 1))
    z_ND[:, :size] = u_NT
    z_ND[:, size : 2 * size] = v_NT
    np.multiply(u_NT, v_NT, out=z_ND[:, 2 * size : -1])
    z_ND[:, -1] = 1.0
    return z_ND
