"""Linear Thompson sampling on a fixed feature map: the baseline the neural policy must beat."""

from __future__ import annotations

from bandexa_core.policies.linear_head import LinearHead


class LinearTS(LinearHead):
    """Thompson sampling with a Bayesian linear model on fixed features."""
