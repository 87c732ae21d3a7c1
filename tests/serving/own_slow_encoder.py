"""An operator's own encoders as tests of slow ones register them; the server imports this module.

`control` names a directory through which a test watches and steers them: the file `calls` gets a
line with the number of contexts when a context part begins, and while a file `closed` exists there
the context part goes on computing.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from bandexa_core.encoders import SplitModule

MALFORMED, BROKEN, SHORT = 13.0, 17.0, 19.0  # first numbers of contexts it fails on
MOST_STEPS = 100_000


class Towers(SplitModule):
    """Two layers of tanh and their product; not slow."""

    def __init__(
        self,
        context_shape: tuple[int, ...],
        action_dim: int,
        *,
        width: int = 4,
        heads: str = "shared",
        control: str = "",
    ) -> None:
        super().__init__()
        self.uses_action = heads == "shared"
        self.output_dim = 3 * width if self.uses_action else width
        self.context_layer = nn.Linear(context_shape[0], width)
        if self.uses_action:
            self.action_layer = nn.Linear(action_dim, width)
        self._control = Path(control) if control else None

    def context_part(self, contexts: Tensor) -> Tensor:
        """See `SplitModule.context_part`."""
        if self._control is not None and not self.training:
            self._steered(self._control, contexts)
        parts: Tensor = torch.tanh(self.context_layer(contexts))
        return parts[1:] if (contexts[:, 0] == SHORT).any() else parts

    def action_part(self, actions: Tensor) -> Tensor:
        """See `SplitModule.action_part`."""
        if not self.uses_action:
            return actions.new_zeros((len(actions), 0))
        parts: Tensor = torch.tanh(self.action_layer(actions))
        return parts

    def combine(self, context_parts: Tensor, action_parts: Tensor) -> Tensor:
        """See `SplitModule.combine`."""
        u = context_parts.expand(len(action_parts), -1)
        return torch.cat([u, action_parts, u * action_parts], dim=1) if self.uses_action else u

    def _steered(self, control: Path, contexts: Tensor) -> None:
        with (control / "calls").open("a") as calls:
            calls.write(f"{len(contexts)}\n")
        if (contexts[:, 0] == MALFORMED).any():
            raise ValueError("context: 13 is no good")
        if (contexts[:, 0] == BROKEN).any():
            raise RuntimeError("17 breaks it")
        work = torch.eye(200, dtype=torch.float64)
        for _ in range(MOST_STEPS):  # bounded, so that a test that fails ends
            if not (control / "closed").exists():
                return
            work = torch.tanh(work @ work)


class Slow(Towers):
    """The same, encoded on a thread."""

    slow = True


class Twin(Towers):
    """Slow or not, by the environment: both kinds serve the same data directory."""

    slow = os.environ.get("TWIN") == "slow"
