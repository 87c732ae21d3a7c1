"""Feature maps z = phi(x, a): fixed ones in numpy, learned ones as torch modules."""

from bandexa_core.encoders.protocol import Encoder, FoldingEncoder, SplitEncoder
from bandexa_core.encoders.registry import EncoderRegistry, serving
from bandexa_core.encoders.torch.module import EncoderModule, ModuleEncoder, SplitModule

__all__ = [
    "Encoder",
    "EncoderModule",
    "EncoderRegistry",
    "FoldingEncoder",
    "ModuleEncoder",
    "SplitEncoder",
    "SplitModule",
    "serving",
]
