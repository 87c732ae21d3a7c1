"""From how arms and actions stand to the answers that say so, in figures and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from service.http.schemas.earned import (
    ActionValue,
    AgreementState,
    ArmState,
    ComparedState,
    EstimateState,
    LiftLine,
    LiftPart,
)
from service.observe.verdicts import is_better, part_of
from service.serving.bandit import Bandit
from service.serving.standing import Agreement, ArmStanding, Compared, EarnedByAction, Estimated


def estimate_state(found: Estimated) -> EstimateState:
    """Return a mean with its interval."""
    low, high = found.interval or (None, None)
    return EstimateState(num=found.num, mean=found.mean, low=low, high=high)


def arm_state(arm: ArmStanding) -> ArmState:
    """Return how an arm stands."""
    return ArmState(
        name=arm.name, share=arm.share, reward=estimate_state(arm.reward),
        lift=None if arm.lift is None else estimate_state(arm.lift),
        metrics={name: compared_state(each) for name, each in arm.metrics.items()},
        segments={name: compared_state(each) for name, each in arm.segments.items()},
        agreement=agreement_state(arm.agreement),
    )  # fmt: skip


def agreement_state(found: Agreement | None) -> AgreementState | None:
    """Return how often an arm and the bandit choose alike."""
    if found is None:
        return None
    return AgreementState(share=estimate_state(found.share), reward_share=found.reward_share)


def compared_state(found: Compared) -> ComparedState:
    """Return how an arm stands by a metric or in a segment."""
    lift = None if found.lift is None else estimate_state(found.lift)
    return ComparedState(reward=estimate_state(found.reward), lift=lift)


def action_values(earned: Iterable[EarnedByAction]) -> list[ActionValue]:
    """Return what actions earned."""
    return [
        ActionValue(
            id=each.name, reward=estimate_state(each.reward),
            metrics={name: estimate_state(part) for name, part in each.metrics.items()},
        )
        for each in earned
    ]  # fmt: skip


def lift_lines(bandit: Bandit) -> list[LiftLine]:
    """Return what a bandit earns more than each arm that decides a share."""
    found = []
    for arm in bandit.current_standing():
        if arm.lift is None or arm.share <= 0.0:
            continue
        lift = estimate_state(arm.lift)
        found.append(
            LiftLine(
                arm=arm.name, share=arm.share, lift=lift,
                text=is_better(arm.name, *lift.model_dump().values()),
                metrics=_parts(arm.name, arm.metrics), segments=_parts(arm.name, arm.segments),
            )
        )  # fmt: skip
    return found


def _parts(arm: str, parts: Mapping[str, Compared]) -> dict[str, LiftPart]:
    found = {}
    for name, each in parts.items():
        if each.lift is not None:
            lift = estimate_state(each.lift)
            text = part_of(arm, name, *lift.model_dump().values())
            found[name] = LiftPart(lift=lift, text=text)
    return found
