"""Evaluations by a running server: beside it, one at a time, cancelled, and after a restart."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from bandexa_core.ids import BanditUid
from service.cli import app
from service.settings import Settings
from service.store.errors import Unavailable
from service.tools.evaluate.jobs import FOLDER, MAX_WAITING, Evaluations, Record
from service.tools.evaluate.request import Request
from tests.fixtures.waiting import poll

NUM = 300


@pytest.fixture(scope="module")
def shop(api) -> str:
    """A bandit that chose uniformly: action y earns .8, x .2."""
    name: str = api.two_actions(policy="uniform")
    rng = np.random.default_rng(0)
    contexts = [{"bandit": name, "context": [number / NUM, 1.0]} for number in range(NUM)]
    answers = api.call("POST", "/select/batch", {"items": contexts})["items"]
    rewards = []
    for item in answers:
        answer = item["answer"]
        chance = 0.8 if answer["action"]["id"] == "y" else 0.2
        reward = {"decision_id": answer["decision_id"], "reward": float(rng.random() < chance)}
        rewards.append(reward)
    api.call("POST", "/reward/batch", {"items": rewards})
    return name


def begin(api, name: str, **asked: Any) -> dict[str, Any]:
    """Start an evaluation."""
    started: dict[str, Any] = api.call("POST", f"/bandits/{name}/evaluations", asked, 202)
    return started


def test_it_is_that_of_the_command(api, server, shop: str, tmp_path: Path) -> None:
    config = {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2, "seed": 4}
    started = begin(api, shop, actions=["y"], configs={"linear": config}, alpha=0.1)
    assert started["state"] in ("queued", "running")
    assert started["result"] is None
    where = f"/bandits/{shop}/evaluations/{started['id']}"
    ended = api.call("GET", f"{where}?wait=true")
    assert (ended["state"], ended["error"]) == ("done", None)
    assert ended["request"]["actions"] == ["y"]
    file = tmp_path / "linear"
    file.write_text(json.dumps(config))
    command = [
        "evaluate", shop, "--url", server.url, "--action", "y", "--config", str(file), "--alpha",
        "0.1", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert ended["result"] == json.loads(result.stdout)
    (listed,) = api.call("GET", f"/bandits/{shop}/evaluations")["evaluations"]
    assert listed == ended | {"result": None}
    api.call("DELETE", where, expect=204)
    assert api.call("GET", f"/bandits/{shop}/evaluations")["evaluations"] == []
    api.call("GET", where, expect=404)


def test_of_sessions_with_one_draw_the_first_decision_counts(api) -> None:
    """Where each decision had its own draw, before the change, all of them count."""
    body: dict[str, Any] = {"policy": "uniform", "reward_range": [0, 1]}
    name = api.two_actions(**body)

    def decided(units: list[str | None]) -> None:
        for unit in units:
            made = api.select(name, [1.0, 0.0], **({} if unit is None else {"unit": unit}))
            api.reward(made["decision_id"], 1.0)

    decided(["early", "early"])
    api.call(
        "PUT",
        f"/bandits/{name}",
        api.call("GET", f"/bandits/{name}")["spec"] | {"sticky": "action"},
    )
    decided(["a", "b", "a", None, "early", "a", None])
    rows = [json.loads(line) for line in api.http.get(f"/bandits/{name}/log").content.splitlines()]
    marks = [row.get("first_of_unit") for row in rows if row["kind"] == "decision"]
    assert marks == [None, None, True, True, False, True, False, False, True]
    started = begin(api, name, actions=["y"])
    ended = api.call("GET", f"/bandits/{name}/evaluations/{started['id']}?wait=true")
    assert ended["result"]["skipped"] == {"not the first of its unit (sticky: action)": 3}
    assert [each["num"] for each in ended["result"]["policies"]] == [6, 6, 6]


def test_what_cannot_be_evaluated_says_why(api, problem, shop: str) -> None:
    other = {"policy": "linear_ts", "context": {"shape": [5]}}
    started = begin(api, shop, configs={"wide": other})
    ended = api.call("GET", f"/bandits/{shop}/evaluations/{started['id']}?wait=true")
    assert ended["state"] == "failed"
    assert "config:wide" in ended["error"]
    where = f"/bandits/{shop}/evaluations"
    for body, field in (
        ({"range": [1, 0]}, "range"),
        ({"alpha": 0.9}, "alpha"),
        ({"action": ["y"]}, "action"),
        ({"configs": {"a": {"policy": "best"}}}, "configs.a.policy"),
    ):
        problem(api.http.post(where, json=body), 422, "invalid-request", field)
    problem(api.http.get(f"{where}/none"), 404, "unknown-evaluation")


def test_one_runs_at_a_time_and_others_can_be_cancelled(api, shop: str) -> None:
    where = f"/bandits/{shop}/evaluations"
    config = {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2}
    slow = {"configs": {f"c{number}": config | {"seed": number} for number in range(20)}}
    first, second = (begin(api, shop, **slow)["id"] for _ in range(2))

    def state(evaluation: str) -> str:
        found: str = api.call("GET", f"{where}/{evaluation}")["state"]
        return found

    poll(lambda: state(first) == "running", "the first one runs")
    assert state(second) == "queued"
    for evaluation in (second, first):
        api.call("DELETE", f"{where}/{evaluation}", expect=204)
        assert state(evaluation) == "cancelled"
    last = begin(api, shop)
    ended = api.call("GET", f"{where}/{last['id']}?wait=true")
    assert ended["state"] == "done"


def test_what_a_server_left_is_interrupted(tmp_path: Path) -> None:
    """Files of deleted bandits are removed."""
    settings = Settings(data_dir=tmp_path)
    folder = tmp_path / FOLDER

    def write(uid: str, name: str, state: Any) -> None:
        record = Record(
            id=name, bandit="shop", uid=uid, state=state, requested_at=1.0, request=Request()
        )
        (folder / uid).mkdir(parents=True, exist_ok=True)
        (folder / uid / f"{name}.json").write_bytes(msgspec.json.encode(record))

    for name, state in (("a", "done"), ("b", "running"), ("c", "queued")):
        write("live", name, state)
    write("gone", "d", "done")
    (folder / "live" / "broken.json").write_text("{")

    async def states() -> list[tuple[str, str]]:
        async with Evaluations(settings, lambda: {"live"}).running() as evaluations:
            return [(each.id, each.state) for each in evaluations.of(BanditUid("live"))]

    for _ in range(2):
        assert asyncio.run(states()) == [("c", "interrupted"), ("b", "interrupted"), ("a", "done")]
    assert [each.name for each in folder.iterdir()] == ["live"]


def test_what_is_queued_when_the_server_ends_is_interrupted(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)

    async def ended() -> Record:
        async with Evaluations(settings, lambda: {"live"}).running() as evaluations:
            record = await evaluations.add("shop", BanditUid("live"), Request())
            waiting = asyncio.create_task(evaluations.ended(record))
        await waiting
        return record

    record = asyncio.run(ended())
    assert (record.state, record.error) == ("interrupted", "the server ended")
    stored = json.loads((tmp_path / FOLDER / "live" / f"{record.id}.json").read_text())
    assert stored["state"] == "interrupted"


def test_only_so_many_wait_and_cancelled_ones_do_not(tmp_path: Path) -> None:
    evaluations = Evaluations(Settings(data_dir=tmp_path), lambda: {"live"})  # it runs none

    async def add() -> Record:
        return await evaluations.add("shop", BanditUid("live"), Request())

    async def fill() -> list[Record]:
        added = [add() for _ in range(MAX_WAITING + 2)]
        found = await asyncio.gather(*added, return_exceptions=True)
        assert sum(isinstance(each, Unavailable) for each in found) == 2
        return [each for each in found if isinstance(each, Record)]

    async def fill_again() -> None:
        for record in await fill():
            await evaluations.cancel(record)
        await fill()

    asyncio.run(fill_again())
