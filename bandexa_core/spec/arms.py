"""The sections of a configuration that divide decisions among arms.

An arm decides a share of the decisions of a bandit otherwise than the bandit: by another method, or
by a rule that learns nothing. The bandit itself decides the rest.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

ArmPolicy = Literal["thompson", "squarecb", "greedy", "uniform", "first", "request"]
Mode = Literal["learn", "frozen", "control_only"]
BANDIT = "bandit"  # the name of the arm that the bandit itself is
SERVED = "served"  # that of the arm that serves one action, while `serve` names one
CONTROL = "control"
MAX_ARMS = 16
MAX_SHARE = 0.5
MAX_GUARDED = 16  # metrics
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSpec:
    """An arm: a share of the decisions, and what decides them: a policy, or one action.

    Attributes:
        name: Its name in answers, in the log and in figures; not "bandit", nor "served".
        share: The share of decisions, 0 to 0.5.
        policy: A method of `selection`, which acts on the bandit's posterior; "first": the first
            candidate that the caller sent; "request": the action that the select names in `served`.
        action: One action.
        challenger: A challenger whose model decides; such an arm is made by promoting it, not by a
            configuration.
        snapshot: The snapshot that this model is, as it was learned.
        learned: The configuration of that model.
        shadow: It decides and serves nothing: what it would have served is logged with each
            decision. Its share is 0.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    name: str
    share: float
    policy: ArmPolicy | None = None
    action: str | None = None
    challenger: str | None = None
    snapshot: int | None = None
    learned: dict[str, Any] | None = None
    shadow: bool = False

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.name) or self.name in (BANDIT, SERVED):
            raise ValueError(
                f"name: must be 1 to 128 letters, digits or . _ : -, and neither {BANDIT!r} nor"
                f" {SERVED!r}"
            )
        if not 0.0 <= self.share <= MAX_SHARE:
            raise ValueError(f"share: must be 0 to {MAX_SHARE}")
        if self.shadow and self.share > 0.0:
            raise ValueError("share: a shadow serves nothing, so that its share is 0")
        if self.shadow and self.challenger is not None:
            raise ValueError("shadow: a challenger on trial serves its share")
        if sum(each is not None for each in (self.policy, self.action, self.challenger)) != 1:
            raise ValueError("policy: an arm has a policy or an action")
        parts = self.challenger, self.snapshot, self.learned
        if any(each is None for each in parts) and any(each is not None for each in parts):
            raise ValueError("challenger: needs the snapshot that decides, and its configuration")
        if self.policy is not None and self.policy not in get_args(ArmPolicy):
            raise ValueError(
                f"policy: must be one of {', '.join(get_args(ArmPolicy))}; leave it out for an arm"
                " that always serves one `action`"
            )
        if self.action is not None and not _ID.fullmatch(self.action):
            raise ValueError("action: must be the id of an action")

    @property
    def has_method(self) -> bool:
        """Whether it acts on the bandit's posterior."""
        return self.policy not in (None, "first", "request")

    @property
    def has_rule(self) -> bool:
        """Whether what it serves follows from the request alone."""
        return self.challenger is None and not self.has_method


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricGuard:
    """When an arm takes over, because the bandit is worse by a metric.

    Attributes:
        margin: In units of the metric; the arm takes over once the bandit is surely worse by more.
        better: Whether "higher" or "lower" values of the metric are better.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    margin: float
    better: Literal["higher", "lower"] = "higher"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin >= 0.0):
            raise ValueError("margin: must be a finite number, 0 or above")
        if self.better not in ("higher", "lower"):
            raise ValueError("better: must be higher or lower")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSpec:
    """When an arm takes over, because the bandit is worse.

    Attributes:
        margin: The arm serves everything once the upper end of the interval of the bandit's lift
            over it is below -margin, in units of reward; None: nothing takes over.
        arm: The arm that serves then, and in the mode "control_only".
        metrics: By name: metrics that must not become worse, learned or not. The probability of a
            wrong alarm, 0.05, is shared by the margin and all of them.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    margin: float | None = None
    arm: str = CONTROL
    metrics: dict[str, MetricGuard] = field(default_factory=dict)

    @property
    def num_watched(self) -> int:
        """How many intervals it acts on."""
        return (self.margin is not None) + len(self.metrics)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GuardSpec:
        """Return the section whose `dataclasses.asdict` went through JSON."""
        metrics = {name: MetricGuard(**each) for name, each in value.get("metrics", {}).items()}
        return cls(**value | {"metrics": metrics})

    def __post_init__(self) -> None:
        if self.margin is not None and not (math.isfinite(self.margin) and self.margin >= 0.0):
            raise ValueError("margin: must be a finite number, 0 or above")
        if len(self.metrics) > MAX_GUARDED:
            raise ValueError(f"metrics: at most {MAX_GUARDED}")


def check_arms(
    arms: tuple[ArmSpec, ...], guard: GuardSpec, mode: Mode | None, serve: str | None
) -> None:
    """Check what the sections demand of each other.

    Raises:
        ValueError: The message begins with the field.
    """
    names = [arm.name for arm in arms]
    serving = [arm.name for arm in arms if not arm.shadow]
    if len(set(names)) < len(names):
        raise ValueError("arms: two have one name")
    if len(arms) > MAX_ARMS:
        raise ValueError(f"arms: at most {MAX_ARMS}")
    if sum(arm.share for arm in arms) >= 1.0:
        raise ValueError("arms: the sum of their shares must be below 1")
    if mode is not None and mode not in get_args(Mode):
        raise ValueError(f"mode: must be one of {', '.join(get_args(Mode))}")
    if guard.num_watched and guard.arm not in serving:
        raise ValueError(f"guard: there is no arm {guard.arm!r} that may serve")
    if mode == "control_only" and serve is None and guard.arm not in serving:
        raise ValueError(f"mode: control_only needs an arm {guard.arm!r} (guard.arm)")
    if serve is not None and not _ID.fullmatch(serve):
        raise ValueError("serve: must be the id of an action")
