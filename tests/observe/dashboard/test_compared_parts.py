"""Arms by metric and by segment: what is added to which sums, and what a guard acts on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bandexa_core.spec import BanditSpec, RewardSpec
from bandexa_core.spec.arms import GuardSpec, MetricGuard
from bandexa_core.spec.inputs import ContextSpec
from service.observe.dashboard.comparing import MAX_SEGMENTS, MISSING, OTHERS, segment_of
from service.serving.standing import ArmStanding
from tests.observe.dashboard.test_comparing import (
    CONTROL,
    SPEC,
    Stored,
    changed,
    interval,
    mean,
    row,
)

METRICS = dataclasses.replace(
    SPEC,
    rewards=RewardSpec(learn={"sale": 1.0}, metrics=("sale", "refund")),
    guard=GuardSpec(margin=0.1, metrics={"refund": MetricGuard(margin=0.05, better="lower")}),
)
SEGMENTS = BanditSpec(
    context=ContextSpec(features="auto"), arms=(CONTROL,), reward_range=(0.0, 1.0),
    segment="country",
)  # fmt: skip


def arms_of(stored: Stored) -> tuple[ArmStanding, ArmStanding]:
    control, bandit = stored.standing().arms
    return control, bandit


def sold(num: int, refunds: float, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(1, num + 1):
        control = rng.random() < 0.1
        sale = float(rng.random() < 0.4)
        refund = float(rng.random() < (0.1 if control else 0.1 + refunds))
        rows.append(
            row(
                number, "control" if control else "bandit", sale,
                metrics=(("refund", refund), ("sale", sale)),
            )
        )  # fmt: skip
    return rows


def test_every_metric_has_means_and_a_lift() -> None:
    rows = sold(3000, 0.3)
    control, bandit = arms_of(Stored(changed(METRICS)).take(rows))
    assert set(control.metrics) == set(bandit.metrics) == {"sale", "refund"}
    for arm in (control, bandit):
        for name in ("sale", "refund"):
            mine = [dict(r.metrics)[name] for r in rows if r.arm == arm.name]
            assert arm.metrics[name].reward.num == len(mine)
            assert mean(arm.metrics[name].reward) == pytest.approx(np.mean(mine))
    low, high = interval(control.metrics["refund"].lift)
    assert 0.05 < low < 0.3 < high
    low, high = interval(control.metrics["sale"].lift)
    assert low < 0.0 < high
    assert bandit.metrics["sale"].lift is None


def test_a_metric_that_was_not_reported_counts_0_and_corrections_change_both() -> None:
    stored = Stored(changed(METRICS))
    stored.take([row(1, "bandit", 0.0, metrics=(("sale", 0.0),))])
    stored.take(
        [
            row(
                2, "bandit", 1.0, before=0.0, metrics=(("refund", 3.0), ("sale", 1.0)),
                metrics_before=(("sale", 0.0),),
            )
        ]
    )  # fmt: skip
    _, bandit = arms_of(stored)
    assert bandit.metrics["refund"].reward.num == 1
    assert mean(bandit.metrics["refund"].reward) == pytest.approx(3.0)
    assert mean(bandit.metrics["sale"].reward) == pytest.approx(1.0)


def test_what_a_guard_acts_on_shares_the_probability_of_an_error() -> None:
    """Two intervals of 97.5 % each: wider than the shown ones of 95 %."""
    control, bandit = arms_of(Stored(changed(METRICS)).take(sold(3000, 0.3)))
    assert set(control.guarded) == {"", "refund"}
    assert not bandit.guarded
    pairs = ((control.guarded[""], control.lift),
             (control.guarded["refund"], control.metrics["refund"].lift))  # fmt: skip
    for guarded, shown in pairs:
        assert guarded.mean == mean(shown)
        (low, high), (shown_low, shown_high) = interval(guarded), interval(shown)
        assert low < shown_low < shown_high < high


def test_other_weights_of_metrics_leave_the_sums_of_metrics_as_they_are() -> None:
    other = dataclasses.replace(METRICS, rewards=dataclasses.replace(METRICS.rewards, metrics=None))
    assert set(arms_of(Stored(changed(other)))[0].metrics) == {"sale", "refund"}


def visited(num: int, countries: Sequence[str | None]) -> list[Any]:
    rng = np.random.default_rng(3)
    rows = []
    for number in range(1, num + 1):
        country = countries[number % len(countries)]
        control = rng.random() < 0.1
        better = 0.3 if country == "DE" and not control else 0.0
        context = {} if country is None else {"country": country}
        rows.append(
            row(
                number, "control" if control else "bandit", float(rng.random() < 0.3 + better),
                context=json.dumps(context).encode(),
            )
        )  # fmt: skip
    return rows


def test_each_value_of_the_segment_has_a_lift_of_its_own() -> None:
    rows = visited(4000, ["DE", "FR", None])
    control, bandit = arms_of(Stored(changed(SEGMENTS)).take(rows))
    assert set(control.segments) == {"DE", "FR", MISSING}
    low, high = interval(control.segments["DE"].lift)
    assert 0.0 < low < 0.3 < high
    low, high = interval(control.segments["FR"].lift)
    assert low < 0.0 < high
    assert sum(each.reward.num for each in bandit.segments.values()) == bandit.reward.num


def test_segments_beyond_the_first_are_counted_together() -> None:
    names = [f"c{number:02}" for number in range(MAX_SEGMENTS + 5)]
    rows = visited(400, names)
    stored = Stored(changed(SEGMENTS))
    for first in range(0, len(rows), 50):  # what is known comes from the stored sums
        stored.take(rows[first : first + 50])
    _, bandit = arms_of(stored)
    assert len(bandit.segments) == MAX_SEGMENTS + 1
    assert bandit.segments[OTHERS].reward.num > 0


def test_another_segment_begins_anew() -> None:
    other = dataclasses.replace(SEGMENTS, segment="device")
    stored = Stored(changed(SEGMENTS, (100, other))).take(visited(90, ["DE"]))
    control, _ = arms_of(stored)
    assert control.segments == {}
    assert control.reward.num > 0


@pytest.mark.parametrize(
    ("context", "value"),
    [
        (b'{"country":"DE"}', "DE"), (b'{"country":true}', "true"), (b'{"country":7}', "7"),
        (b'{"country":null}', MISSING), (b"{}", MISSING), (None, MISSING), (b"{", MISSING),
    ],
)  # fmt: skip
def test_the_value_of_a_segment_is_what_the_context_has(context, value) -> None:
    assert segment_of("country", context) == value


def test_a_segment_needs_named_features() -> None:
    with pytest.raises(ValueError, match=r"^segment"):
        dataclasses.replace(SPEC, segment="country")
