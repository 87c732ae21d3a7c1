"""Rank, Reward and Activate on the wire: order, probabilities, ids, retries."""

from __future__ import annotations

import http.client
import math
from typing import Any
from urllib.parse import quote

import pytest

from service.http.personalizer import ids
from tests.http.personalizer.conftest import ACTIONS, CONTEXT, error_of


def test_a_rank_lists_every_action_once_with_the_logged_probabilities(personalizer) -> None:
    event = personalizer.fresh()
    answer = personalizer.rank(eventId=event)
    assert set(answer) == {"ranking", "eventId", "rewardActionId"}
    assert answer["eventId"] == event
    assert {each["id"] for each in answer["ranking"]} == {"soup", "toast", "salad"}
    assert answer["ranking"][0]["id"] == answer["rewardActionId"]
    chances = {each["id"]: each["probability"] for each in answer["ranking"]}
    assert math.isclose(sum(chances.values()), 1.0, abs_tol=1e-9)
    stored = personalizer.decision(event)
    assert stored["chosen"][0]["id"] == answer["rewardActionId"]
    assert stored["propensity"] == chances[answer["rewardActionId"]]
    assert {row["id"]: row["propensity"] for row in stored["candidates"]} == chances
    assert stored["reproduced"] == {"action": True, "score": True, "propensity": True}


@pytest.mark.parametrize("excluded", [["soup"], ["toast"], ["soup", "salad"], ["none-of-them"]])
def test_excluded_actions_keep_their_place_with_probability_0(personalizer, excluded) -> None:
    answer = personalizer.rank(excludedActions=excluded)
    ranking = answer["ranking"]
    for place, action in enumerate(ACTIONS):
        if action["id"] in excluded:
            assert ranking[place] == {"id": action["id"], "probability": 0.0}
    offered = [each for each in ranking if each["id"] not in excluded]
    assert offered[0]["id"] == answer["rewardActionId"]
    assert math.isclose(sum(each["probability"] for each in offered), 1.0, abs_tol=1e-9)
    assert sorted(each["id"] for each in ranking) == ["salad", "soup", "toast"]


def test_an_event_has_one_answer_and_another_body_is_refused(personalizer) -> None:
    event = personalizer.fresh()
    first = personalizer.rank(eventId=event)
    assert personalizer.rank(eventId=event) == first
    error = personalizer.rank(eventId=event, actions=ACTIONS[:2], expect=409)
    assert error["code"] == "InvalidRankRequest"
    assert event in error["message"]


def test_the_tries_of_one_request_are_one_event(personalizer) -> None:
    body = {"contextFeatures": CONTEXT, "actions": ACTIONS}
    same = {"x-ms-client-request-id": "a 7/"}
    answers = [personalizer.send("POST", "/personalizer/v1.0/rank", body, same) for _ in range(3)]
    assert {each.status_code for each in answers} == {201}
    assert len({each.content for each in answers}) == 1
    events = {personalizer.rank()["eventId"] for _ in range(3)} | {answers[0].json()["eventId"]}
    assert len(events) == 4
    assert all(len(each) == 38 and each[32] == "-" for each in events)


def rewards(personalizer, event: str) -> list[tuple[float, str]]:
    (chosen,) = personalizer.decision(event)["chosen"]
    return [(each["reward"], each["status"]) for each in chosen["rewards"]]


def test_a_reward_counts_once_and_the_first_one_holds(personalizer) -> None:
    event = personalizer.fresh()
    personalizer.rank(eventId=event)
    for value in (0.75, 0.75, 0.25):
        personalizer.reward(event, value)
    assert rewards(personalizer, event) == [(0.75, "pending"), (0.25, "ignored")]


def test_a_deferred_event_counts_once_it_is_activated(personalizer) -> None:
    event = personalizer.fresh()
    personalizer.rank(eventId=event, deferActivation=True)
    assert personalizer.decision(event)["activated"] is False
    personalizer.reward(event, 1)  # in any order
    personalizer.activate(event)
    personalizer.activate(event)
    assert personalizer.decision(event)["activated"] is True
    assert rewards(personalizer, event) == [(1.0, "aggregated")]
    other = personalizer.fresh()
    personalizer.rank(eventId=other)
    personalizer.activate(other)  # harmless


def test_events_that_nobody_knows_are_answered_204_and_counted(personalizer) -> None:
    def unknown() -> float:
        text = personalizer.http.get("/metrics").text
        name = "bandexa_personalizer_unknown_events_total "
        return float(next(x for x in text.splitlines() if x.startswith(name)).split()[1])

    before = unknown()
    personalizer.reward("never-ranked", 1)
    personalizer.activate("never-ranked")
    assert unknown() == before + 2


ODD = ["a b/c", "ä:ß|%2F", "ev.1", "x" * 256, "日本" * 100, "a/reward", "?#&", "a:b"]


