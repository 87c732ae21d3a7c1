"""Encoders by name: the built-in ones, and those a server's own configuration registers."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping

import torch

from bandexa_core.encoders.conv import ConvEncoder
from bandexa_core.encoders.fixed import (
    BilinearEncoder,
    ConcatEncoder,
    FixedEncoder,
    InteractionsEncoder,
    PerActionEncoder,
)
from bandexa_core.encoders.mlp import MLPEncoder
from bandexa_core.encoders.module import (
    EncoderModule,
    ModuleEncoder,
    SplitModule,
    SplitModuleEncoder,
)
from bandexa_core.encoders.protocol import Encoder
from bandexa_core.encoders.two_tower import TwoTowerEncoder, TwoTowerServing
from bandexa_core.spec import BanditSpec

FIXED: Mapping[str, type[ConcatEncoder | PerActionEncoder]] = {
    "concat": ConcatEncoder,
    "interactions": InteractionsEncoder,
    "bilinear": BilinearEncoder,
    "per_action": PerActionEncoder,
}
LEARNED: Mapping[str, type[EncoderModule]] = {
    "mlp": MLPEncoder,
    "two_tower": TwoTowerEncoder,
    "conv": ConvEncoder,
}
MAX_PARAMETERS = 1 << 26


class EncoderRegistry:
    """Names to encoder classes; `extra` maps names to "package.module:Class" of the operator."""

    def __init__(self, extra: Mapping[str, str] | None = None) -> None:
        self._learned = dict(LEARNED)
        for name, path in (extra or {}).items():
            if name in FIXED or name in LEARNED:
                raise ValueError(f"encoders.{name}: the name belongs to a built-in encoder")
            self._learned[name] = _import_class(name, path)

    def names(self) -> list[str]:
        """Return every name, sorted."""
        return sorted([*FIXED, *self._learned])

    def is_learned(self, name: str) -> bool:
        """Whether the encoder has parameters to train."""
        return name in self._learned

    def fixed(self, spec: BanditSpec) -> FixedEncoder:
        """Build a fixed map.

        Raises:
            ValueError: Unknown name or parameters; the message names the field.
        """
        cls = FIXED.get(spec.encoder.name)
        if cls is None:
            raise ValueError(f"encoder.name: must be one of {', '.join(self.names())}")
        if spec.encoder.params:
            raise ValueError(f"encoder.params: the {spec.encoder.name} map takes none")
        return cls(spec.context.shape, spec.action_dim)

    def module(self, spec: BanditSpec, seed: int) -> EncoderModule:
        """Build a learned encoder with its initial parameters drawn from `seed`.

        Raises:
            ValueError: Unknown name or parameters; the message names the field.
        """
        cls = self._learned.get(spec.encoder.name)
        if cls is None:
            raise ValueError(f"encoder.name: must be one of {', '.join(self.names())}")
        try:
            inspect.signature(cls).bind(spec.context.shape, spec.action_dim, **spec.encoder.params)
            if spec.encoder.name in LEARNED:  # an operator's own encoder may not build on "meta"
                with torch.device("meta"):
                    _check_size(cls(spec.context.shape, spec.action_dim, **spec.encoder.params))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return cls(spec.context.shape, spec.action_dim, **spec.encoder.params)
        except (TypeError, RuntimeError) as error:  # parameters of a wrong type, or torch's refusal
            raise ValueError(f"encoder.params: {error}") from error


def serving(module: EncoderModule) -> Encoder:
    """Return the frozen encoder that serves a copy of `module`."""
    if isinstance(module, TwoTowerEncoder):
        return TwoTowerServing(module)
    return SplitModuleEncoder(module) if isinstance(module, SplitModule) else ModuleEncoder(module)


def _check_size(module: EncoderModule) -> None:
    """Refuse an encoder too large to build, train and serve (ValueError)."""
    size = sum(parameter.numel() for parameter in module.parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"encoder.params: {size} weights, at most {MAX_PARAMETERS} are supported")


def _import_class(name: str, path: str) -> type[EncoderModule]:
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"encoders.{name}: cannot import {path!r}: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, EncoderModule)):
        raise ValueError(f"encoders.{name}: {path!r} is not a subclass of EncoderModule")
    return found
