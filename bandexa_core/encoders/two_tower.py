"""The two-tower encoder: u = f(x), v = g(a), z = [u; v; u * v].

z is affine in v, so sampled weights fold into one query over cached item vectors:
z . w = (w_v + w_uv * u) . v + w_u . u + w_1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from bandexa_core.encoders.mlp import ACTIVATIONS, check_activation, check_sizes
from bandexa_core.encoders.module import SplitModule, SplitModuleEncoder, flatten
from bandexa_core.encoders.protocol import Array64


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
        hidden: Sizes of each tower's hidden layers; may be empty.
        activation: "tanh" (bounded u and v suit the linear head), "relu" or "silu".
    """

    def __init__(
        self,
        context_shape: tuple[int, ...],
        action_dim: int,
        *,
        tower_dim: int = 64,
        hidden: Sequence[int] = (128,),
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
        self.context_tower = tower([size_x, *hidden, tower_dim], activation)
        self.action_tower = tower([action_dim, *hidden, tower_dim], activation)

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


class TwoTowerServing(SplitModuleEncoder):
    """Serves a two-tower encoder with its weights folded into queries."""

    def fold(self, context_part: Array64, weights: Array64) -> tuple[Array64, Array64]:
        """Q = w_v + w_uv * u, c = w_u . u + w_1."""
        size = len(context_part)
        u, w_u = context_part, weights[:, :size]
        w_v, w_uv = weights[:, size : 2 * size], weights[:, 2 * size : 3 * size]
        return np.add(w_v, w_uv * u), w_u @ u + weights[:, -1]
