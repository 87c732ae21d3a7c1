"""The built-in learned encoders by name, and how a module is built, checked and served."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from bandexa_core.encoders.protocol import Encoder
from bandexa_core.encoders.torch.conv import ConvEncoder
from bandexa_core.encoders.torch.crosses import CrossesEncoder, CrossesServing
from bandexa_core.encoders.torch.kernel import KernelEncoder, KernelServing
from bandexa_core.encoders.torch.mlp import MLPEncoder, MLPServing
from bandexa_core.encoders.torch.module import (
    EncoderModule,
    ModuleEncoder,
    SplitModule,
    SplitModuleEncoder,
)
from bandexa_core.encoders.torch.resnet import ARCHITECTURES, ResNetEncoder
from bandexa_core.encoders.torch.shapes import shapes_alone
from bandexa_core.encoders.torch.two_tower import TwoTowerEncoder, TwoTowerServing
from bandexa_core.schema.encoding import ImagePlace
from bandexa_core.spec import BanditSpec

Constructor = Callable[..., EncoderModule]
LEARNED: Mapping[str, Constructor] = {
    "mlp": MLPEncoder,
    "two_tower": TwoTowerEncoder,
    "kernel": KernelEncoder,
    "crosses": CrossesEncoder,
    "conv": ConvEncoder,
    **{name: partial(ResNetEncoder, name) for name in ARCHITECTURES},
}
# What parameters of edition 1 (release 0.3) are where a configuration leaves them out.
FIRST_EDITION: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"hidden": (128, 128), "film": False},
    "two_tower": {"hidden": (128,)},
    "conv": {"shift": 0},  # no images were moved
}
MAX_PARAMETERS = 1 << 26
_SEEDING = threading.Lock()  # initial weights are drawn from torch's one global generator


def build(
    make: Constructor,
    spec: BanditSpec,
    seed: int,
    sizes: tuple[tuple[int, ...], int] | None = None,
    image: ImagePlace | None = None,
) -> EncoderModule:
    """Build a module with its initial parameters drawn from `seed`; see `EncoderRegistry.module`.

    Raises:
        ValueError: Unusable parameters; the message names the field.
    """
    try:
        construct = _bound(make, spec, sizes, image)
        if spec.encoder.name in LEARNED:  # an operator's own encoder may not build so
            with shapes_alone():
                _check_size(construct())
        with _SEEDING, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # `torch.manual_seed` is slow: all devices
            return construct()
    except (TypeError, RuntimeError) as error:  # parameters of a wrong type, or torch's refusal
        raise ValueError(f"encoder.params: {error}") from error


def _bound(
    make: Constructor,
    spec: BanditSpec,
    sizes: tuple[tuple[int, ...], int] | None,
    image: ImagePlace | None,
) -> Callable[[], EncoderModule]:
    """Return `make` with its arguments; TypeError where the parameters are not its own."""
    signature = inspect.signature(make)
    given: dict[str, Any] = {}
    if "context_dtype" in signature.parameters:
        given["context_dtype"] = spec.context.dtype
    if spec.has_named_features and spec.encoder.name == "mlp":
        given["elementwise"] = False  # columns of both sides have nothing to do with each other
    params = spec.encoder.params
    if image is not None and "image" in signature.parameters and "image" not in params:
        given["image"] = image
    if spec.edition == 1:
        first = FIRST_EDITION.get(spec.encoder.name, {})
        given |= {name: value for name, value in first.items() if name not in params}
    shape, action_dim = sizes or (spec.context.stored_shape, spec.action_dim)
    construct = partial(make, shape, action_dim)
    signature.bind(shape, action_dim, **given, **params)
    return partial(construct, **given, **params)


def _check_size(module: EncoderModule) -> None:
    """Refuse an encoder too large to build, train and serve (ValueError)."""
    size = sum(parameter.numel() for parameter in module.parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"encoder.params: {size} weights, at most {MAX_PARAMETERS} are supported")


def serving(module: EncoderModule) -> Encoder:
    """Return the frozen encoder that serves a copy of `module`."""
    if module.serving_dtype == torch.float64:
        if type(module) is MLPEncoder:  # a subclass may override anything
            return MLPServing(module)
        if type(module) is TwoTowerEncoder:
            return TwoTowerServing(module)
        if type(module) is KernelEncoder:
            return KernelServing(module)
        if type(module) is CrossesEncoder:
            return CrossesServing(module)
    return SplitModuleEncoder(module) if isinstance(module, SplitModule) else ModuleEncoder(module)


def import_class(name: str, path: str) -> type[EncoderModule]:
    """Import an operator's own encoder, "package.module:Class".

    Raises:
        ValueError: It cannot be imported or is no encoder; the message names it.
    """
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        is_missing = isinstance(error, ModuleNotFoundError)
        hint = "; is the folder that it lies in on PYTHONPATH?" if is_missing else ""
        raise ValueError(f"encoders.{name}: cannot import {path!r}: {error}{hint}") from error
    if not (inspect.isclass(found) and issubclass(found, EncoderModule)):
        raise ValueError(f"encoders.{name}: {path!r} is not a subclass of EncoderModule")
    if found.slow and not issubclass(found, SplitModule):
        raise ValueError(f"encoders.{name}: {path!r} is slow, but no SplitModule")
    return found
