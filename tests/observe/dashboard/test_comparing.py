"""Sums of arms and actions: what they hold, that they last, and what begins them anew."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
from msgspec.structs import replace

from bandexa_core.evaluation import LiftSequence, MeanSequence
from bandexa_core.ids import ActionId, LogPosition
from bandexa_core.log.configurations import Configurations, change_payload
from bandexa_core.log.rows import ConfigRow
from bandexa_core.spec import BanditSpec, ContextSpec
from bandexa_core.spec.arms import ArmSpec
from service.observe.dashboard.comparing import Comparison
from service.observe.dashboard.judging import Judging, weighed_by
from service.observe.dashboard.standings import standing
from service.observe.dashboard.sums import (
    SEGMENT,
    Key,
    Sums,
    estimated_together,
    packed,
    top_actions,
    unpacked,
)
from service.observe.evidence import WARM_UP
from service.serving.standing import Estimated, Standing
from service.store.records import CountedValue

CONTROL = ArmSpec(name="control", share=0.1, action="usual")
SPEC = BanditSpec(context=ContextSpec(shape=(2,)), arms=(CONTROL,), reward_range=(0.0, 1.0))
RUNS, ROWS = 20, 4000


def row(position: int, arm: str | None, after: float | None, **more: Any) -> CountedValue:
    given = {
        "position": position, "time": 0.0, "before": None, "after": after, "decided": 0.0,
        "first_learned": 0.0, "made_at": 0, "action": ActionId("usual"), "arm": arm,
    }  # fmt: skip
    return CountedValue(**given | more)


def changed(spec: BanditSpec, *changes: tuple[int, BanditSpec]) -> Configurations:
    rows = [ConfigRow(LogPosition(at), 0.0, change_payload(new)) for at, new in changes]
    return Configurations(spec, rows)


def interval(found: Estimated | None) -> tuple[float, float]:
    assert found is not None
    assert found.interval is not None
    return found.interval.low, found.interval.high


def mean(found: Estimated | None) -> float:
    assert found is not None
    assert found.mean is not None
    return found.mean


class Stored:
    """Sums as the file of aggregates has them."""

    def __init__(self, known: Configurations) -> None:
        self.known = known
        self.sums: dict[Key, str] = {}

    def take(self, rows: list[CountedValue], step: int = 1000) -> Stored:
        for first in range(0, len(rows), step):
            known = {key.of.removeprefix(SEGMENT) for key in self.sums if SEGMENT in key.of}
            comparison = Comparison(self.known, self.sums.get, known)
            comparison.take(rows[first : first + step])
            self.sums |= {key: packed(sums) for key, sums in comparison.changed.items()}
        return self

    def standing(self) -> Standing:
        return standing(self.known, self.sums)

    def num(self, kind: Any, name: str) -> int:
        text = self.sums.get(Key(kind, name))
        return 0 if text is None else unpacked(kind, text).state.num


def world(seed: int, lift: float, num: int = ROWS) -> list[CountedValue]:
    """Values of a bandit with a control of 10 %, whose own are larger by `lift` on average."""
    rng = np.random.default_rng(seed)
    is_control = rng.random(num) < 0.1
    values = rng.random(num) < np.where(is_control, 0.3, 0.3 + lift)
    return [
        row(number, "control" if control else "bandit", float(value))
        for number, (control, value) in enumerate(zip(is_control, values, strict=True), 1)
    ]


def test_the_interval_covers_the_truth_and_the_means_are_the_arms() -> None:
    covered = 0
    for seed in range(RUNS):
        rows = world(seed, 0.05)
        control, bandit = Stored(changed(SPEC)).take(rows).standing().arms
        assert (control.name, control.share) == ("control", 0.1)
        assert (bandit.name, bandit.share, bandit.lift) == ("bandit", 0.9, None)
        for arm in (control, bandit):
            mine = [each.after or 0.0 for each in rows if each.arm == arm.name]
            assert arm.reward.num == len(mine)
            assert arm.reward.mean == pytest.approx(np.mean(mine))
            low, high = interval(arm.reward)
            assert low < mean(arm.reward) < high
        assert control.lift is not None
        assert control.lift.num == ROWS
        low, high = interval(control.lift)
        covered += low <= 0.05 <= high
    assert covered >= RUNS - 1


def test_sums_are_those_of_the_sequences_and_go_on_where_they_were_stored() -> None:
    rows = world(1, 0.05)
    one, many = Stored(changed(SPEC)).take(rows, ROWS), Stored(changed(SPEC)).take(rows, 7)
    values = np.array([each.after for each in rows])
    is_bandit = np.array([each.arm == "bandit" for each in rows])
    expected = LiftSequence.new(0.1, 0.0, 1.0).add(values, is_bandit, 0.1)
    for stored in (one, many):
        (control, _) = stored.standing().arms
        assert interval(control.lift) == pytest.approx(expected.interval(), abs=1e-9)
        assert mean(control.lift) == pytest.approx(expected.lift, abs=1e-12)
    of_control = MeanSequence.new(0.0, 1.0).add(values[~is_bandit]).interval()
    found = interval(one.standing().arms[0].reward)
    assert found == pytest.approx(of_control, abs=1e-9)


def test_intervals_of_many_actions_are_those_of_each() -> None:
    rng = np.random.default_rng(5)
    found = [Sums.new(0, (-1.0, 3.0)).add(rng.uniform(-1, 3, size)) for size in (1, 40, 300)]
    found.insert(1, Sums.new(0, (-1.0, 3.0)))
    found.append(Sums.new(0, None).add(rng.normal(size=200)))
    for one, sums in zip(estimated_together(found), found, strict=True):
        alone = sums.estimated()
        assert (one.num, one.mean) == (alone.num, alone.mean)
        assert (one.interval is None) == (alone.interval is None)
        if one.interval is not None:
            assert interval(one) == pytest.approx(interval(alone), abs=1e-12)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None], ids=["range", "no range"])
def test_corrected_and_void_values_are_taken_out(bounds: Any) -> None:
    """Mean and lift are those of the values as they are; the interval is about that."""
    spec = dataclasses.replace(SPEC, reward_range=bounds)
    rows = world(2, 0.1, 2000)
    wrong = [replace(each, after=1.0 - (each.after or 0.0)) if each.position % 50 == 0 else each
             for each in rows]  # fmt: skip
    fixes = [
        row(3000 + each.position, each.arm, each.after, before=1.0 - (each.after or 0.0))
        for each in rows if each.position % 50 == 0
    ]  # fmt: skip
    extra = [row(6000 + n, "bandit", 1.0) for n in range(5)]
    void = [row(7000 + n, "bandit", None, before=1.0) for n in range(5)]
    right = Stored(changed(spec)).take(rows).standing().arms
    found = Stored(changed(spec)).take([*wrong, *fixes, *extra, *void], 100).standing().arms
    for one, two in zip(right, found, strict=True):
        assert two.reward.num == one.reward.num
        assert two.reward.mean == pytest.approx(one.reward.mean)
        assert interval(two.reward) == pytest.approx(interval(one.reward), abs=0.01)
    assert mean(found[0].lift) == pytest.approx(mean(right[0].lift), abs=0.02)
    assert interval(found[0].lift) == pytest.approx(interval(right[0].lift), abs=0.05)


def test_metrics_of_actions_are_those_of_the_values_as_they_are() -> None:
    """Of each metric the values that it is a part of, whatever was corrected or became void."""
    buy, look = (("click", 1.0), ("money", 9.5)), (("click", 1.0),)
    rows = [
        row(1, None, 10.5, metrics=buy),
        row(2, None, 1.0, metrics=look, action=ActionId("other")),
        row(3, None, 1.0, metrics=look),
        row(4, None, 3.0, metrics=(("money", 3.0),)),
        row(5, None, 5.0, before=1.0, metrics=(("click", 1.0), ("money", 4.0)),
            metrics_before=look, origin=3),
        row(6, None, None, before=10.5, metrics_before=buy, origin=1),
        row(7, None, None, before=3.0, metrics_before=(("money", 3.0),), origin=4),
    ]  # fmt: skip
    wide = dataclasses.replace(SPEC, reward_range=None)
    for step in (1, 7):
        stored = Stored(changed(wide)).take(rows, step)
        found = [("uid", key.kind, key.stored, text) for key, text in stored.sums.items()]
        num, (first, second) = top_actions(found, 10)
        assert num == 2
        assert (first.name, first.reward.num, second.name) == ("other", 1, "usual")
        assert {name: (each.num, each.mean) for name, each in first.metrics.items()} == {
            "click": (1, 1.0)
        }
        assert {name: (each.num, each.mean) for name, each in second.metrics.items()} == {
            "click": (1, 1.0), "money": (1, pytest.approx(4.0)),
        }  # fmt: skip


def test_values_of_before_the_sums_are_not_taken_out_of_them() -> None:
    rows = [
        row(11, None, 0.5, origin=11),
        row(12, None, None, before=1.0, origin=7),  # it became void, and was never counted
        row(13, None, 0.0, before=1.0, origin=8),
        row(14, None, 1.0, before=0.5, origin=11),
    ]
    comparison = Comparison(changed(SPEC), lambda _: None, begins=10)
    comparison.take(rows)
    sums = comparison.changed[Key("action", "usual")]
    assert sums.estimated().num == 1
    assert sums.estimated().mean == pytest.approx(1.0)


def test_without_a_range_intervals_begin_with_100_values() -> None:
    spec = dataclasses.replace(SPEC, reward_range=None)
    few = Stored(changed(spec)).take(world(3, 0.5, 99)).standing().arms[0].lift
    assert few is not None
    assert few.interval is None
    assert few.mean is not None
    many = Stored(changed(spec)).take(world(3, 0.5)).standing().arms[0]
    low, high = interval(many.lift)
    assert 0.0 < low < 0.5 < high


@pytest.mark.parametrize(
    ("change", "lasts"),
    [
        ({"reward_range": (0.0, 2.0)}, False),
        ({"arms": (dataclasses.replace(CONTROL, share=0.2),)}, False),
        ({"arms": (dataclasses.replace(CONTROL, action="other"),)}, False),
        ({"sticky": "unit"}, False),
        ({"sticky": "action"}, False),
        ({"guard": {"margin": 0.1}}, True),
        ({"rewards": {"aggregate": "last"}}, True),
        ({"rewards": {"learn": {"money": 1.0}}}, False),
    ],
)
def test_another_definition_begins_anew_and_late_values_of_before_do_not_count(
    change: dict[str, Any], lasts: bool
) -> None:
    body = dataclasses.asdict(SPEC)
    body |= {key: dataclasses.asdict(SPEC)[key] | value if isinstance(value, dict) else value
             for key, value in change.items()}  # fmt: skip
    body["arms"] = [dataclasses.asdict(arm) for arm in change.get("arms", SPEC.arms)]
    new = BanditSpec.from_json(body)
    if "reward_range" in change or "learn" in change.get("rewards", {}):  # learned anew
        known = Configurations(SPEC, [
            ConfigRow(LogPosition(10), 0.0, change_payload(SPEC, new)),
            ConfigRow(LogPosition(11), 0.0, {"switched": 10, "version": 1}),
        ])  # fmt: skip
    else:
        known = changed(SPEC, (11, new))
    before = [row(n, "bandit", 1.0, made_at=5) for n in range(20, 30)]
    after = [row(n, "bandit", 0.0, made_at=12) for n in range(30, 34)]
    late = [row(n, "bandit", 1.0, made_at=5) for n in range(40, 50)]
    stored = Stored(known).take(before)
    assert stored.num("lift", "control") == 10
    stored.take(after)
    stored.take(late)
    assert stored.num("lift", "control") == (24 if lasts else 4)


def test_what_serves_everything_is_no_comparison_and_ends_the_one_before() -> None:
    alone = dataclasses.replace(SPEC, mode="control_only")
    again = dataclasses.replace(SPEC, mode="learn")
    known = changed(dataclasses.replace(SPEC, mode="learn"), (10, alone), (20, again))
    assert known.specs == tuple(known.spec(position) for position in (0, 10, 20))
    stored = Stored(known).take([row(n, "control", 1.0, made_at=5) for n in range(30, 40)])
    stored.take([row(n, "control", 1.0, made_at=15) for n in range(40, 50)])
    assert stored.num("arm", "control") == 10
    stored.take([row(n, "control", 1.0, made_at=25) for n in range(50, 53)])
    assert stored.num("lift", "control") == 3
    assert stored.num("action", "usual") == 23


def test_of_a_unit_that_stays_in_its_arm_the_first_decision_counts() -> None:
    known = changed(dataclasses.replace(SPEC, sticky="unit"))
    rows = [row(n, "bandit", 1.0, is_first=n % 3 == 0) for n in range(1, 31)]
    stored = Stored(known).take(rows)
    assert stored.num("lift", "control") == 10
    assert stored.num("action", "usual") == 30


def test_values_of_no_arm_and_of_later_places_count_for_no_arm() -> None:
    stored = Stored(changed(SPEC)).take(
        [row(1, None, 1.0), row(2, "bandit", 1.0, place=1), row(3, "bandit", 2.5),
         row(4, "bandit", 1.0, made_at=None)]
    )  # fmt: skip
    (_, bandit) = stored.standing().arms
    assert (bandit.reward.num, bandit.reward.mean) == (1, 1.0)  # 2.5 counts as the range's end
    assert stored.num("action", "usual") == 2


def test_agreement_is_of_rules_and_shadows_and_is_taken_out_with_its_values() -> None:
    """Of an arm where it served the best mean, also while it serves everything."""
    shadow = ArmSpec(name="dark", share=0.0, policy="greedy", shadow=True)
    spec = dataclasses.replace(SPEC, arms=(CONTROL, shadow), mode="control_only")
    other, usual = {"dark": ActionId("other")}, {"dark": ActionId("usual")}
    rows = [
        row(1, "control", 0.8, explored=False, shadows=usual),
        row(2, "control", 0.2, explored=True, shadows=other),
        row(3, "control", 1.0, explored=True, shadows=usual),
        row(4, None, 0.6, explored=True, shadows=usual),
    ]
    stored = Stored(changed(spec)).take(rows)
    control, dark, bandit = stored.standing().arms
    assert bandit.agreement is None
    assert control.agreement is not None
    assert dark.agreement is not None
    assert (control.agreement.share.num, control.agreement.share.mean) == (3, 1 / 3)
    assert control.agreement.reward_share == pytest.approx(0.8 / 2.0)
    assert (dark.agreement.share.num, dark.agreement.share.mean) == (4, 3 / 4)
    assert dark.agreement.reward_share == pytest.approx(2.4 / 2.6)
    assert (control.reward.num, dark.reward.num) == (0, 0), "they are no comparison"
    void = row(5, "control", None, before=1.0, explored=True, shadows=usual, origin=3)
    stored.take([void])
    _, dark, _ = stored.standing().arms
    assert dark.agreement is not None
    assert dark.agreement.share.num == 3
    assert dark.agreement.share.mean == pytest.approx(2 / 3)
    # Another share of the same arm goes on; another rule begins anew.
    half = dataclasses.replace(CONTROL, share=0.5)
    more = Stored(changed(spec, (9, dataclasses.replace(spec, arms=(half, shadow)))))
    arms = more.take([*rows, row(10, "control", 0.5, made_at=9, explored=False)]).standing().arms
    assert arms[0].agreement is not None
    assert arms[0].agreement.share.num == 4
    new = dataclasses.replace(CONTROL, action="other")
    anew = Stored(changed(spec, (9, dataclasses.replace(spec, arms=(new, shadow)))))
    arms = anew.take([*rows, row(10, "control", 0.5, made_at=9, explored=False)]).standing().arms
    assert arms[0].agreement is not None
    assert arms[0].agreement.share.num == 1


@pytest.mark.parametrize(
    ("arm", "propensity", "weighed"),
    [
        (None, 0.4, 0.4),
        ("bandit", 1.0, 1.0),
        ("control", 0.28, 0.28),
        ("control", 1.0, None),
        ("served", 1.0, None),
        (None, None, None),
    ],
)
def test_what_an_arm_served_with_certainty_weighs_nothing(
    arm: str | None, propensity: float | None, weighed: float | None
) -> None:
    assert weighed_by(row(1, arm, 0.5, propensity=propensity)) == weighed


class NoDays:
    """A file of counts that has none yet."""

    def actions(self, uid: str) -> list[Any]:
        return []

    def series(self, *asked: Any) -> dict[int, Any]:
        return {}

    def delays(self, *asked: Any) -> dict[int, int]:
        return {}


def test_of_units_with_one_draw_the_first_decision_is_evidence_about_actions() -> None:
    """Six decisions of a unit repeat its action: they say as much of it as one."""
    judging, none = Judging(), cast(Any, NoDays())
    rows = [
        row(
            n, None, 1.0, propensity=0.5, score=0.5, action=ActionId("ab"[n // 6 % 2]),
            is_new_unit=n % 6 == 0,
        )
        for n in range(18_000)
    ]  # fmt: skip
    judging.take("uid", rows)
    assert judging.evidence("uid", none, none, 0.0).num == 3000 - WARM_UP
