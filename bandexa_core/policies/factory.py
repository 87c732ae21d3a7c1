"""From a bandit's configuration to its policy in the initial state."""

from __future__ import annotations

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import BanditUid
from bandexa_core.policies.linear_head import LinearHead
from bandexa_core.policies.linear_ts import LinearTS
from bandexa_core.policies.neural_linear_ts import NeuralLinearTS
from bandexa_core.policies.uniform import Uniform
from bandexa_core.randomness import keyed_seed
from bandexa_core.spec import BanditSpec


def make_policy(
    spec: BanditSpec, uid: BanditUid, registry: EncoderRegistry
) -> LinearHead | Uniform:
    """Build the policy with a seeded initial encoder and the prior.

    Raises:
        ValueError: The configuration asks for what does not exist; the message names the field.
    """
    if spec.policy == "uniform":
        return Uniform()
    config = spec.posterior_config()
    learned = registry.is_learned(spec.encoder.name)
    if spec.encoder.name not in registry.names():
        raise ValueError(f"encoder.name: must be one of {', '.join(registry.names())}")
    if spec.policy == "neural_linear_ts" and not learned:
        raise ValueError("encoder.name: neural_linear_ts needs a learned encoder (mlp, ...)")
    if spec.policy == "linear_ts" and learned:
        raise ValueError("encoder.name: linear_ts takes a fixed map (concat, ...)")
    greedy = spec.policy == "greedy"
    chunk = spec.selection.action_chunk
    if learned:
        module = registry.module(spec, keyed_seed(uid, spec.seed or 0, "init", "encoder"))
        return NeuralLinearTS(module, config, greedy=greedy, action_chunk=chunk)
    return LinearTS(registry.fixed(spec), config, greedy=greedy, action_chunk=chunk)
