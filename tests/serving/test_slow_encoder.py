"""Slow encoders on a real server: they answer and learn exactly as their quick twins do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fixtures.matrices import slow
from tests.fixtures.waiting import poll

HERE = Path(__file__).parent
CONFIG = """
log_level = "warning"
encode_batch = 4

[encoders]
slow = "own_slow_encoder:Slow"
twin = "own_slow_encoder:Twin"
"""
LOCKSTEP = {"mode": "lockstep", "optimizer_steps": 15, "train_every": 20}
SPECS: dict[str, dict[str, Any]] = {
    "shared": {},
    "per_action": {"encoder": {"name": "twin", "params": {"heads": "per_action"}}},
    "greedy": {"policy": "greedy"},
    "greedy_per_action": {
        "policy": "greedy",
        "encoder": {"name": "twin", "params": {"heads": "per_action"}},
    },
    "squarecb": {"selection": {"method": "squarecb", "gamma": 2.0}},
    "forgetful": {"forgetting": {"half_life": 32}, "selection": {"action_chunk": 2}},
}


class Control:
    """Watches and steers the encoders of one bandit; see own_slow_encoder.py."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path

    def calls(self) -> list[int]:
        calls = self.path / "calls"
        return [int(line) for line in calls.read_text().split()] if calls.exists() else []

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Have the encoders compute for as long as this lasts."""
        (self.path / "closed").touch()
        try:
            yield
        finally:
            (self.path / "closed").unlink()


def arguments(root: Path, kind: str = "slow") -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the command line and environment of a server that knows the encoders."""
    config = root / "bandexa.toml"
    config.write_text(CONFIG)
    return ("--config", str(config)), {"env": {"PYTHONPATH": str(HERE), "TWIN": kind}}


@pytest.fixture(scope="module")
def slow_api(tmp_path_factory, start_module_server, api_of) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("slow")
    options, more = arguments(root)
    with start_module_server(root / "data", *options, **more).client() as client:
        yield api_of(client)


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "control")


@pytest.fixture
def slow_bandit(slow_api, control: Control) -> str:
    encoder = {"name": "slow", "params": {"control": str(control.path)}}
    name: str = create(slow_api, None, encoder=encoder)
    return name


def create(api: Any, name: str | None, **more: Any) -> str:
    spec = {
        "policy": "neural_linear_ts", "context": {"shape": [3]}, "action_dim": 2,
        "encoder": {"name": "twin"}, "training": LOCKSTEP, "seed": 3, "reward_range": [0, 1],
        "posterior": {"prior_mean": 0.5},
    } | more  # fmt: skip
    ids, features = list("wxyz"), [[1, 0], [0, 1], [1, 1], [0.5, -1]]
    created: str = api.bandit(ids, features, name=name, **spec)
    return created


# -- the same as without a thread -------------------------------------------------------------


@pytest.fixture(scope="module")
def twins(tmp_path_factory, start_module_server, api_of) -> Iterator[tuple[Any, Any]]:
    """Two servers with the same bandits, uids and weights: one treats the encoder as slow."""
    root = tmp_path_factory.mktemp("twins")
    options, more = arguments(root)
    first = start_module_server(root / "first", *options, **more)
    with first.client() as client:
        for name, spec in SPECS.items():
            create(api_of(client), name, **spec)
    assert first.stop() == 0
    shutil.copytree(root / "first", root / "second")
    quick_options, quick = arguments(root, kind="quick")
    with (
        start_module_server(root / "first", *options, **more).client() as one,
        start_module_server(root / "second", *quick_options, **quick).client() as other,
    ):
        yield api_of(one), api_of(other)


def requests_of(name: str) -> Iterator[dict[str, Any]]:
    """Yield selects of every kind the bandit knows."""
    rng = np.random.default_rng(5)
    inline = [{"id": f"i{n}", "features": rng.normal(size=2).tolist()} for n in range(5)]
    kinds: list[dict[str, Any]] = [
        {}, {"k": 3}, {"candidates": ["z", "w"]}, {"retrieve": 2}, {"k": 2, "retrieve": 3},
    ]  # fmt: skip
    if not name.endswith("per_action"):
        kinds += [{"candidates": inline}, {"candidates": inline, "k": 2, "retrieve": 4}]
    for number in range(21):
        yield {"context": rng.normal(size=3).tolist()} | kinds[number % len(kinds)]


