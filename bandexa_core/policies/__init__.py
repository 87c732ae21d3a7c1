"""Policies: linear and neural-linear Thompson sampling, and the baselines greedy and uniform."""

from bandexa_core.policies.factory import make_policy
from bandexa_core.policies.linear_head import LinearHead
from bandexa_core.policies.linear_ts import LinearTS
from bandexa_core.policies.neural_linear_ts import NeuralLinearTS
from bandexa_core.policies.protocol import Candidates, Choice, EncodedContext, Policy
from bandexa_core.policies.uniform import Uniform

__all__ = [
    "Candidates",
    "Choice",
    "EncodedContext",
    "LinearHead",
    "LinearTS",
    "NeuralLinearTS",
    "Policy",
    "Uniform",
    "make_policy",
]
