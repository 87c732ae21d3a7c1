"""From a bandit's configuration to its policy in the initial state."""

from __future__ import annotations

import math
from dataclasses import replace

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.features.scaling import InputScaling
from bandexa_core.ids import BanditUid
from bandexa_core.policies.defaults import resolved
from bandexa_core.policies.linear_head import LinearHead
from bandexa_core.policies.linear_ts import LinearTS
from bandexa_core.policies.named_inputs import NamedInputs
from bandexa_core.policies.uniform import Uniform
from bandexa_core.posterior import PosteriorConfig
from bandexa_core.randomness import keyed_seed
from bandexa_core.spec import CROSSES, BanditSpec

FEW_INPUTS = 10  # of a network whose prior is as wide as rewards are
_OF_IMAGES = ("conv", "mlp")  # take an image beside other named features
NAMED_INPUTS = 40  # as which named features count: how many columns they get is not known yet


def make_policy(
    spec: BanditSpec, uid: BanditUid, registry: EncoderRegistry
) -> LinearHead | Uniform:
    """Build the policy with a seeded initial encoder and the prior.

    Raises:
        ValueError: The configuration asks for what does not exist; the message names the field.
    """
    spec = resolved(spec, registry.is_learned)
    if spec.policy == "uniform":
        return Uniform()
    learned = registry.is_learned(spec.encoder.name)
    if spec.encoder.name not in registry.names():
        raise ValueError(f"encoder.name: must be one of {', '.join(registry.names())}")
    has_crosses = spec.encoder.name == CROSSES
    if spec.policy == "neural_linear_ts" and (has_crosses or not learned):
        raise ValueError(
            f"encoder.name: {spec.encoder.name} goes with linear_ts and greedy; neural_linear_ts"
            " needs a learned encoder, such as mlp"
        )
    if spec.policy == "linear_ts" and learned and not has_crosses:
        if spec.context.has_image and spec.encoder.name == "conv":
            raise ValueError("policy: linear_ts takes no image; neural_linear_ts and greedy do")
        takes = (
            "crosses, as features have names"
            if spec.has_named_features
            else "concat, interactions, bilinear or per_action"
        )
        raise ValueError(
            f"encoder.name: {spec.encoder.name} is learned, and goes with neural_linear_ts and"
            f" greedy; linear_ts takes {takes}"
        )
    if spec.context.has_image and spec.encoder.name not in _OF_IMAGES:
        names = " and ".join(_OF_IMAGES)
        raise ValueError(
            f"encoder.name: {spec.encoder.name} takes no image beside other fields; {names} do"
        )
    greedy = spec.policy == "greedy"
    chunk = spec.selection.action_chunk
    if learned:
        from bandexa_core.policies.neural_linear_ts import NeuralLinearTS  # imports torch

        named = NamedInputs.initial(spec)
        sizes = None if named is None else named.sizes(spec)
        image = None if named is None else named.image
        seed = keyed_seed(uid, spec.seed or 0, "init", "encoder")
        module = registry.module(spec, seed, sizes, image)
        if has_crosses:
            _check_crosses(spec)
        scaling = _scaling(spec, module.uses_action) if module.standardize else None
        inputs = math.prod(spec.context.stored_shape) if module.standardize else FEW_INPUTS
        if spec.context.features is not None and module.standardize:
            inputs = NAMED_INPUTS
        config = _narrowed(spec, max(1.0, inputs / FEW_INPUTS))
        if spec.encoder.name in ("kernel", CROSSES) and spec.posterior.prior_var is None:
            config = replace(config, prior_var=config.noise_var)  # features have their own variance
        return NeuralLinearTS(
            module, config, greedy=greedy, action_chunk=chunk, scaling=scaling, named=named,
            resized=lambda new, seed: registry.module(spec, seed, new.sizes(spec), new.image),
        )  # fmt: skip
    if spec.has_named_features:
        raise ValueError(
            f"encoder.name: {spec.encoder.name} takes numbers alone; named features go with"
            " crosses (linear_ts), kernel, mlp or two_tower"
        )
    fixed = registry.fixed(spec)
    scaling = _scaling(spec, fixed.uses_action)
    config = _narrowed(spec, fixed.feature_dim)
    return LinearTS(fixed, config, greedy=greedy, action_chunk=chunk, scaling=scaling)


def _narrowed(spec: BanditSpec, parts: float) -> PosteriorConfig:
    """Return a prior whose weights share the variance of a value, in so many parts.

    Standardised features of a fixed map are about 1 in size, so that a value varies by their number
    times as much as a weight. Features of a network are smaller at first; but those of many inputs
    differ more from row to row, so that more directions are unknown and are explored for longer.
    """
    config = spec.posterior_config()
    if spec.edition == 1 or spec.posterior.prior_var is not None:
        return config
    return replace(config, prior_var=config.prior_var / parts)


def _check_crosses(spec: BanditSpec) -> None:
    """Refuse declared crosses of fields that there will never be (ValueError)."""
    crosses = spec.encoder.params.get("crosses")
    if not isinstance(crosses, list | tuple):
        return
    sizes = math.prod(spec.context.stored_shape), spec.action_dim
    declared = spec.context.declared, spec.actions.declared
    for number, pair in enumerate(crosses):
        rows = zip(pair, ("contexts", "actions"), declared, sizes, strict=True)
        for name, side, features, size in rows:
            if features is None:
                known = name.isdecimal() and int(name) < size
            else:
                known = features.auto or name in features.learned
            if not known:
                place = f"encoder.params.crosses[{number}]"
                raise ValueError(f"{place}: {side} have no field {name[:64]!r}")


def _scaling(spec: BanditSpec, uses_action: bool) -> InputScaling | None:
    """Return the initial scaling of inputs, None where there is nothing to standardise."""
    floating = spec.context.stored_dtype != "uint8"
    if not spec.encoder.standardize or not (floating or (uses_action and spec.action_dim > 0)):
        return None
    # Objects are encoded instead.
    shape = (1,) if spec.context.shape is None else spec.context.shape
    dim = spec.action_dim
    return InputScaling.identity(shape, dim, scales_contexts=floating)
