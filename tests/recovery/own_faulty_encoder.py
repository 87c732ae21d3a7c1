"""An operator's own encoder that fails while a file of its `control` directory says so.

once: the next features raise, and the file is removed; always: all raise; nan: they are not finite;
slowly: they take a quarter of a second; stuck: they never come, for as long as a test lasts.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn

from bandexa_core.encoders import EncoderModule

SLOW_S = 0.25
STUCK_S = 600.0


class Faulty(EncoderModule):
    """One layer of tanh."""

    def __init__(
        self, context_shape: tuple[int, ...], action_dim: int, *, control: str, width: int = 4
    ) -> None:
        super().__init__()
        self.output_dim = width
        self.layer = nn.Linear(context_shape[0] + action_dim, width)
        self._control = Path(control)

    def forward(self, contexts: Tensor, actions: Tensor) -> Tensor:
        """See `EncoderModule.forward`."""
        features: Tensor = torch.tanh(self.layer(torch.cat([contexts, actions], dim=1)))
        if (self._control / "once").exists():
            (self._control / "once").unlink()
            raise RuntimeError("it fails once")
        if (self._control / "always").exists():
            raise RuntimeError("it fails always")
        if (self._control / "slowly").exists():
            time.sleep(SLOW_S)
        if (self._control / "stuck").exists():
            time.sleep(STUCK_S)
        return features * torch.nan if (self._control / "nan").exists() else features
