"""The configuration of a bandit: frozen values, checked when they are created, stored as JSON.

`BanditSpec` is the whole one; each of its sections has a module of its own. These are plain
dataclasses, so the core needs no validation library. The service lets pydantic build them from
requests, where `__pydantic_config__` refuses unknown keys. The docstrings of the classes appear in
the API documentation.
"""

from bandexa_core.limits import LimitSpec
from bandexa_core.spec.arms import ArmSpec, GuardSpec, MetricGuard
from bandexa_core.spec.bandit import BanditSpec, PolicyName
from bandexa_core.spec.encoder import AUTO, CROSSES, EncoderSpec
from bandexa_core.spec.forgetting import FORGETTING_CELLS, ForgettingSpec
from bandexa_core.spec.inputs import ActionsSpec, ContextSpec
from bandexa_core.spec.posterior import PosteriorSpec
from bandexa_core.spec.rewards import (
    MAX_METRICS,
    MAX_REWARD,
    METRIC_NAME,
    RewardAggregate,
    RewardSpec,
)
from bandexa_core.spec.selection import SelectionMethod, SelectionSpec
from bandexa_core.spec.training import TRAINING_LIMITS, ReplaySpec, TrainingSpec

__all__ = [
    "AUTO",
    "CROSSES",
    "FORGETTING_CELLS",
    "MAX_METRICS",
    "MAX_REWARD",
    "METRIC_NAME",
    "TRAINING_LIMITS",
    "ActionsSpec",
    "ArmSpec",
    "BanditSpec",
    "ContextSpec",
    "EncoderSpec",
    "ForgettingSpec",
    "GuardSpec",
    "LimitSpec",
    "MetricGuard",
    "PolicyName",
    "PosteriorSpec",
    "ReplaySpec",
    "RewardAggregate",
    "RewardSpec",
    "SelectionMethod",
    "SelectionSpec",
    "TrainingSpec",
]
