"""Findings of arms: a guard that tripped, and arms that earn more than the bandit."""

from __future__ import annotations

import time
from collections.abc import Iterator

from service.observe.health.findings import ALARM, Finding
from service.observe.health.observed import BanditState


def check_arms(state: BanditState) -> Iterator[Finding]:
    """Yield what the comparison with other arms shows."""
    if state.trip is not None:
        trip = state.trip
        yield Finding(
            "guard-tripped", ALARM,
            f"arm {trip.arm} serves everything since {_utc(trip.time)}: after {trip.num} values the"
            f" bandit's lift over it{f' by {trip.metric}' if trip.metric else ''} was"
            f" {trip.low:.3g} to {trip.high:.3g}, worse than by the margin of {trip.margin:g}",
            'find out why; a PUT with "mode": "learn" has the bandit decide again, and its'
            " comparison with the arm begins anew",
        )  # fmt: skip
    for name, interval in state.worse:
        yield Finding(
            "worse-than-arm", ALARM,
            f"arm {name} earns more than the bandit: the lift is {interval.low:.3g} to"
            f" {interval.high:.3g} a decision",
            'what it serves is better for now: "mode": "control_only" gives it every decision'
            " (docs/arms.md)",
        )  # fmt: skip


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