def play(api: Any, name: str, run: int) -> list[Any]:
    """Select, reward and correct the catalogue; returns the answers."""
    answers: list[Any] = []
    for number, request in enumerate(requests_of(name)):
        own = f"{name}-{run}-{number}"
        answer = api.select(name, **request, decision_id=own)
        answers.append(answer)
        for place, action in enumerate(answer["actions"] or [answer["action"]]):
            named = {"action": action["id"]} if answer["actions"] else {}
            api.reward(own, ((number * 7 + place) % 11) / 11, **named)
        if number == 10:
            api.call("PUT", f"/bandits/{name}/actions", {"ids": ["w"], "features": [[run, 1]]})
    return answers


def table(api: Any, name: str) -> list[float]:
    rows = [api.scores(name, context)["scores"] for context in ([1, 0, 0], [0.5, -1, 2])]
    return [row[key] for scores in rows for row in scores for key in ("mean", "std")]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "name", ["shared", "greedy_per_action", "squarecb", "forgetful", *slow("per_action", "greedy")]
)
def test_it_answers_and_learns_what_its_quick_twin_does(twins, name: str) -> None:
    for run in range(2):  # before and behind a training round
        ours, theirs = (play(api, name, run) for api in twins)
        for one, other in zip(ours, theirs, strict=True):
            for answer in (one, other):
                answer["score"] = pytest.approx(answer["score"], abs=1e-9)
            assert one | {"score": 0} == other | {"score": 0}
            assert one["score"].expected == other["score"]
        states = [api.state(name) for api in twins]
        for state in states:
            del state["learning"]["loss_shown_after_s"]  # by how fast selects came
        assert states[0] == states[1]
        tables = [table(api, name) for api in twins]
        assert tables[0] == pytest.approx(tables[1], abs=1e-9)
        if run == 0:
            trained = [api.train(name) for api in twins]
            assert [answer["snapshot"] for answer in trained] == [1, 1]
            after = [table(api, name) for api in twins]
            assert after[0] == pytest.approx(after[1], abs=1e-9)
            assert after[0] != tables[0]


def test_per_action_heads_refuse_actions_of_no_catalogue(twins, problem) -> None:
    body = {"bandit": "per_action", "context": [1, 1, 1]}
    candidates = [{"id": "new", "features": [1, 2]}]
    for api in twins:
        response = api.http.post("/select", json=body | {"candidates": candidates})
        problem(response, 422, "invalid-request", "candidates")


def test_a_restart_gives_the_same_scores(tmp_path: Path, start_server, api_of) -> None:
    options, more = arguments(tmp_path)
    server = start_server(tmp_path / "data", *options, **more)
    expected: dict[str, list[float]] = {}
    with server.client() as client:
        api = api_of(client)
        for name in ("shared", "per_action"):
            create(api, name, **SPECS[name])
            play(api, name, 0)
            api.train(name)
            play(api, name, 1)
            expected[name] = table(api, name)
    assert server.kill() != 0
    with start_server(tmp_path / "data", *options, **more).client() as client:
        api = api_of(client)
        for name, scores in expected.items():
            assert table(api, name) == pytest.approx(scores, abs=1e-9)
            assert api.state(name)["snapshot"] == 1


# -- off the event loop -----------------------------------------------------------------------


def test_selects_that_come_together_are_encoded_together(slow_api, slow_bandit, control) -> None:
    def select(number: int) -> int:
        body = {"bandit": slow_bandit, "context": [number, 1, 1]}
        code: int = slow_api.http.post("/select", json=body).status_code
        return code

    with ThreadPoolExecutor(12) as pool:
        with control.busy():
            answers = [pool.submit(select, number) for number in range(12)]
            poll(control.calls, "a call of the encoder")
        assert [answer.result() for answer in answers] == [200] * 12
    calls = control.calls()
    assert sum(calls) == 12
    assert max(calls) <= 4

    items = [{"bandit": slow_bandit, "context": [number / 40, 0, 0]} for number in range(40)]
    answer = slow_api.call("POST", "/select/batch", {"items": items})
    assert [item["code"] for item in answer["items"]] == [200] * 40
    batches = control.calls()[len(calls) :]
    assert sum(batches) == 40
    assert max(batches) == 4
    assert len(batches) < 20


