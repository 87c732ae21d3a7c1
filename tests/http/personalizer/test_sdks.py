"""The SDKs that Personalizer's users have, against a real server: nothing but the endpoint differs.

Each also calls through a proxy that drops the answer to the first try of every request, so that
every call is made twice: each event counts once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from azure.ai.personalizer import PersonalizerAdministrationClient, PersonalizerClient
from azure.ai.personalizer.aio import PersonalizerAdministrationClient as AsyncAdministration
from azure.ai.personalizer.aio import PersonalizerClient as AsyncClient
from azure.cognitiveservices.personalizer import PersonalizerClient as FirstClient
from azure.cognitiveservices.personalizer.models import (
    ErrorResponseException,
    RankableAction,
    RankRequest,
    RewardRequest,
)
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from msrest.authentication import CognitiveServicesCredentials
from msrest.exceptions import ClientRequestError

from tests.http.personalizer.conftest import ACTIONS, CONTEXT
from tests.http.personalizer.lossy import Lossy

KEY = AzureKeyCredential("none is asked for on loopback")


@pytest.fixture
def closing(doorway) -> Iterator[Lossy]:
    with Lossy(doorway.url).running() as proxy:
        yield proxy


@pytest.fixture
def gateway(doorway) -> Iterator[Lossy]:
    with Lossy(doorway.url, 504).running() as proxy:
        yield proxy


def rewards(personalizer, event: str) -> list[tuple[float, str]]:
    (chosen,) = personalizer.decision(event)["chosen"]
    return [(each["reward"], each["status"]) for each in chosen["rewards"]]


def num_decisions(personalizer) -> int:
    return len(personalizer.http.get("/bandits/default/log").text.splitlines())


# -- azure-cognitiveservices-personalizer, v1.0 -------------------------------------------------


def first_client(url: str) -> Any:
    return FirstClient(f"{url}/", CognitiveServicesCredentials("none"))


def request_of(event: str, **more: Any) -> RankRequest:
    actions = [RankableAction(id=each["id"], features=each["features"]) for each in ACTIONS]
    return RankRequest(context_features=CONTEXT, actions=actions, event_id=event, **more)


def test_the_first_python_sdk(doorway, personalizer) -> None:
    with first_client(doorway.url) as client:
        event = personalizer.fresh()
        answer = client.rank(request_of(event, excluded_actions=["soup"], defer_activation=True))
        assert answer.event_id == event
        assert answer.ranking[0].id == "soup"
        assert answer.ranking[0].probability == 0.0
        assert answer.reward_action_id == answer.ranking[1].id
        client.events.reward(event_id=event, value=0.75)
        client.events.activate(event_id=event)
        assert rewards(personalizer, event) == [(0.75, "aggregated")]
        assert personalizer.decision(event)["activated"] is True
        with pytest.raises(ErrorResponseException) as refused:
            client.rank(RankRequest(actions=[RankableAction(id="a", features=[])]))
        error: Any = refused.value.error
        assert error.error.code == "InvalidRankRequest"


def test_the_first_python_sdk_through_a_proxy_that_drops_answers(closing, personalizer) -> None:
    """It sends no POST again by itself: its users do."""
    with first_client(closing.url) as client:
        event, reward = personalizer.fresh(), RewardRequest(value=1.0)
        for call in (
            lambda: client.rank(request_of(event)),
            lambda: client.events.reward(event_id=event, value=reward.value),
            lambda: client.events.activate(event_id=event),
        ):
            with pytest.raises((ClientRequestError, requests.ConnectionError)):
                call()
            call()
    assert set(closing.tries.values()) == {2}
    assert rewards(personalizer, event) == [(1.0, "pending")]


# -- azure-ai-personalizer, 2022-09-01-preview --------------------------------------------------


def newest_client(url: str, kind: Any = PersonalizerClient) -> Any:
    return kind(url, KEY, retry_backoff_factor=0)


def body_of(**more: Any) -> dict[str, Any]:
    return {"contextFeatures": CONTEXT, "actions": ACTIONS} | more


def test_the_newest_python_sdk(doorway, personalizer) -> None:
    with newest_client(f"{doorway.url}/") as client:
        event = "ev ent/ü?"
        answer = client.rank(body_of(eventId=event, deferActivation=True))
        assert answer["eventId"] == event
        assert sum(each["probability"] for each in answer["ranking"]) == pytest.approx(1.0)
        client.reward(event, {"value": 0.5})
        client.activate(event)
        with pytest.raises(HttpResponseError) as refused:
            client.rank(body_of(actions=[]))
        assert refused.value.status_code == 400
        assert refused.value.error is not None
        assert refused.value.error.code == "InvalidRankRequest"


def test_retries_of_the_newest_python_sdk_are_one_event(gateway, personalizer) -> None:
    before = num_decisions(personalizer)
    with newest_client(gateway.url) as client:
        answer = client.rank(body_of())  # the server makes the id of the event
        client.reward(answer["eventId"], {"value": 0.5})
        client.activate(answer["eventId"])
    assert set(gateway.tries.values()) == {2}
    assert num_decisions(personalizer) == before + 1
    assert rewards(personalizer, answer["eventId"]) == [(0.5, "pending")]


def test_retries_of_its_asynchronous_client_are_one_event(gateway, personalizer) -> None:
    before = num_decisions(personalizer)

    async def one() -> str:
        async with newest_client(gateway.url, AsyncClient) as client:
            answer = await client.rank(body_of(deferActivation=True))
            event: str = answer["eventId"]
            await client.reward(event, {"value": 0.25})
            await client.activate(event)
            return event

    event = asyncio.run(one())
    assert set(gateway.tries.values()) == {2}
    assert num_decisions(personalizer) == before + 1
    assert rewards(personalizer, event) == [(0.25, "aggregated")]


SLOTS = {
    "slots": [
        {"id": "top", "features": [{"size": "large"}], "baselineAction": "soup"},
        {"id": "side", "excludedActions": ["soup"], "baselineAction": "toast"},
    ]
}
SLOT_REWARDS = {"reward": [{"slotId": "top", "value": 1.0}, {"slotId": "side", "value": 0.5}]}


def slot_rewards(personalizer, event: str) -> list[list[tuple[float, str]]]:
    return [rewards_of(personalizer, f"ps:default:{event}:{number}") for number in range(2)]


def rewards_of(personalizer, name: str) -> list[tuple[float, str]]:
    found = personalizer.http.get(f"/bandits/default/decisions/{name}").json()
    return [(each["reward"], each["status"]) for each in found["chosen"][0]["rewards"]]


def test_slots_of_the_newest_python_sdk_are_one_event_through_a_gateway(
    gateway, personalizer
) -> None:
    before = num_decisions(personalizer)
    with newest_client(gateway.url) as client:
        answer = client.rank_multi_slot(body_of(**SLOTS, deferActivation=True))
        event = answer["eventId"]
        assert [each["id"] for each in answer["slots"]] == ["top", "side"]
        client.reward_multi_slot(event, SLOT_REWARDS)
        client.activate_multi_slot(event)
    assert set(gateway.tries.values()) == {2}
    assert num_decisions(personalizer) == before + 2
    assert slot_rewards(personalizer, event) == [[(1.0, "aggregated")], [(0.5, "aggregated")]]


def test_slots_of_its_asynchronous_client(doorway, personalizer) -> None:
    async def one() -> str:
        async with newest_client(doorway.url, AsyncClient) as client:
            answer = await client.rank_multi_slot(body_of(**SLOTS))
            event: str = answer["eventId"]
            await client.reward_multi_slot(event, SLOT_REWARDS)
            await client.activate_multi_slot(event)
            return event

    event = asyncio.run(one())
    assert slot_rewards(personalizer, event) == [[(1.0, "pending")], [(0.5, "pending")]]


def test_the_administration_of_the_newest_python_sdk(gateway, personalizer) -> None:
    personalizer.rank()
    with newest_client(gateway.url, PersonalizerAdministrationClient) as client:
        configuration = client.get_service_configuration()
        assert client.update_service_configuration(configuration) == configuration
        assert set(client.get_model_properties()) == {"creationTime", "lastModifiedTime"}
        for call in (client.get_policy, client.get_log_properties, client.delete_logs):
            with pytest.raises(HttpResponseError) as refused:
                call()
            assert refused.value.error is not None
            assert refused.value.error.code == "OperationNotAllowed"


def test_its_asynchronous_administration(doorway, personalizer) -> None:
    personalizer.rank()

    async def one() -> None:
        async with newest_client(doorway.url, AsyncAdministration) as client:
            configuration = await client.get_service_configuration()
            assert await client.update_service_configuration(configuration) == configuration

    asyncio.run(one())
