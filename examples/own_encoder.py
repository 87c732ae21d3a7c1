"""An encoder of your own: seasons as points on a circle, then a small network.

Registered by name in the server's settings, own_encoder.toml:

    PYTHONPATH=. bandexa serve --config examples/own_encoder.toml

and named by a bandit: {"encoder": {"name": "seasons", "params": {"width": 16}}}.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bandexa_core.encoders import EncoderModule


class Seasons(EncoderModule):
    """Encodes (day of the year, price) with the action's features.

    Args:
        context_shape: Of the bandit; (2,).
        action_dim: Of the bandit.
        width: Learned features, `output_dim`.
    """

    def __init__(self, context_shape: tuple[int, ...], action_dim: int, *, width: int = 16) -> None:
        super().__init__()
        if context_shape != (2,):
            raise ValueError("context.shape: seasons needs [2], day and price")
        if width < 1:
            raise ValueError("encoder.params.width: must be at least 1")
        self.output_dim = width
        self.standardize = False  # a day is a day
        self.layers = nn.Sequential(
            nn.Linear(3 + action_dim, 2 * width), nn.Tanh(), nn.Linear(2 * width, width), nn.Tanh()
        )

    def forward(self, contexts: Tensor, actions: Tensor) -> Tensor:
        """Encode N pairs: contexts (N, 2) and actions (N, A) -> (N, width)."""
        angle = contexts[:, 0] * (2 * math.pi / 365)
        inputs = [torch.sin(angle), torch.cos(angle), contexts[:, 1] / 100]
        features: Tensor = self.layers(torch.cat([torch.stack(inputs, 1), actions], 1))
        return features