@pytest.mark.parametrize("event", ODD, ids=range(len(ODD)))
def test_ids_have_any_character(personalizer, event: str) -> None:
    actions = [
        {"id": f"{event[:200]} {number}", "features": [{"n": number}]} for number in range(3)
    ]
    answer = personalizer.rank(eventId=event, actions=actions, expect=201)
    assert answer["eventId"] == event
    assert {each["id"] for each in answer["ranking"]} == {each["id"] for each in actions}
    personalizer.reward(quote(event, safe=""), 0.5)
    personalizer.activate(quote(event, safe=""))
    assert personalizer.rank(eventId=event, actions=actions) == answer
    name = ids.decision_of("default", event)
    stored = personalizer.http.get(f"/bandits/default/decisions/{name}").json()
    assert stored["context"]["object"].get("_event", event) == event
    assert str(name).startswith("pz-") == ("_event" in stored["context"]["object"])
    (chosen,) = stored["chosen"]
    assert chosen["features"]["i.id"] == answer["rewardActionId"]
    assert [each["reward"] for each in chosen["rewards"]] == [0.5]


def test_ids_of_different_bandits_and_slots_never_meet() -> None:
    pairs = [("a", "b:c"), ("a:b", "c"), ("a", "b"), ("ab", ""), ("a" * 128, "b"), ("a", "b c")]
    made = [ids.decision_of(*each) for each in pairs]
    made += [ids.decision_of(*each, slot="s") for each in pairs]
    made += [ids.decision_of("a", "b", slot="c:s"), ids.decision_of("a", "b:c", slot="s")]
    assert len(set(made)) == len(made) - 1  # the last one is there twice


def test_slashes_at_the_end_of_an_endpoint_do_no_harm(doorway, personalizer) -> None:
    host = doorway.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host)
    connection.request("POST", "//personalizer/v1.0/events/e/reward", b'{"value": 1}',
                       {"content-type": "application/json"})  # fmt: skip
    assert connection.getresponse().status == 204
    connection.close()


def test_the_newest_generation_names_its_version_in_the_query(personalizer) -> None:
    body = {"actions": ACTIONS}
    path = "/personalizer/rank"
    assert personalizer.send("POST", f"{path}?api-version=2022-09-01-preview", body).is_success
    for query in ("", "?api-version=2019-01-01"):
        refused = personalizer.send("POST", path + query, body)
        assert refused.status_code == 400
        assert error_of(refused)["target"] == "api-version"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"actions": []}, "actions"),
    ({"actions": None}, "actions"),
    ({"actions": [{"id": "a", "features": []}]}, "actions.0.features"),
    ({"actions": [{"id": "a", "features": [None]}]}, "actions.0.features.0"),
    ({"actions": [{"id": "a", "features": ["x"]}]}, "actions.0.features.0"),
    ({"actions": [None]}, "actions.0"),
    ({"actions": [{"id": "", "features": [{}]}]}, "actions.0.id"),
    ({"actions": [{"id": "x" * 257, "features": [{}]}]}, "actions.0.id"),
    ({"actions": [{"features": [{}]}]}, "actions.0"),
    ({"actions": [{"id": "a", "features": [{}]}] * 2}, "actions"),
    ({"actions": [{"id": f"a{n}", "features": [{}]} for n in range(51)]}, "actions"),
    ({"contextFeatures": [None]}, "contextFeatures.0"),
    ({"contextFeatures": [{"": 1}]}, "contextFeatures.0"),
    ({"contextFeatures": [{"a": ["x"]}]}, "contextFeatures.0.a"),
    ({"contextFeatures": [{"a": {"b": [[1]]}}]}, "contextFeatures.0.a.b"),
    ({"contextFeatures": [{"a": [1, None]}]}, "contextFeatures.0.a"),
    ({"contextFeatures": [{"a": [{"b": 1}]}]}, "contextFeatures.0.a"),
    ({"contextFeatures": [{f"f{n}": 1 for n in range(257)}]}, "contextFeatures"),
    ({"contextFeatures": {"a": 1}}, "contextFeatures"),
    ({"excludedActions": ["soup", "toast", "salad"]}, "excludedActions"),
    ({"excludedActions": [1]}, "excludedActions.0"),
    ({"eventId": ""}, "eventId"),
    ({"eventId": "x" * 257}, "eventId"),
    ({"eventId": 7}, "eventId"),
    ({"deferActivation": "yes"}, "deferActivation"),
]


@pytest.mark.parametrize(("wrong", "target"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_rank_is_refused_with_its_place(personalizer, wrong, target: str) -> None:
    error = personalizer.rank(**wrong, expect=400)
    assert error["code"] == "InvalidRankRequest"
    assert error["target"] == target, error


NO_REWARDS: list[Any] = [
    {}, {"value": "1"}, {"value": None}, {"value": True}, [], 1, {"value": 1e300}, b"{", b"",
    b'{"value": NaN}', b"\xff",
]  # fmt: skip


@pytest.mark.parametrize("body", NO_REWARDS, ids=range(len(NO_REWARDS)))
def test_a_wrong_reward_is_refused(personalizer, body) -> None:
    event = personalizer.fresh()
    personalizer.rank(eventId=event)
    refused = personalizer.send("POST", f"/personalizer/v1.0/events/{event}/reward", body)
    assert refused.status_code == 400
    assert error_of(refused)["code"] == "InvalidRewardRequest"
    assert rewards(personalizer, event) == []
