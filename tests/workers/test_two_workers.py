"""Two workers are one server: what one receives, both know, and once."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fixtures.api import Api
from tests.fixtures.waiting import poll

MLP = {"name": "mlp", "params": {"feature_dim": 4, "hidden": [8]}}


def at_equal_positions(crew, name: str, context: Any) -> list[dict[str, Any]]:
    """Return the scores of both workers, once they are at one position, with one snapshot."""

    def equal() -> list[dict[str, Any]] | None:
        found = [api.scores(name, context) for api in crew.both]
        places = [(each["snapshot"], each["position"]) for each in found]
        return found if places[0] == places[1] else None

    return poll(equal, "both workers at one log position, with one snapshot")


def test_decided_at_one_and_rewarded_at_the_other(crew) -> None:
    one, two = crew.both
    name = one.two_actions()
    for number in range(30):
        decider, rewarder = (one, two) if number % 2 else (two, one)
        chosen = decider.select(name, [number / 30, 1.0])
        answer = rewarder.reward(chosen["decision_id"], number % 2)
        assert answer["status"] == "applied"
    first, second = at_equal_positions(crew, name, [0.5, 1.0])
    assert first == second  # to the last bit
    assert first["position"] == 31


def test_shadows_that_a_worker_decides_serve_nothing_and_are_in_log_and_explanation(crew) -> None:
    """One by one and as a batch, whose decisions are drawn together; all at both workers."""
    arms = [
        {"name": "control", "share": 0.5, "action": "x"},
        {"name": "dark", "share": 0.0, "action": "y", "shadow": True},
        {"name": "flat", "share": 0.0, "policy": "uniform", "shadow": True},
    ]
    name = crew.apis[1].two_actions(policy="uniform", arms=arms)
    made = []
    for number in range(40):
        decider, items = crew.both[number % 2], [{"bandit": name, "context": [1, 0]}] * 3
        if number < 20:
            made.append(decider.select(name, [1, 0]))
            continue
        answers = decider.call("POST", "/select/batch", {"items": items})["items"]
        made += [item["answer"] for item in answers]
    assert {each["arm"] for each in made} == {"control", "bandit"}
    for each in made:  # the mixture of a half and of a uniform choice, as without shadows
        assert each["propensity"] == {"x": 0.75, "y": 0.25}[each["action"]["id"]]
    shadows = {}
    for number, each in enumerate(made):
        reader = crew.both[number // 2 % 2]
        kept = reader.call("GET", f"/bandits/{name}/decisions/{each['decision_id']}")
        assert kept["reproduced"] == {"action": True, "score": True, "propensity": True}
        assert kept["shadows"]["dark"] == "y"
        shadows[each["decision_id"]] = kept["shadows"]
    assert {each["flat"] for each in shadows.values()} == {"x", "y"}
    for api in crew.both:
        rows = [json.loads(line) for line in api.http.get(f"/bandits/{name}/log").text.splitlines()]
        found = {r["decision_id"]: r["shadows"] for r in rows if r["kind"] == "decision"}
        assert found == shadows


def test_a_change_is_seen_at_both_as_soon_as_it_is_answered(crew) -> None:
    one, two = crew.both
    for number in range(8):
        name = one.bandit(action_dim=0)
        two.call("PUT", f"/bandits/{name}/actions", {"ids": ["x"]})
        assert one.select(name, [1.0, 1.0])["action"]["id"] == "x"
        two.call("PUT", f"/bandits/{name}/actions", {"ids": [f"y{number}"]})
        one.select(name, [1.0, 1.0], candidates=[f"y{number}"])
        one.call("DELETE", f"/bandits/{name}", expect=204)
        two.select(name, [1.0, 1.0], 404)


def test_one_id_at_both_at_once_is_one_decision(crew) -> None:
    one, _ = crew.both
    name = one.two_actions()
    with ThreadPoolExecutor(2) as threads:
        for _ in range(50):
            own, start = one.fresh("twice"), threading.Barrier(2)

            def select(api: Api, own: str, start: threading.Barrier) -> dict[str, Any]:
                start.wait()
                return api.select(name, [0.5, 1.0], decision_id=own)

            first, second = threads.map(select, crew.both, [own] * 2, [start] * 2)
            assert first == second
    assert len(one.call("GET", f"/dashboard/bandits/{name}/decisions?limit=100")["decisions"]) == 50


def test_a_reward_that_is_faster_than_its_decision_waits_for_it(crew) -> None:
    one, two = crew.both
    name = one.two_actions()
    with ThreadPoolExecutor(1) as thread:
        for _ in range(10):
            own = one.fresh("early")
            early = thread.submit(two.reward, own, 1.0)
            one.select(name, [0.5, 1.0], decision_id=own)
            assert early.result()["status"] == "applied"
    two.reward(one.fresh("never"), 1.0, 404)


def test_a_reward_counts_once_at_whichever_worker_it_is_repeated(crew) -> None:
    one, two = crew.both
    name = one.two_actions(rewards={"aggregate": "sum"}, reward_range=[0, 10])
    own = one.fresh("summed")
    one.select(name, [0.5, 1.0], decision_id=own)
    for number in range(6):
        for api in (one, two, one):
            api.reward(own, 1.0, reward_id=f"r{number}")
    found = two.call("GET", f"/bandits/{name}/decisions/{own}")["chosen"][0]
    assert [line["reward"] for line in found["rewards"]] == [1.0] * 6
    first, second = at_equal_positions(crew, name, [0.5, 1.0])
    assert first == second
    assert [one.reward(own, 1.0, reward_id="r1")["status"] for _ in range(2)] == ["duplicate"] * 2


def test_an_administrator_voids_what_a_worker_has_just_stored(crew) -> None:
    one, two = crew.both
    name = one.two_actions()
    for _ in range(5):
        own = one.fresh("void")
        one.select(name, [0.5, 1.0], decision_id=own)
        two.reward(own, 1.0)
        done = one.call("POST", f"/bandits/{name}/rewards/void", {"decision_ids": [own]})
        assert done["values"] == 1
        assert two.reward(own, 1.0)["status"] == "void"


def test_a_round_is_served_at_both_when_it_is_answered(crew) -> None:
    one, two = crew.both
    name = one.two_actions(training={"mode": "lockstep"})
    for number in range(40):
        (one, two)[number % 2].teach(name, [number / 40, 1.0], "x", number % 2)
    version = two.train(name)["snapshot"]
    assert [api.select(name, [0.5, 1.0])["snapshot"] for api in crew.both] == [version] * 2
    first, second = at_equal_positions(crew, name, [0.5, 1.0])
    assert first == second


def test_another_configuration_is_relearned_and_served_at_both(crew) -> None:
    one, two = crew.both
    name = one.two_actions(training={"mode": "lockstep"})
    for number in range(40):
        (one, two)[number % 2].teach(name, [number / 40, 1.0], "xy"[number % 2], number % 2)
    spec = one.state(name)["spec"]
    wanted = spec | {"policy": "neural_linear_ts", "encoder": MLP}
    two.call("PUT", f"/bandits/{name}", wanted)
    poll(lambda: one.state(name)["spec"]["policy"] == "neural_linear_ts", "the switch")

    def switched() -> bool:
        found = [api.scores(name, [0.5, 1.0]) for api in crew.both]
        return bool(found[0] == found[1] and found[0]["snapshot"] > 0)

    poll(switched, "the switch at both workers")
    one.teach(name, [0.25, 1.0], "x", 1.0)
    first, second = at_equal_positions(crew, name, [0.5, 1.0])
    assert first == second


def test_an_imported_snapshot_is_served_at_both(crew) -> None:
    one, two = crew.both
    name = one.two_actions(training={"mode": "lockstep"})
    for number in range(20):
        one.teach(name, [number / 20, 1.0], "x", number % 2)
    exported = crew.clients[2].get(f"/bandits/{name}/snapshot")
    exported.raise_for_status()
    before = two.scores(name, [0.5, 1.0])
    for number in range(20):
        two.teach(name, [number / 20, 1.0], "y", number % 2)
    answer = crew.clients[1].put(f"/bandits/{name}/snapshot", content=exported.content)
    answer.raise_for_status()
    for api in crew.both:
        assert api.scores(name, [0.5, 1.0])["scores"] == before["scores"]


def test_states_and_metrics_are_those_of_both(crew) -> None:
    one, two = crew.both
    name = one.two_actions()
    for number in range(10):
        for api in crew.both:
            chosen = api.select(name, [number / 10, 1.0])
            api.reward(chosen["decision_id"], 1.0)

    def sample(kind: str) -> float:
        text = crew.clients[1].get("/metrics").text
        lines = [
            line for line in text.splitlines()
            if line.startswith(kind) and f'bandit="{name}"' in line
        ]  # fmt: skip
        return sum(float(line.split()[-1]) for line in lines)

    poll(lambda: sample("bandexa_selects_total") == 20.0, "the selects of both workers")
    poll(lambda: sample("bandexa_rewards_total") == 20.0, "the rewards of both workers")
    assert two.state(name)["learning"]["join_rate"] == 1.0
    text = crew.clients[2].get("/metrics").text
    for worker in ("keeper", "1", "2"):
        assert f'bandexa_requests_in_flight{{worker="{worker}"}}' in text


@pytest.mark.parametrize("path", ["/docs", "/", "/openapi.json", "/bandits", "/learnz"])
def test_what_is_not_decided_is_answered_at_both_as_by_one_process(crew, path) -> None:
    answers = [client.get(path) for client in crew.clients.values()]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert {answer.headers["content-type"] for answer in answers} == {
        answers[0].headers["content-type"]
    }


def test_bad_input_is_refused_by_the_same_words_at_both(crew) -> None:
    one, _ = crew.both
    name = one.two_actions()
    for body in ({}, {"bandit": name}, {"bandit": name, "context": [1.0]}):
        answers = [client.post("/select", json=body) for client in crew.clients.values()]
        assert [answer.status_code for answer in answers] == [422, 422]
        assert answers[0].json() == answers[1].json()
    answers = [client.put("/bandits/..", json={}) for client in crew.clients.values()]
    assert answers[0].status_code == answers[1].status_code
