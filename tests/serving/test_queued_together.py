"""What stands in the writer's queue at once: a reward right behind its select, and retries.

The server runs in the test's process, so that the order of calls to the engine is known: a task
runs up to its wait for the commit before the next one starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http.app import create_app
from service.serving.select.batcher import AT_ONCE
from service.settings import Settings
from tests.serving.own_slow_encoder import BROKEN, MALFORMED

SPEC = {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2, "seed": 1}
SELECT = {"bandit": "b", "context": [1, 2]}


def in_process(
    data_dir: Path, calls: Callable[[httpx.AsyncClient], Awaitable[Any]], **settings: Any
) -> Any:
    """Run `calls` against a new app; returns what they return."""

    async def run() -> Any:
        given = Settings(data_dir=data_dir, durability="os", log_level="warning", **settings)
        app = create_app(given)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            await client.put("/bandits/b", json=SPEC)
            actions = {"ids": ["x", "y"], "features": [[1, 0], [0, 1]]}
            await client.put("/bandits/b/actions", json=actions)
            return await calls(client)

    return asyncio.run(run())


def test_requests_that_overtake_the_commit_of_one_another(tmp_path: Path) -> None:
    async def calls(client: httpx.AsyncClient) -> None:
        await rewards_follow_their_selects(client)
        await an_early_reward_is_404(client)
        await retries_share_an_answer(client)
        await a_deletion_leaves_no_answer_hanging(client)

    in_process(tmp_path / "data", calls)


async def rewards_follow_their_selects(client: httpx.AsyncClient) -> None:
    """40 selects and their 40 rewards, none of which waits for any other."""
    requests = []
    for number in range(40):
        own = {"decision_id": f"queued-{number}"}
        requests.append(client.post("/select", json=SELECT | own))
        requests.append(client.post("/reward", json=own | {"reward": number / 40}))
    answers = await asyncio.gather(*requests)
    assert [answer.status_code for answer in answers] == [200] * 80
    assert {answer.json()["status"] for answer in answers[1::2]} == {"applied"}
    state = (await client.get("/bandits/b")).json()
    assert state["num_learned"] == 40
    assert state["position"] == 41


NEURAL = {
    "policy": "neural_linear_ts", "context": {"shape": [3]}, "action_dim": 3, "seed": 5,
    "encoder": {"name": "mlp", "params": {"feature_dim": 8, "hidden": [16]}},
    "training": {"mode": "lockstep"},
}  # fmt: skip


def test_selects_that_come_together_get_what_they_get_one_by_one(tmp_path: Path) -> None:
    """Some of them cannot be answered, and some are drawn separately."""

    async def sent(client: httpx.AsyncClient, *, at_once: bool) -> list[Any]:
        await client.put("/bandits/n", json=NEURAL)
        features = [[(n * 7 % 5) / 5, n / 9, 1.0] for n in range(9)]
        actions = {"ids": [f"a{n}" for n in range(9)], "features": features}
        await client.put("/bandits/n/actions", json=actions)
        bodies: list[dict[str, Any]] = []
        for number in range(40):
            more: dict[str, Any] = {}
            if number % 10 == 3:
                more = {"k": 2}
            elif number % 10 == 6:
                more = {"candidates": ["a1", "a5"]}
            elif number % 10 == 9:
                more = {"candidates": ["unknown"]}
            context = [number % 3 - 1.0, number / 40, 0.5]
            own = {"bandit": "n", "context": context, "decision_id": f"together-{number}"}
            bodies.append(own | more)
        calls = [client.post("/select", json=body) for body in bodies]
        answers = await asyncio.gather(*calls) if at_once else [await call for call in calls]
        for number in range(0, 40, 10):  # what was learned meanwhile moves what comes
            report: dict[str, Any] = {"decision_id": f"together-{number}", "reward": 0.5}
            assert (await client.post("/reward", json=report)).status_code == 200
        items = [body | {"decision_id": f"b-{body['decision_id']}"} for body in bodies]
        batch = await client.post("/select/batch", json={"items": items})
        codes = [item["code"] for item in batch.json()["items"]]
        assert codes == [answer.status_code for answer in answers]
        return [*(answer.json() for answer in answers), *batch.json()["items"]]

    together = in_process(tmp_path / "one", lambda client: sent(client, at_once=True))
    one_by_one = in_process(tmp_path / "two", lambda client: sent(client, at_once=False))
    assert together == one_by_one


def test_an_encoder_that_fails_on_one_select_leaves_those_beside_it_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    spec = {
        "policy": "neural_linear_ts", "context": {"shape": [2]}, "action_dim": 2, "seed": 1,
        "encoder": {"name": "quick", "params": {"control": str(tmp_path)}},
    }  # fmt: skip

    async def calls(client: httpx.AsyncClient) -> None:
        await client.put("/bandits/q", json=spec)
        actions = {"ids": ["x", "y"], "features": [[1, 0], [0, 1]]}
        assert (await client.put("/bandits/q/actions", json=actions)).status_code == 200
        first = [1.0, MALFORMED, 2.0, BROKEN, 3.0]
        sent = [client.post("/select", json={"bandit": "q", "context": [x, 0]}) for x in first]
        sent.append(client.post("/select", json=SELECT))
        answers = await asyncio.wait_for(asyncio.gather(*sent), 30)
        assert [answer.status_code for answer in answers] == [200, 422, 200, 500, 200, 200]

    in_process(tmp_path / "data", calls, encoders={"quick": "own_slow_encoder:Towers"})


def test_a_reward_waits_for_each_select_of_its_id_that_is_not_drawn_yet(tmp_path: Path) -> None:
    """Two of them, further apart than what is drawn at once; the first caller goes away."""

    async def calls(client: httpx.AsyncClient) -> None:
        own = {"decision_id": "twice"}
        post = client.post
        first = asyncio.create_task(post("/select", json=SELECT | own))
        others = [asyncio.create_task(post("/select", json=SELECT)) for _ in range(2 * AT_ONCE)]
        second = asyncio.create_task(post("/select", json=SELECT | own))
        reward = asyncio.create_task(post("/reward", json=own | {"reward": 1.0}))
        assert (await reward).status_code == 200
        for each in (first, second, *others):
            assert (await each).status_code == 200

    in_process(tmp_path / "data", calls)


async def an_early_reward_is_404(client: httpx.AsyncClient) -> None:
    own = {"decision_id": "early"}
    answers = await asyncio.gather(
        client.post("/reward", json=own | {"reward": 1.0}),
        client.post("/select", json=SELECT | own),
        client.post("/reward", json=own | {"reward": 1.0}),
    )
    assert [answer.status_code for answer in answers] == [404, 200, 200]


async def retries_share_an_answer(client: httpx.AsyncClient) -> None:
    own = {"decision_id": "shared"}
    same = [client.post("/select", json=SELECT | own) for _ in range(20)]
    other = client.post("/select", json=SELECT | own | {"context": [2, 1]})
    *answers, conflict = await asyncio.gather(*same, other)
    assert [answer.json() for answer in answers] == [answers[0].json()] * 20
    assert conflict.status_code == 409


async def a_deletion_leaves_no_answer_hanging(client: httpx.AsyncClient) -> None:
    requests = [client.post("/select", json=SELECT | {"decision_id": "last"})]
    requests += [client.post("/reward", json={"decision_id": "last", "reward": 1.0})]
    requests += [client.delete("/bandits/b")]
    requests += [client.post("/select", json=SELECT | {"decision_id": "late"})]
    requests += [client.post("/reward", json={"decision_id": "last", "reward": 1.0})]
    answers = await asyncio.wait_for(asyncio.gather(*requests), 30)
    assert [answers[n].status_code for n in (0, 2, 3)] == [200, 204, 404]
    for reward in (answers[1], answers[4]):  # it is committed before the deletion or not at all
        assert reward.status_code in (200, 404)
    assert (await client.get("/readyz")).status_code == 200
