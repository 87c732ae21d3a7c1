"""The service configuration, the learning modes, and the model: read, written, and what they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.http.personalizer.durations import duration_of, seconds_of
from tests.fixtures.waiting import poll
from tests.http.personalizer.conftest import ACTIONS, Personalizer, error_of

SERVICE = "/v1.1-preview.3/configurations/service"


@pytest.fixture
def own(start_server: Callable[..., Any]) -> Iterator[Personalizer]:
    """A server of its own, whose bandit exists."""
    flags = {f"BANDEXA_PERSONALIZER__{name}": "true" for name in ("ENABLED", "CREATE")}
    server = start_server(env=flags)
    with server.client() as http:
        calls = Personalizer(http)
        calls.rank()
        yield calls


def configured(calls: Personalizer, expect: int = 200, **changes: Any) -> Any:
    """Read the configuration, change it, and write it back, as an SDK does."""
    return calls.call("PUT", SERVICE, calls.call("GET", SERVICE) | changes, expect)


def test_a_rank_never_changes_a_bandit_that_is_just_being_created(
    start_server: Callable[..., Any],
) -> None:
    flags = {f"BANDEXA_PERSONALIZER__{name}": "true" for name in ("ENABLED", "CREATE")}
    server = start_server(env=flags)
    spec = {  # as the first Rank creates it, where that comes before
        "context": {"features": {"*": "namespaces", "_event": "ignore", "_slots": "ignore"},
                    "max_bytes": 8192},
        "actions": {"features": {"*": "namespaces"}, "max_bytes": 4096},
        "rewards": {"aggregate": "sum"},
    }  # fmt: skip

    def created() -> bool:
        with server.client() as http:
            return bool(http.put("/bandits/default", json=spec).is_success)

    def ranked() -> dict[str, Any]:
        with server.client() as http:
            answer: dict[str, Any] = Personalizer(http).rank()
            return answer

    with ThreadPoolExecutor(4) as pool:
        made, answers = pool.submit(created), [pool.submit(ranked) for _ in range(12)]
        assert all(answer.result()["ranking"] for answer in answers)
        assert made.result()
    with server.client() as http:
        assert http.get("/bandits/default").json()["spec"]["rewards"]["aggregate"] == "sum"


def test_a_configuration_is_read_and_written_back(own: Personalizer) -> None:
    first = own.call("GET", SERVICE)
    assert first["rewardWaitTime"] == "PT10M"
    assert first["defaultReward"] == 0
    assert first["rewardAggregation"] == "earliest"
    assert first["learningMode"] == "Online"
    assert first["latestApprenticeModeMetrics"] is None
    assert configured(own) == first  # nothing changes
    spec = own.http.get("/bandits/default").json()["spec"]
    changed = configured(
        own, rewardWaitTime="00:20:00", defaultReward=-0.5, rewardAggregation="median",
        explorationPercentage=0.25,
    )  # fmt: skip
    assert changed == own.call("GET", "/v1.0/configurations/service")
    assert changed["rewardWaitTime"] == "PT20M"
    assert changed["lastConfigurationEditDate"] > first["lastConfigurationEditDate"]
    after = own.http.get("/bandits/default").json()["spec"]
    assert after["rewards"] == spec["rewards"] | {
        "aggregate": "median", "reward_window_s": 1200.0, "default_reward": -0.5,
    }  # fmt: skip
    assert after["selection"] == spec["selection"] | {"epsilon": 0.25}
    others = {key: value for key, value in after.items() if key not in ("rewards", "selection")}
    assert others == {key: spec[key] for key in others}
    trail = own.http.get("/bandits/default/audit").json()["entries"]
    assert trail[0]["what"] == "PUT /personalizer configurations/service"
    assert trail[-1]["what"] == "POST /personalizer rank", "which created the bandit"


@pytest.mark.parametrize(
    ("changes", "code", "target"),
    [
        ({"rewardWaitTime": "soon"}, "InvalidServiceConfiguration", "rewardWaitTime"),
        ({"rewardWaitTime": "PT1S"}, "InvalidRewardWaitTime", None),
        ({"defaultReward": 2}, "InvalidServiceConfiguration", "defaultReward"),
        ({"defaultReward": None}, "InvalidServiceConfiguration", "defaultReward"),
        ({"rewardAggregation": "mode"}, "InvalidServiceConfiguration", "rewardAggregation"),
        ({"explorationPercentage": 1.5}, "InvalidServiceConfiguration", "explorationPercentage"),
        ({"learningMode": "Offline"}, "InvalidServiceConfiguration", "learningMode"),
        ({"logMirrorEnabled": True}, "InvalidServiceConfiguration", None),
        (
            {"learningMode": "Apprentice", "defaultReward": 0.5},
            "InvalidLearningModeServiceConfiguration", None,
        ),
    ],
)  # fmt: skip
def test_a_wrong_configuration_changes_nothing(personalizer, changes, code, target) -> None:
    personalizer.rank()
    before = personalizer.call("GET", SERVICE)
    error = configured(personalizer, **changes, expect=400)
    assert error["code"] == code
    assert error.get("target") == target
    assert personalizer.call("GET", SERVICE) == before
    incomplete = {key: value for key, value in before.items() if key != "logRetentionDays"}
    refused = personalizer.send("PUT", f"/personalizer{SERVICE}", incomplete)
    assert error_of(refused)["code"] == "InvalidServiceConfiguration"


def test_what_is_not_used_is_named(personalizer) -> None:
    personalizer.rank()
    body = personalizer.call("GET", SERVICE) | {"logRetentionDays": 90, "modelRetrainDays": 2}
    answer = personalizer.send("PUT", f"/personalizer{SERVICE}", body)
    assert answer.status_code == 200
    assert answer.headers["x-bandexa-not-used"] == "modelRetrainDays, logRetentionDays"
    assert answer.json()["logRetentionDays"] == -1


def test_combined_rewards_count_once_per_request(own: Personalizer) -> None:
    configured(own, rewardAggregation="sum")
    own.rank(eventId="e")
    path = "/personalizer/v1.0/events/e/reward"
    for request in ("one", "one", "two"):
        own.send("POST", path, {"value": 0.25}, {"x-ms-client-request-id": request})
    for _ in range(2):  # without an id, each is a reward of its own
        own.reward("e", 0.125)
    (chosen,) = own.decision("e")["chosen"]
    assert sorted(each["reward"] for each in chosen["rewards"]) == [0.125, 0.125, 0.25, 0.25]


def test_an_apprentice_serves_the_callers_first_action_and_learns(own: Personalizer) -> None:
    configured(own, rewardWaitTime="PT5S")
    assert configured(own, learningMode="Apprentice")["learningMode"] == "Apprentice"
    for number in range(30):
        answer = own.rank(eventId=f"a{number}", excludedActions=["soup"])
        assert answer["rewardActionId"] == "toast"
        assert [each["id"] for each in answer["ranking"]] == ["soup", "toast", "salad"]
        assert [each["probability"] for each in answer["ranking"]] == [0.0, 1.0, 0.0]
        assert own.rank(eventId=f"a{number}", excludedActions=["soup"]) == answer
        own.reward(f"a{number}", 1)
        own.reward(f"a{number}", 1)
    assert own.decision("a0")["propensity"] == 1.0
    found = own.call("GET", SERVICE)["latestApprenticeModeMetrics"]
    assert found["numberOfEvents"] == 30
    assert found["sumOfRewards"] == 30.0
    assert 0 < found["numberOfImitatedEvents"] <= 30
    assert found["sumOfImitatedRewards"] == found["numberOfImitatedEvents"]
    assert found["lastBatchMetrics"]["numberOfEvents"] == 30

    def learned() -> bool:
        return bool(own.http.get("/bandits/default").json()["num_learned"] >= 30)

    poll(learned, "the rewards of an apprentice are learned")
    assert configured(own, learningMode="Online")["learningMode"] == "Online"
    assert own.http.get("/bandits/default").json()["spec"]["arms"] == []


def test_an_action_outside_its_dates_stands_where_it_was_sent_with_probability_0(
    own: Personalizer,
) -> None:
    spec = own.http.get("/bandits/default").json()["spec"]
    limits = {"soup": {"ends_at": "2026-01-01T00:00:00+00:00"}}
    path = "/v1.1-preview.3/multislot/rank"
    all_three = [{"id": each, "baselineAction": each} for each in ("soup", "salad", "toast")]
    earlier = {"actions": ACTIONS, "slots": all_three, "eventId": "all three"}
    filled = own.call("POST", path, earlier, 201)
    assert own.http.put("/bandits/default", json=spec | {"limits": limits}).status_code == 200
    slots = [{"id": each, "baselineAction": each} for each in ("salad", "toast")]
    for number in range(6):
        answer = own.rank(eventId=f"d{number}")
        assert answer["ranking"][0] == {"id": "soup", "probability": 0.0}
        assert answer["rewardActionId"] == answer["ranking"][1]["id"]
        chosen, chance = answer["rewardActionId"], answer["ranking"][1]["probability"]
        stored = own.decision(f"d{number}")
        assert (stored["chosen"][0]["id"], stored["propensity"]) == (chosen, chance)
        assert own.rank(eventId=f"d{number}") == answer
        body = {"actions": ACTIONS, "slots": slots, "eventId": f"s{number}"}
        shown = own.call("POST", path, body, 201)["slots"]
        assert {each["rewardActionId"] for each in shown} == {"toast", "salad"}
    assert own.call("POST", path, earlier, 201) == filled
    error = own.call("POST", path, earlier | {"eventId": "too-few"}, 400)
    assert (error["code"], error["target"]) == ("InvalidRankRequest", "slots")
    assert own.http.get("/bandits/default/decisions/ps:default:too-few:0").status_code == 404


def test_logging_alone_learns_nothing_whatever_is_activated(own: Personalizer) -> None:
    configured(own, rewardWaitTime="PT5S")
    configured(own, learningMode="LoggingOnly")
    for number in range(5):
        assert own.rank(eventId=f"l{number}")["rewardActionId"] == "soup"
        own.activate(f"l{number}")
        own.reward(f"l{number}", 1)
    assert own.decision("l0")["activated"] is False
    assert own.call("GET", SERVICE)["latestApprenticeModeMetrics"] is None  # not that mode's events

    def closed() -> bool:
        return own.decision("l4")["window_closed"] is not None

    poll(closed, "the window closes")
    values = [own.decision(f"l{n}")["chosen"][0]["value"] for n in range(5)]
    assert values == [None] * 5


def test_a_reset_model_knows_nothing_and_the_log_stays(own: Personalizer) -> None:
    before = own.call("GET", "/v1.0/model/properties")
    assert set(before) == {"creationTime", "lastModifiedTime"}
    configured(own, rewardWaitTime="PT5S")
    for number in range(5):
        own.rank(eventId=f"r{number}", actions=ACTIONS[:1])
        own.reward(f"r{number}", 1)

    def learned() -> bool:
        return all(own.decision(f"r{n}")["chosen"][0]["value"] == 1.0 for n in range(5))

    poll(learned, "the rewards are learned")
    own.call("DELETE", "/v1.0/model", None, 204)
    assert all(own.decision(f"r{n}")["chosen"][0]["void"] for n in range(5))
    answer = own.rank()
    chances = Counter({each["id"]: each["probability"] for each in answer["ranking"]})
    assert max(chances.values()) < 0.9
    after = own.call("GET", "/v1.0/model/properties")
    assert after["lastModifiedTime"] >= before["lastModifiedTime"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT10M", 600), ("P1D", 86400), ("P2DT3H4M5.5S", 183845.5), ("P1W", 604800), ("PT0S", 0),
     ("00:10:00", 600), ("1.00:00:01", 86401), ("PT90S", 90)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    assert seconds_of(duration_of(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "10M", "PT-1S", "PTS", "1:2", "PT1S" * 40, "p1d"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds_of(text)
