"""What contexts and actions of a bandit are: arrays, or objects with named features."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

from bandexa_core.replay.protocol import ActionDtype, ContextDtype
from bandexa_core.schema.features import Features, UnknownRule

MAX_FEATURES = 1 << 24
OBJECT_BYTES = 1024
MAX_OBJECT_BYTES = 1 << 16
NamedFeatures = dict[str, Any] | Literal["auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionsSpec:
    """The named features of the actions. Without them, actions have `action_dim` numbers.

    Attributes:
        features: "auto", or the field of each named feature by its path: a type, or an object with
            `type` and options. {"*": "auto"} among them types all other keys from the values seen;
            {"*": "namespaces"} does so, too, and reads objects whose values are all 1 as sets.
        unknown: Whether keys that are no fields are ignored and counted, or refused.
        strict: Refuse values that would have to be converted, such as "7" for a number.
        max_bytes: The most bytes that an object takes as JSON.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    features: NamedFeatures | None = None
    unknown: UnknownRule = "ignore"
    strict: bool = False
    max_bytes: int = OBJECT_BYTES

    def __post_init__(self) -> None:
        _check_named(self)
        if self.declared is not None and self.declared.image is not None:
            raise ValueError(f"features.{self.declared.image[0]}: contexts alone may have an image")

    @property
    def declared(self) -> Features | None:
        """The named features; None where there are none."""
        return _declared(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextSpec:
    """What every context of the bandit is: an array of a shape, or an object with named features.

    Attributes:
        shape: One to four sizes, for example [16], or [28, 28] for an image.
        dtype: "uint8" contexts are images, whose values encoders scale to 0..1.
        features: In place of a shape: "auto", or the field of each named feature by its path, a
            type or an object with `type` and options. {"*": "auto"} among them types all other keys
            from the values seen; {"*": "namespaces"} does so, too, and reads objects whose values
            are all 1 as sets.
        unknown: Whether keys that are no fields are ignored and counted, or refused.
        strict: Refuse values that would have to be converted, such as "7" for a number.
        max_bytes: The most bytes that an object takes as JSON.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    shape: tuple[int, ...] | None = None
    dtype: ContextDtype = "float32"
    features: NamedFeatures | None = None
    unknown: UnknownRule = "ignore"
    strict: bool = False
    max_bytes: int = OBJECT_BYTES

    def __post_init__(self) -> None:
        _check_named(self)
        if (self.shape is None) == (self.features is None):
            raise ValueError("shape: give either the shape of contexts, or features")
        if self.shape is None:
            self._check_image()
            if self.dtype != "float32":
                raise ValueError("dtype: goes with a shape")
            return
        if not 1 <= len(self.shape) <= 4 or any(n < 1 for n in self.shape):
            raise ValueError("shape: one to four positive sizes are needed")
        if math.prod(self.shape) > MAX_FEATURES:
            raise ValueError(f"shape: at most {MAX_FEATURES} elements")

    def _check_image(self) -> None:
        """Refuse an image that would not fit into an object."""
        declared = self.declared
        if declared is None or declared.image is None:
            return
        path, known = declared.image
        least = known.most_bytes + len(json.dumps(path)) + len("{:}")
        if self.max_bytes < least:
            shape = " x ".join(map(str, known.shape))
            raise ValueError(
                f"max_bytes: {path} takes up to {least} bytes, as an image of {shape}; the other"
                f" fields come on top of that, and {self.max_bytes} are allowed"
            )

    @property
    def has_image(self) -> bool:
        """Whether one of the named features is an image."""
        return self.declared is not None and self.declared.image is not None

    @property
    def declared(self) -> Features | None:
        """The named features; None where contexts are arrays."""
        return _declared(self)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of a context as it is logged; an object is logged as its bytes."""
        return (self.max_bytes,) if self.shape is None else self.shape

    @property
    def stored_dtype(self) -> ContextDtype:
        """The dtype of a context as it is logged."""
        return "uint8" if self.shape is None else self.dtype


def stored_action(spec: ActionsSpec, action_dim: int) -> tuple[int, ActionDtype]:
    """Return the size and the dtype of an action's features as they are logged."""
    return (action_dim, "float32") if spec.features is None else (spec.max_bytes, "uint8")


def _check_named(spec: ActionsSpec | ContextSpec) -> None:
    if spec.features is None:
        if spec.unknown != "ignore" or spec.strict or spec.max_bytes != OBJECT_BYTES:
            raise ValueError("features: unknown, strict and max_bytes go with named features")
        return
    if not 2 <= spec.max_bytes <= MAX_OBJECT_BYTES:
        raise ValueError(f"max_bytes: must be 2 to {MAX_OBJECT_BYTES}")
    try:
        declared = Features.from_json(spec.features, unknown=spec.unknown, strict=spec.strict)
    except ValueError as error:  # its messages begin with an attribute, or with a path
        is_named = str(error).startswith(("features", "unknown"))
        raise ValueError(str(error) if is_named else f"features.{error}") from None
    object.__setattr__(spec, "features", declared.to_json())


def _declared(spec: ActionsSpec | ContextSpec) -> Features | None:
    if spec.features is None:
        return None
    return _read(json.dumps(spec.features), spec.unknown, spec.strict)


@lru_cache(maxsize=1024)
def _read(text: str, unknown: UnknownRule, strict: bool) -> Features:
    return Features.from_json(json.loads(text), unknown=unknown, strict=strict)
