"""All findings of a bandit, alarms first: a pure function of what was observed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from service.observe.health.findings import ALARM, NOTICE, Finding
from service.observe.health.observed import BanditState
from service.observe.health.of_actions import (
    check_days,
    check_one_sided,
    check_predictions,
    check_worse,
)
from service.observe.health.of_arms import check_arms
from service.observe.health.of_challengers import check_challengers
from service.observe.health.of_inputs import check_inputs
from service.observe.health.of_rewards import check_traffic, join_rate_drop, loss_finding
from service.observe.health.of_training import check_training, failed_finding


def check_bandit(state: BanditState) -> Iterator[Finding]:
    """Yield what is wrong, or may be, with a bandit: alarms first."""
    if state.failure is not None:
        yield failed_finding(state.failure)
    yield from check_arms(state)
    yield from check_training(state)
    drop = join_rate_drop(state.traffic)
    if state.loss is not None:
        yield loss_finding(state.loss)
    elif drop is not None:
        past, recent = drop
        yield Finding(
            "join-rate-collapsed", ALARM,
            f"rewards per decision fell from {past:.3g} to {recent:.3g}",
            "do rewards still reach /reward, with the ids that /select answered?"
            " bandexa_problems_total counts refused ones",
        )  # fmt: skip
    if state.held is not None:
        yield Finding(
            "frozen", NOTICE,
            f"nothing is learned, because the bandit is frozen; {state.held} values wait",
            'they are learned once its mode is "learn" again (docs/arms.md)',
        )  # fmt: skip
    one_sided = None
    if state.learns:
        yield from check_worse(state)
        one_sided = check_one_sided(state)
        if one_sided is not None:
            yield one_sided
        yield from check_predictions(state)
    yield from check_days(state.evidence)
    for warning in state.warnings:
        yield Finding(
            warning.name, NOTICE, warning.message,
            "a PUT with another encoder or other fields learns the log anew, and is served from"
            " then on",
        )  # fmt: skip
    if state.learns:
        shown = dataclasses.replace(state, same_actions=0) if one_sided is not None else state
        yield from check_traffic(shown)
        yield from check_inputs(state)
    yield from check_challengers(state.challengers)
