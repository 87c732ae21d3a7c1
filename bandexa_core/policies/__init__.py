"""Policies: linear and neural-linear Thompson sampling, and the baselines greedy and uniform.

`NeuralLinearTS` needs torch and is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bandexa_core.policies.factory import make_policy
from bandexa_core.policies.linear_head import LinearHead
from bandexa_core.policies.linear_ts import LinearTS
from bandexa_core.policies.protocol import Candidates, Choice, EncodedContext, Policy
from bandexa_core.policies.uniform import Uniform

if TYPE_CHECKING:
    from bandexa_core.policies.neural_linear_ts import NeuralLinearTS

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


def __getattr__(name: str) -> Any:
    if name == "NeuralLinearTS":
        from bandexa_core.policies.neural_linear_ts import NeuralLinearTS

        return NeuralLinearTS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
