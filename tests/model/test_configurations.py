"""The configurations of a bandit, from its creation and the config rows of its log."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.log.configurations import Configurations, change_payload, switch_payload
from bandexa_core.log.rows import ConfigRow
from bandexa_core.spec import (
    ArmSpec,
    BanditSpec,
    ContextSpec,
    PosteriorSpec,
    RewardSpec,
    TrainingSpec,
)

CREATED = BanditSpec(context=ContextSpec(shape=(2,)), policy="linear_ts", seed=1, edition=2)
WIDER = dataclasses.replace(CREATED, posterior=PosteriorSpec(prior_var=4.0))
FASTER = dataclasses.replace(CREATED, training=TrainingSpec(train_every=5))
WINDOW: dict[str, Any] = {"reward_window_s": 9.0, "outside": "clip", "maturity": "auto"}
SUMMED = dataclasses.replace(FASTER, rewards=RewardSpec(aggregate="sum", reward_window_s=9.0))


def row(position: int, payload: dict[str, Any]) -> ConfigRow:
    return ConfigRow(LogPosition(position), float(position), payload)


def switch(position: int, generation: int) -> ConfigRow:
    return row(position, switch_payload(LogPosition(generation), SnapshotVersion(7)))


def test_a_wanted_configuration_is_served_from_its_switch_on() -> None:
    wanted = row(5, change_payload(CREATED, WIDER))
    before = Configurations(CREATED, [wanted])
    assert before.pending == (5, 5.0, WIDER)
    assert [before.generation(at) for at in (4, 5, 99)] == [0, 0, 0]
    after = before.with_row(switch(9, 5))
    assert after.pending is None
    assert [after.generation(at) for at in (8, 9)] == [0, 5]
    assert (after.spec(8), after.spec(9)) == (CREATED, WIDER)
    assert after.switches[-1] == (9, 9.0, 5, 7)
    assert after.spec(6, 5) == WIDER, "the new model learns rows from before the switch"
    assert before.pending is not None, "it is a value"


def test_what_holds_at_once_holds_for_both_models() -> None:
    known = Configurations(
        CREATED, [row(2, change_payload(CREATED, WIDER)), row(4, change_payload(FASTER))]
    )
    assert (known.spec(3), known.spec(4)) == (CREATED, FASTER)
    both = dataclasses.replace(WIDER, training=FASTER.training)
    assert (known.spec(3, 2), known.spec(4, 2)) == (WIDER, both)
    assert known.pending is not None
    assert known.pending.position == 2


def test_what_is_awaited_has_what_was_changed_since() -> None:
    """A mode, say of a guard, that comes after the request of a change is part of what follows."""
    held = dataclasses.replace(CREATED, mode="frozen")
    known = Configurations(
        CREATED, [row(2, change_payload(CREATED, WIDER)), row(4, change_payload(held))]
    )
    assert known.awaited == dataclasses.replace(WIDER, mode="frozen")
    assert known.with_row(switch(6, 2)).awaited is None
    assert Configurations(CREATED).awaited is None


def test_what_is_wanted_can_be_replaced_and_taken_back() -> None:
    first = Configurations(CREATED, [row(2, change_payload(CREATED, WIDER))])
    other = dataclasses.replace(CREATED, seed=2)
    replaced = first.with_row(row(3, change_payload(CREATED, other)))
    assert replaced.pending == (3, 3.0, other)
    assert replaced.with_row(row(4, change_payload(CREATED, "nothing"))).pending is None
    late = replaced.with_row(switch(6, 2))
    assert (late.spec(6), late.pending) == (WIDER, (3, 3.0, other))
    with pytest.raises(KeyError):
        late.spec(6, 4)


def test_decisions_follow_the_reward_rules_of_their_position() -> None:
    known = Configurations(CREATED)
    assert not known.rules_changed
    assert not known.ever_had_windows
    known = known.with_row(row(3, change_payload(FASTER)))
    assert not known.rules_changed
    known = known.with_row(row(7, change_payload(SUMMED)))
    assert [known.rules(at).aggregate for at in (0, 6, 7, 8)] == ["first", "first", "sum", "sum"]
    assert known.rules_changed
    assert known.ever_had_windows
    assert (known.bounding(6).rewards, known.bounding(7)) == (CREATED.rewards, SUMMED)


def test_weights_of_metrics_change_with_the_switch_and_are_known_while_they_are_wanted() -> None:
    first, second = {"money": 1.0}, {"money": 2.0, "click": -1.0}
    wanted = dataclasses.replace(SUMMED, rewards=RewardSpec(learn=first))
    known = Configurations(CREATED, [row(3, change_payload(wanted, wanted))])
    assert (known.learn, known.any_learn, known.rules(9).learn) == (first, first, None)
    assert not known.rules_changed, "until the switch, decisions take what they took"
    known = known.with_row(switch(5, 3))
    assert [known.rules(at).learn for at in (4, 5)] == [None, first]
    assert known.spec(5).rewards.learn == first
    other = dataclasses.replace(SUMMED, rewards=RewardSpec(aggregate="sum", learn=second))
    known = known.with_row(row(7, change_payload(other, other)))
    assert known.rules(7) == RewardSpec(aggregate="sum", learn=first), "the rules hold at once"
    assert (known.learn, known.spec(7).rewards.learn) == (first, first)
    assert known.spec(7, 7).rewards.learn == second
    known = known.with_row(switch(8, 7)).with_row(row(9, change_payload(CREATED, CREATED)))
    assert (known.learn, known.with_row(switch(10, 9)).learn) == (second, None)
    assert known.with_row(switch(10, 9)).any_learn == second


def test_rows_of_earlier_releases_change_forgetting_at_once() -> None:
    old = {**change_payload(FASTER), "forgetting": {"by": "count", "half_life": 64.0}}
    del old["rewards"]
    known = Configurations(CREATED, [row(1, old)])
    assert known.spec(1).forgetting.half_life == 64.0
    assert known.rules(1) == CREATED.rewards


def test_another_change_meanwhile_leaves_what_is_wanted_of_values_outside() -> None:
    """One who changes the mode sends the served configuration, which still clips."""
    clips, refuses = (
        dataclasses.replace(CREATED, reward_range=(0.0, 1.0), rewards=RewardSpec(outside=outside))
        for outside in ("clip", "refuse")
    )
    serving = dataclasses.replace(clips, serve="a")
    for created, wanted in ((clips, refuses), (refuses, clips)):
        known = Configurations(created, [row(3, change_payload(wanted, wanted))])
        served = dataclasses.replace(known.spec(3), serve=serving.serve)
        known = known.with_row(row(4, change_payload(served))).with_row(switch(6, 3))
        assert (known.spec(6).serve, known.spec(6).rewards) == ("a", wanted.rewards)
        assert [known.rules(at).outside for at in (3, 4, 6)] == [wanted.rewards.outside] * 3
        known = known.with_row(row(8, change_payload(created, created)))
        known = known.with_row(row(9, change_payload(wanted, "nothing")))
        assert [known.rules(at).outside for at in (8, 9)] == [
            created.rewards.outside, wanted.rewards.outside,
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            {"reward_range": (0.0, 1.0), "rewards": RewardSpec(**WINDOW, default_reward=0.0)},
            {"reward_range": (-1.0, 1.0), "rewards": RewardSpec(**WINDOW, default_reward=-1.0)},
        ),
        ({"policy": "greedy"}, {"arms": (ArmSpec(name="x", share=0.1, policy="thompson"),)}),
        (
            {"edition": 1, "reward_range": (0.0, 1.0)},
            {"edition": 2, "rewards": RewardSpec(clip_outliers=True)},
        ),
    ],
    ids=["range and default", "policy and arms", "edition and outliers"],
)
def test_what_is_served_between_the_two_steps_of_a_change_need_not_fit(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    created = dataclasses.replace(CREATED, **before)
    wanted = dataclasses.replace(CREATED, **before | {"policy": "linear_ts"} | after)
    wanted.check_together()
    known = Configurations(created, [row(3, change_payload(wanted, wanted))])
    with pytest.raises(ValueError, match=r"outside of reward_range|has no thompson|edition 1"):
        known.spec(3).check_together()
    assert known.bounding(3).rewards == known.rules(3)
    assert BanditSpec.from_json(json.loads(json.dumps(dataclasses.asdict(known.spec(3)))))
    assert known.with_row(switch(5, 3)).spec(5) == wanted
