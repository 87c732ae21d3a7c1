"""Encoders by name: the built-in ones, and those a server's own configuration registers."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bandexa_core.encoders.fixed import (
    BilinearEncoder,
    ConcatEncoder,
    FixedEncoder,
    InteractionsEncoder,
    PerActionEncoder,
)
from bandexa_core.encoders.protocol import Encoder
from bandexa_core.encoders.torch.conv import ConvEncoder
from bandexa_core.encoders.torch.mlp import MLPEncoder, MLPServing
from bandexa_core.encoders.torch.module import (
    EncoderModule,
    ModuleEncoder,
    SplitModule,
    SplitModuleEncoder,
)
from bandexa_core.encoders.torch.resnet import ARCHITECTURES, ResNetEncoder
from bandexa_core.encoders.torch.two_tower import TwoTowerEncoder, TwoTowerServing
from bandexa_core.encoders.torch.weights import check_files
from bandexa_core.spec import BanditSpec

FIXED: Mapping[str, type[ConcatEncoder | PerActionEncoder]] = {
    "concat": ConcatEncoder,
    "interactions": InteractionsEncoder,
    "bilinear": BilinearEncoder,
    "per_action": PerActionEncoder,
}
Constructor = Callable[..., EncoderModule]
LEARNED: Mapping[str, Constructor] = {
    "mlp": MLPEncoder,
    "two_tower": TwoTowerEncoder,
    "conv": ConvEncoder,
    **{name: partial(ResNetEncoder, name) for name in ARCHITECTURES},
}
MAX_PARAMETERS = 1 << 26
_SEEDING = threading.Lock()  # initial weights are drawn from torch's one global generator


class EncoderRegistry:
    """Names to encoder classes.

    Args:
        extra: The operator's own classes, "package.module:Class" by name.
        weights: The operator's weight files by name (see `EncoderModule.load_base`).

    Raises:
        ValueError: A class cannot be imported or a file cannot be read; the message names it.
    """

    def __init__(
        self,
        extra: Mapping[str, str] | None = None,
        weights: Mapping[str, str | Path] | None = None,
    ) -> None:
        self._weights = {name: Path(path) for name, path in (weights or {}).items()}
        check_files(self._weights)
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
        make = self._learned.get(spec.encoder.name)
        if make is None:
            raise ValueError(f"encoder.name: must be one of {', '.join(self.names())}")
        try:
            build = _bound(make, spec)
            if spec.encoder.name in LEARNED:  # an operator's own encoder may not build on "meta"
                with torch.device("meta"):
                    _check_size(build())
            with _SEEDING, torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module = build()
            module.load_base(self._weights)
            return module
        except (TypeError, RuntimeError) as error:  # parameters of a wrong type, or torch's refusal
            raise ValueError(f"encoder.params: {error}") from error


def _bound(make: Constructor, spec: BanditSpec) -> Callable[[], EncoderModule]:
    """Return `make` with its arguments; TypeError where the parameters are not its own."""
    signature = inspect.signature(make)
    given: dict[str, Any] = {}
    if "context_dtype" in signature.parameters:
        given["context_dtype"] = spec.context.dtype
    build = partial(make, spec.context.shape, spec.action_dim)
    signature.bind(spec.context.shape, spec.action_dim, **given, **spec.encoder.params)
    return partial(build, **given, **spec.encoder.params)


def serving(module: EncoderModule) -> Encoder:
    """Return the frozen encoder that serves a copy of `module`."""
    if module.serving_dtype == torch.float64:
        if type(module) is MLPEncoder:  # a subclass may do anything
            return MLPServing(module)
        if type(module) is TwoTowerEncoder:
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
    if found.slow and not issubclass(found, SplitModule):
        raise ValueError(f"encoders.{name}: {path!r} is slow, but no SplitModule")
    return found
