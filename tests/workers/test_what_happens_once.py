"""What must happen once happens once: rounds and windows, by a keeper that may be killed."""

from __future__ import annotations

from tests.fixtures.api import Api
from tests.fixtures.waiting import poll
from tests.workers.crew import KEEPER, crew_of, killed


def test_rewards_at_workers_lead_to_rounds(crew) -> None:
    one, two = crew.both
    name = one.two_actions(training={"mode": "background", "train_every": 20})
    for number in range(20):  # the last one makes it due
        (one, two)[number % 2].teach(name, [number / 40, 1.0], "xy"[number % 2], number % 2)
    poll(
        lambda: min(api.scores(name, [0.5, 1.0])["snapshot"] for api in crew.both) > 0,
        "a round at each worker",
    )


def decides(api: Api, name: str) -> bool:
    body = {"bandit": name, "context": [0.5, 1.0]}
    return api.http.post("/select", json=body).status_code == 200


def test_each_window_closes_once_whenever_the_keeper_is_killed(start_server, api_of) -> None:
    server = start_server(None, "--workers", 2, env={"BANDEXA_KEEP_ALIVE_S": "3600"})
    with crew_of(server, 2, api_of) as crew:
        one, two = crew.both
        name = one.two_actions(rewards={"reward_window_s": 1.0, "default_reward": 0.0})
        for _ in range(2):
            for number in range(20):
                chosen = (one, two)[number % 2].select(name, [number / 20, 1.0])
                if number % 4 == 0:
                    (two, one)[number % 2].reward(chosen["decision_id"], 1.0)
            killed(crew.pids()[KEEPER])
            poll(lambda: all(decides(api, name) for api in crew.both), "the keeper")

        page = f"/dashboard/bandits/{name}/decisions?limit=200"

        def every_one_is_learned() -> bool:
            answers = [one.http.get(path) for path in (f"/bandits/{name}", page)]
            if [answer.status_code for answer in answers] != [200, 200]:
                return False
            state, listed = (answer.json() for answer in answers)
            return bool(state["num_learned"] == len(listed["decisions"]) >= 42)

        poll(every_one_is_learned, "every window closes once")
