"""An encoder of your own: the day of the year as a point on a circle, then a small network.

The server's settings register it under a name (own_encoder.toml). Python must find the module:

    PYTHONPATH=. bandexa serve --config examples/own_encoder.toml

A bandit's configuration then names it: {"encoder": {"name": "seasons", "params": {"width": 16}}}.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bandexa_core.encoders import EncoderModule


class Seasons(EncoderModule):
    """Encodes the day of the year and a price, together with the features of an action.

    Args:
        context_shape: The bandit's shape of contexts; it must be (2,).
        action_dim: A, the bandit's number of action features.
        width: F, the number of learned features.

    Raises:
        ValueError: The shape or the width is unsuitable. Clients receive the message as 422.
    """

    def __init__(self, context_shape: tuple[int, ...], action_dim: int, *, width: int = 16) -> None:
        super().__init__()
        if context_shape != (2,):
            raise ValueError("context.shape: seasons needs [2], day and price")
        if width < 1:
            raise ValueError("encoder.params.width: must be at least 1")
        self.output_dim = width
        self.standardize = False  # `forward` needs the day itself, not its standardised value
        self.layers = nn.Sequential(
            nn.Linear(3 + action_dim, 2 * width), nn.Tanh(), nn.Linear(2 * width, width), nn.Tanh()
        )

    def forward(self, contexts: Tensor, actions: Tensor) -> Tensor:
        """Encode N pairs: contexts (N, 2) and actions (N, A) -> features (N, F)."""
        angle = contexts[:, 0] * (2 * math.pi / 365)
        inputs = [torch.sin(angle), torch.cos(angle), contexts[:, 1] / 100]
        features: Tensor = self.layers(torch.cat([torch.stack(inputs, 1), actions], 1))
        return features
