"""AdamW for eager training, without an import of torch's compiler.

torch's optimizers import `torch._dynamo` at their first step, so that a compiled step is aware of
gradients being off. Nothing is compiled here, and the import costs a trainer process a second of
CPU. So the methods below are torch's own without that decorator.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, bit for bit; its steps cannot be compiled."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)

    @torch.no_grad()
    def step(self, *arguments: Any) -> Any:
        """See `torch.optim.AdamW.step`."""
        return _STEP(self, *arguments)


_STEP = inspect.unwrap(torch.optim.AdamW.step)