def test_others_are_answered_while_a_context_is_encoded(slow_api, slow_bandit, control) -> None:
    small = slow_api.two_actions()
    with ThreadPoolExecutor(1) as pool:
        with control.busy():
            waiting = pool.submit(slow_api.select, slow_bandit, [1, 2, 3])
            poll(control.calls, "a call of the encoder")
            for number in range(5):
                assert slow_api.http.get("/healthz").status_code == 200
                slow_api.teach(small, [number, 1], "x", 0.5)
            assert not waiting.done()
        assert waiting.result()["action"]["id"] in "wxyz"


def test_others_are_answered_while_rewards_wait_for_the_encoder(
    slow_api, slow_bandit, control
) -> None:
    small = slow_api.two_actions()
    own = [slow_api.select(slow_bandit, [n, 2, 3])["decision_id"] for n in range(6)]
    num_calls = len(control.calls())
    with ThreadPoolExecutor(6) as pool:
        with control.busy():
            waiting = [pool.submit(slow_api.reward, decision_id, 0.5) for decision_id in own]
            poll(lambda: len(control.calls()) > num_calls, "another call of the encoder")
            for number in range(5):
                assert slow_api.http.get("/healthz").status_code == 200
                slow_api.teach(small, [number, 1], "x", 0.5)
            assert slow_api.state(slow_bandit)["num_learned"] == 0
            assert not any(reward.done() for reward in waiting)
        assert {reward.result()["status"] for reward in waiting} == {"applied"}
    assert slow_api.state(slow_bandit)["num_learned"] == 6


# -- learning under load ----------------------------------------------------------------------


def test_rewards_that_come_together_are_learned_exactly_once(slow_api, slow_bandit) -> None:
    """A second bandit learns the same rows one by one; sums do not depend on their order."""
    spec = slow_api.state(slow_bandit)["spec"]
    other = create(slow_api, None, encoder=spec["encoder"])
    data = slow_api.http.get(f"/bandits/{slow_bandit}/snapshot").content
    contexts = np.random.default_rng(8).normal(size=(60, 3)).tolist()
    own = []
    for number, context in enumerate(contexts):
        chosen = slow_api.select(slow_bandit, context, candidates=["wxyz"[number % 4]])
        own.append(chosen["decision_id"])

    def reward(number: int) -> str:
        status: str = slow_api.reward(own[number % 60], number % 60 / 60)["status"]
        return status

    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(reward, range(120)))
    assert sorted(statuses) == ["applied"] * 60 + ["duplicate"] * 60
    assert slow_api.state(slow_bandit)["num_learned"] == 60
    # The uids differ, so the initial weights do; import the first's, then reward one by one.
    response = slow_api.http.put(f"/bandits/{other}/snapshot", content=data)
    assert response.status_code == 200, response.text
    for number, context in enumerate(contexts):
        slow_api.teach(other, context, "wxyz"[number % 4], number / 60)
    expected = table(slow_api, other)
    assert table(slow_api, slow_bandit) == pytest.approx(expected, abs=1e-8)


def test_rounds_are_swapped_in_under_selects_and_rewards(slow_api) -> None:
    name = create(
        slow_api, None, encoder={"name": "slow"}, training={"optimizer_steps": 10}
    )  # in the background, on the service's own schedule
    rng = np.random.default_rng(9)
    contexts = rng.normal(size=(6, 60, 3)).tolist()
    stop = False

    def client(number: int) -> int:
        learned = 0
        while not stop:
            context = contexts[number][learned % 60]
            chosen = slow_api.select(name, context)
            slow_api.reward(chosen["decision_id"], abs(context[0]) % 1)
            learned += 1
        return learned

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        try:
            poll(lambda: slow_api.state(name)["num_learned"] >= 50, "50 rewards")
            for _ in range(2):
                before = slow_api.state(name)["snapshot"]
                assert slow_api.train(name)["snapshot"] > before
        finally:
            stop = True
        learned = sum(each.result() for each in clients)
    state = slow_api.state(name)
    assert state["num_learned"] == learned
    assert state["position"] == learned + 1
