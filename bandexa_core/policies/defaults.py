"""The policy and the encoder of a configuration that names none: by the shape of its data alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bandexa_core.spec import AUTO, CROSSES, BanditSpec, PolicyName

MOST_PRODUCTS = 256  # features of a fixed map that is not named
LEAST_PIXELS = 8  # of a side of an image that is worth convolutions


def resolved(spec: BanditSpec, is_learned: Callable[[str], bool]) -> BanditSpec:
    """Return the spec with its policy and its encoder named.

    Args:
        spec: The configuration.
        is_learned: Whether an encoder of this name has parameters to train.

    Raises:
        ValueError: There are parameters without the name of their encoder.
    """
    encoder, policy = spec.encoder, spec.policy
    if encoder.name == AUTO:
        if encoder.params:
            raise ValueError("encoder.name: needed for its params")
        name, params = _encoder(spec, policy)
        encoder = replace(encoder, name=name, params=params)
    if policy is None:
        is_network = is_learned(encoder.name) and encoder.name != CROSSES
        policy = "neural_linear_ts" if is_network else "linear_ts"
    return replace(spec, policy=policy, encoder=encoder)


def _encoder(spec: BanditSpec, policy: PolicyName | None) -> tuple[str, dict[str, Any]]:
    """Return name and parameters of an encoder.

    A network whose actions each have a posterior of their own learns best on the tables of
    docs/regret.md. With features, an action that nobody has tried starts from those like it, and
    what counts are products of context and action: `mlp` has the elementwise ones as inputs where
    both have the same size, `two_tower` has those of what it learned of both. Named features are
    mostly zeros, of which a network learns noise by heart; `kernel` learns products of fields. An
    image needs convolutions, whatever is beside it.
    """
    if spec.context.has_image:
        return "conv", {"heads": "fused"} if spec.has_action_features else {}
    has_network = policy == "greedy" and spec.has_named_features  # fixed maps take numbers alone
    if policy not in (None, "neural_linear_ts") and not has_network:
        return (CROSSES if spec.has_named_features else _fixed_map(spec)), {}
    shape = spec.context.stored_shape
    if spec.context.dtype == "uint8" and len(shape) in (2, 3) and min(shape[:2]) >= LEAST_PIXELS:
        return "conv", {}
    if not spec.has_action_features:
        return "mlp", {"heads": "per_action"}
    if spec.has_kernel:
        return "kernel", {}
    elementwise = not spec.has_named_features and math.prod(shape) == spec.action_dim
    return ("mlp" if elementwise else "two_tower"), {}


def _fixed_map(spec: BanditSpec) -> str:
    """Return a map with products of context and action, as far as these are few enough.

    Without them the best action would be the same for every context.
    """
    size_x, size_a = math.prod(spec.context.stored_shape), spec.action_dim
    if not size_a:
        return "per_action"
    if (size_x + 1) * (size_a + 1) <= MOST_PRODUCTS:
        return "bilinear"
    return "interactions" if size_x == size_a else "concat"
