"""The service configuration of Personalizer, read from and written to that of the bandit.

Wait time, default reward, aggregation, exploration share and learning mode are the bandit's. What
else Personalizer has is answered with what holds here. A PUT that asks for something else is taken,
and the answer says what it has not changed; only what would be lost by that is refused.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from bandexa_core.spec import BanditSpec, RewardAggregate, SelectionSpec
from service.http.personalizer.bodies import ServiceConfiguration
from service.http.personalizer.durations import duration_of, seconds_of
from service.http.personalizer.errors import Refused
from service.http.personalizer.loops import LearningMode, in_mode, learning_mode
from service.store.errors import InvalidRequest

WRONG = "InvalidServiceConfiguration"
LEAST_WAIT_S, MOST_WAIT_S = 5.0, 365 * 86400.0
AGGREGATES: dict[str, RewardAggregate] = {
    "earliest": "first", "sum": "sum", "average": "mean", "median": "median", "min": "min",
    "max": "max",
}  # fmt: skip
_NAMES = {ours: theirs for theirs, ours in AGGREGATES.items()}
MODES = ("Online", "Apprentice", "LoggingOnly")
# What Personalizer has beside it, and what holds here.
FIXED: dict[str, Any] = {
    "modelExportFrequency": "PT1M",
    "logMirrorEnabled": False,
    "logMirrorSasUri": None,
    "isAutoOptimizationEnabled": False,
    "autoOptimizationFrequency": None,
    "autoOptimizationStartDate": None,
    "modelRetrainDays": 0,
    "isInferenceExplainabilityEnabled": False,
}


class Held(NamedTuple):
    """What is known beside the bandit's configuration.

    Attributes:
        retention_days: How long the log lasts; None: for ever.
        edited: When the configuration was changed last, in seconds since the epoch.
        apprentice: What was counted of the learning mode Apprentice; None where nothing was.
    """

    retention_days: float | None
    edited: float
    apprentice: dict[str, Any] | None


def shown(spec: BanditSpec, held: Held) -> dict[str, Any]:
    """Return the service configuration of a bandit."""
    rewards = spec.rewards
    window = MOST_WAIT_S if rewards.reward_window_s is None else rewards.reward_window_s
    days = held.retention_days
    return {
        "rewardWaitTime": duration_of(window),
        "defaultReward": rewards.default_reward or 0.0,
        "rewardAggregation": _NAMES.get(rewards.aggregate, rewards.aggregate),
        "explorationPercentage": spec.epsilon_at(0),
        "logRetentionDays": -1 if days is None else max(1, round(days)),
        "lastConfigurationEditDate": instant(held.edited),
        "learningMode": learning_mode(spec),
        "latestApprenticeModeMetrics": held.apprentice,
    } | FIXED


def instant(seconds: float) -> str:
    """Return a time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def changed(spec: BanditSpec, body: ServiceConfiguration, *, needs_retrain: bool) -> BanditSpec:
    """Return the configuration that a PUT asks for.

    Args:
        spec: What it is.
        body: The request.
        needs_retrain: Whether this version of the API wants `modelRetrainDays`.

    Raises:
        Refused, InvalidRequest: It cannot be taken.
    """
    if needs_retrain and body.model_retrain_days is None:
        raise InvalidRequest("modelRetrainDays", "is needed")
    if body.log_mirror_enabled:
        raise Refused(WRONG, "logMirrorEnabled: logs are not mirrored here: export them")
    mode = body.learning_mode or learning_mode(spec)
    if mode not in MODES:
        raise InvalidRequest("learningMode", f"must be one of {', '.join(MODES)}")
    if body.reward_aggregation not in (*AGGREGATES, _name(spec)):
        raise InvalidRequest("rewardAggregation", f"must be one of {', '.join(AGGREGATES)}")
    after = dataclasses.replace(
        spec, rewards=_rewards(spec, body), selection=_selection(spec, body)
    )
    if mode == learning_mode(spec):
        return after
    switched = {mode, learning_mode(spec)} == {"Online", "Apprentice"}
    if switched and after.rewards != spec.rewards:
        raise Refused(
            "InvalidLearningModeServiceConfiguration",
            "defaultReward, rewardWaitTime and rewardAggregation cannot change together with a"
            " switch between Online and Apprentice: send two requests",
        )
    return in_mode(after, cast(LearningMode, mode))


def not_used(body: ServiceConfiguration, retention_days: float | None) -> list[str]:
    """Return the names of what a PUT asks for and what this service has not got.

    `retention_days`: How long the log lasts; None: for ever.
    """
    asked = {
        "modelExportFrequency": body.model_export_frequency,
        "isAutoOptimizationEnabled": body.is_auto_optimization_enabled or None,
        "modelRetrainDays": body.model_retrain_days or None,
        "isInferenceExplainabilityEnabled": body.is_inference_explainability_enabled or None,
    }
    found = [name for name, value in asked.items() if value not in (None, FIXED[name])]
    days = -1 if retention_days is None else max(1, round(retention_days))
    return found + ["logRetentionDays"] * (body.log_retention_days != days)


def _name(spec: BanditSpec) -> str:
    return _NAMES.get(spec.rewards.aggregate, spec.rewards.aggregate)


def _rewards(spec: BanditSpec, body: ServiceConfiguration) -> Any:
    before = spec.rewards
    try:
        window = seconds_of(body.reward_wait_time)
    except ValueError as error:
        raise InvalidRequest("rewardWaitTime", str(error)) from error
    if not LEAST_WAIT_S <= window <= MOST_WAIT_S:
        raise Refused(
            "InvalidRewardWaitTime",
            f"rewardWaitTime: must be {duration_of(LEAST_WAIT_S)} to {duration_of(MOST_WAIT_S)}",
        )
    if not -1.0 <= body.default_reward <= 1.0:
        raise InvalidRequest("defaultReward", "must be -1 to 1")
    maturity = before.maturity
    if isinstance(maturity, int | float) and maturity > window:
        maturity = "close"
    aggregate = AGGREGATES.get(body.reward_aggregation, before.aggregate)
    return dataclasses.replace(
        before, aggregate=aggregate, reward_window_s=window, default_reward=body.default_reward,
        maturity=maturity,
    )  # fmt: skip


def _selection(spec: BanditSpec, body: ServiceConfiguration) -> SelectionSpec:
    share = body.exploration_percentage
    if not 0.0 <= share <= 1.0:
        raise InvalidRequest("explorationPercentage", "must be 0 to 1")
    if share == spec.epsilon_at(0):
        return spec.selection
    return dataclasses.replace(spec.selection, epsilon=share)
