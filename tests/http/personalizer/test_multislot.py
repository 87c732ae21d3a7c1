"""Multi-slot: each action at most once, a propensity and a reward per slot, exclusions kept."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.personalizer.filling import fillable
from tests.http.personalizer.conftest import ACTIONS, CONTEXT

SLOTS = [
    {"id": "top", "features": [{"size": "large"}], "excludedActions": ["toast"],
     "baselineAction": "soup"},
    {"id": "side / ü", "features": [{"size": "small"}], "baselineAction": "toast"},
]  # fmt: skip
ROOT = "/v1.1-preview.3/multislot"


def rank(personalizer: Any, expect: int = 201, **more: Any) -> Any:
    body = {"contextFeatures": CONTEXT, "actions": ACTIONS, "slots": SLOTS} | more
    return personalizer.call("POST", f"{ROOT}/rank", body, expect)


def decision(personalizer: Any, event: str, slot: int) -> dict[str, Any]:
    found = personalizer.http.get(f"/bandits/default/decisions/ps:default:{event}:{slot}").json()
    assert found["reproduced"] == {"action": True, "score": True, "propensity": True}
    whole: dict[str, Any] = found
    return whole


def test_each_slot_has_an_action_of_its_own(personalizer) -> None:
    seen: Counter[tuple[str, ...]] = Counter()
    for _ in range(30):
        event = personalizer.fresh()
        answer = rank(personalizer, eventId=event)
        assert answer["eventId"] == event
        assert [each["id"] for each in answer["slots"]] == ["top", "side / ü"]
        chosen = tuple(each["rewardActionId"] for each in answer["slots"])
        assert len(set(chosen)) == 2
        assert chosen[0] != "toast"
        assert rank(personalizer, eventId=event) == answer
        seen[chosen] += 1
    assert len(seen) > 1
    for number in range(2):
        stored = decision(personalizer, event, number)
        assert stored["chosen"][0]["id"] == chosen[number]
        assert sum(row["propensity"] for row in stored["candidates"]) == pytest.approx(1.0)
        assert len(stored["candidates"]) == 2
        assert stored["context"]["object"]["slot.id"] == SLOTS[number]["id"]
    error = rank(personalizer, eventId=event, slots=SLOTS[:1], expect=409)
    assert error["code"] == "InvalidRankRequest"


def test_the_propensity_of_a_slot_is_its_probability_given_the_slots_before_it(
    personalizer,
) -> None:
    """Each choice less its propensity has mean 0 and variance p (1 - p), given what came before.

    So the sums over events, for each first choice alone, are within 4.5 of their deviations. The
    candidates of the second slot are what the first one has left.
    """
    slots = [{"id": each, "baselineAction": each} for each in ("soup", "toast")]
    sums: dict[str, list[float]] = {}
    for _ in range(36):
        event = personalizer.fresh()
        rank(personalizer, eventId=event, slots=slots)
        first, second = (decision(personalizer, event, number) for number in range(2))
        taken = first["chosen"][0]["id"]
        left = [row["id"] for row in second["candidates"]]
        assert sorted([taken, *left]) == ["salad", "soup", "toast"]
        for of, stored in (("first", first), (taken, second)):
            chances = {row["id"]: row["propensity"] for row in stored["candidates"]}
            assert sum(chances.values()) == pytest.approx(1.0)
            assert chances[stored["chosen"][0]["id"]] == stored["propensity"]
            name = min(chances)
            found = sums.setdefault(of, [0.0, 0.0])
            found[0] += (stored["chosen"][0]["id"] == name) - chances[name]
            found[1] += chances[name] * (1.0 - chances[name])
    assert all(abs(total) < 4.5 * variance**0.5 + 1e-9 for total, variance in sums.values()), sums


def test_each_slot_has_its_reward_and_the_event_its_activation(personalizer) -> None:
    event = personalizer.fresh()
    rank(personalizer, eventId=event, deferActivation=True)
    body = {"reward": [{"slotId": "side / ü", "value": 0.5}, {"slotId": "none", "value": 1}]}
    personalizer.call("POST", f"{ROOT}/events/{event}/reward", body, 204)
    personalizer.call("POST", f"{ROOT}/events/{event}/activate", None, 204)
    found = [decision(personalizer, event, number) for number in range(2)]
    assert [each["activated"] for each in found] == [True, True]
    rewards = [[row["reward"] for row in each["chosen"][0]["rewards"]] for each in found]
    assert rewards == [[], [0.5]]
    for call in ("reward", "activate"):  # of no event
        personalizer.call("POST", f"{ROOT}/events/none/{call}", body, 204)


def test_two_rewards_of_a_slot_in_one_request_are_two_however_often_it_is_sent(
    personalizer,
) -> None:
    event, summed = personalizer.fresh(), {"rewardAggregation": "sum"}
    service = "/v1.0/configurations/service"
    before = personalizer.call("GET", service)
    personalizer.call("PUT", service, before | summed)
    rank(personalizer, eventId=event)
    body = {"reward": [{"slotId": "top", "value": value} for value in (1.0, 0.5)]}
    same = {"x-ms-client-request-id": "two of a slot"}
    for _ in range(2):
        path = f"/personalizer{ROOT}/events/{event}/reward"
        assert personalizer.send("POST", path, body, same).status_code == 204
    personalizer.call("PUT", service, before)
    found = decision(personalizer, event, 0)["chosen"][0]["rewards"]
    assert [(each["reward"], each["status"]) for each in found] == [
        (1.0, "pending"), (0.5, "aggregated"),
    ]  # fmt: skip


def test_a_refused_reward_of_one_slot_changes_no_other(personalizer) -> None:
    event = personalizer.fresh()
    rank(personalizer, eventId=event)
    body = {"reward": [{"slotId": "top", "value": 1}, {"slotId": "side / ü", "value": 1e300}]}
    error = personalizer.call("POST", f"{ROOT}/events/{event}/reward", body, 400)
    assert error["code"] == "InvalidRewardRequest"
    assert decision(personalizer, event, 0)["chosen"][0]["rewards"] == []


def slot(**more: Any) -> dict[str, Any]:
    return {"id": "a", "baselineAction": "soup"} | more


WRONG: list[tuple[list[Any], str]] = [
    ([], "slots"),
    ([None], "slots.0"),
    ([{"id": "a"}], "slots.0"),
    ([slot(id="")], "slots.0.id"),
    ([slot(baselineAction="none")], "slots.0.baselineAction"),
    ([slot(excludedActions=["soup"])], "slots.0.baselineAction"),
    ([slot(excludedActions=["none"])], "slots.0.excludedActions"),
    ([slot(features=[None])], "slots.0.features.0"),
    ([slot(features=[{"a": ["x"]}])], "slots.0.features.0.a"),
    ([slot(), slot(baselineAction="toast")], "slots"),
    ([slot(), slot(id="b")], "slots"),
    ([slot(id=str(n), baselineAction="soup") for n in range(4)], "slots"),
]


@pytest.mark.parametrize(("slots", "target"), WRONG, ids=range(len(WRONG)))
def test_wrong_slots_are_refused(personalizer, slots, target: str) -> None:
    error = rank(personalizer, slots=slots, expect=400)
    assert error["code"] == "InvalidRankRequest"
    assert error["target"] == target, error


@given(st.lists(st.frozensets(st.integers(0, 5), max_size=4), min_size=1, max_size=5))
def test_a_slot_takes_what_leaves_all_others_an_action(excluded: list[frozenset[int]]) -> None:
    """Compared with all ways to fill the slots; each has its baseline, so there is one."""
    everything = frozenset(range(6))
    allowed = [everything - (each - {place}) for place, each in enumerate(excluded)]
    ways = [
        way
        for way in itertools.permutations(range(6), len(allowed))
        if all(action in of for action, of in zip(way, allowed, strict=True))
    ]
    taken: frozenset[int] = frozenset()
    for place in range(len(allowed)):
        found = fillable(place, allowed, taken)
        assert found == sorted({way[place] for way in ways if taken == frozenset(way[:place])})
        taken |= {found[-1]}
