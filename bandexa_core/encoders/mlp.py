"""The multi-layer perceptron encoder: z = relu network of [x; a], or of x alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from bandexa_core.encoders.module import SplitModule, flatten


class MLPEncoder(SplitModule):
    """ReLU layers `hidden`, then F = `feature_dim` ReLU features.

    The first layer is linear in [x; a], so its product with a is the action part.

    Args:
        context_shape: Shape of a context, flattened here.
        action_dim: A. With `heads="per_action"` actions are known by id alone.
        feature_dim: F.
        hidden: Sizes of the hidden layers, at least one.
        heads: "shared": one posterior over z(x, a); "per_action": z(x), a posterior per action.
    """

    def __init__(
        self,
        context_shape: tuple[int, ...],
        action_dim: int,
        *,
        feature_dim: int = 64,
        hidden: Sequence[int] = (128,),
        heads: str = "shared",
    ) -> None:
        super().__init__()
        check_sizes("feature_dim", [feature_dim])
        check_sizes("hidden", hidden)
        if heads not in ("shared", "per_action"):
            raise ValueError("encoder.params.heads: must be 'shared' or 'per_action'")
        self.uses_action = heads == "shared"
        if self.uses_action and not action_dim:
            raise ValueError("encoder.params.heads: 'shared' needs actions with features")
        self.output_dim = feature_dim
        sizes = [*hidden, feature_dim]
        self.context_in = nn.Linear(math.prod(context_shape), sizes[0])
        self.action_in = nn.Linear(action_dim, sizes[0], bias=False) if self.uses_action else None
        layers: list[nn.Module] = [nn.ReLU()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def context_part(self, contexts: Tensor) -> Tensor:
        """W_x x + b, (N, H)."""
        part: Tensor = self.context_in(flatten(contexts, self.context_in.weight.dtype))
        return part

    def action_part(self, actions: Tensor) -> Tensor:
        """W_a a, (K, H); zeros where the action plays no part."""
        if self.action_in is None:
            return actions.new_zeros((len(actions), self.context_in.out_features))
        part: Tensor = self.action_in(actions)
        return part

    def combine(self, context_parts: Tensor, action_parts: Tensor) -> Tensor:
        """The layers after the first, (N, F)."""
        features: Tensor = self.layers(context_parts + action_parts)
        return features


def check_sizes(name: str, sizes: Sequence[int], most: int = 8192) -> None:
    """Refuse layer sizes that are not whole numbers in 1..most (ValueError names the field)."""
    if not sizes or any(not isinstance(n, int) or isinstance(n, bool) for n in sizes):
        raise ValueError(f"encoder.params.{name}: whole numbers are needed")
    if any(not 1 <= n <= most for n in sizes):
        raise ValueError(f"encoder.params.{name}: must be 1 to {most}")
