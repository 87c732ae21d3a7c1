"""Feature maps z = phi(x, a): fixed ones in numpy, learned ones as torch modules.

Names that need torch are imported at their first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bandexa_core.encoders.protocol import Encoder, FoldingEncoder, SplitEncoder
from bandexa_core.encoders.registry import EncoderRegistry

if TYPE_CHECKING:
    from bandexa_core.encoders.torch.module import EncoderModule, ModuleEncoder, SplitModule

__all__ = [
    "Encoder",
    "EncoderModule",
    "EncoderRegistry",
    "FoldingEncoder",
    "ModuleEncoder",
    "SplitEncoder",
    "SplitModule",
]
_OF_TORCH = ("EncoderModule", "ModuleEncoder", "SplitModule")


def __getattr__(name: str) -> Any:
    if name in _OF_TORCH:
        from bandexa_core.encoders.torch import module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
