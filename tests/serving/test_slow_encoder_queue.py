"""Selects that wait for a slow encoder: bounded, batched, swapped over, failing, and given up.

The server runs in the test's process, with an encoder that goes on computing until the test lets it
end: so the test knows what waits at each moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.policies import EncodedContext
from service.http.app import create_app
from service.serving.engine import Engine
from service.serving.select.batcher import DecisionBatcher
from service.serving.select.commands import SelectCommand
from service.serving.select.decide import Pending
from service.settings import Settings
from service.store.records import DecisionRecord
from tests.fixtures.waiting import until

MALFORMED, BROKEN, SHORT = 13.0, 17.0, 19.0  # see own_slow_encoder.py
ACTIONS = {"ids": ["x", "y", "z"], "features": [[1, 0], [0, 1], [1, 1]]}


class Scene:
    """A server in this process with a bandit "b" of a slow encoder that can be held up."""

    def __init__(self, client: httpx.AsyncClient, control: Path, engine: Engine) -> None:
        self.client = client
        self.engine = engine
        self.control = control
        self.left: list[asyncio.Task[httpx.Response]] = []  # answered after the shutdown

    async def bandit(self, name: str, seed: int = 1, **more: Any) -> None:
        params = {"control": str(self.control)}
        spec = {
            "policy": "neural_linear_ts", "context": {"shape": [2]}, "action_dim": 2,
            "encoder": {"name": "slow", "params": params}, "seed": seed,
        } | more  # fmt: skip
        assert (await self.client.put(f"/bandits/{name}", json=spec)).status_code == 201
        answer = await self.client.put(f"/bandits/{name}/actions", json=ACTIONS)
        assert answer.status_code == 200

    def select(
        self, context: list[float], own_id: str | None = None, name: str = "b", **more: Any
    ) -> asyncio.Task[httpx.Response]:
        body = {"bandit": name, "context": context} | more
        if own_id is not None:
            body["decision_id"] = own_id
        return asyncio.create_task(self.client.post("/select", json=body))

    def calls(self) -> list[int]:
        """Return how many contexts each call of the encoder has had."""
        path = self.control / "calls"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @contextmanager
    def held(self) -> Iterator[None]:
        (self.control / "closed").touch()
        try:
            yield
        finally:
            (self.control / "closed").unlink()

    async def until_encoding(self, num: int = 1) -> None:
        await until(lambda: len(self.calls()) >= num, f"{num} calls of the encoder")

    async def is_stored(self, own_id: str) -> bool:
        answer = await self.client.post("/reward", json={"decision_id": own_id, "reward": 0.5})
        return answer.status_code == 200


async def several_steps() -> None:
    """Let requests that nothing blocks run as far as they can."""
    for _ in range(200):
        await asyncio.sleep(0)


Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Play a scene: `play(scene, **settings)`."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    control = tmp_path / "control"
    control.mkdir()

    def run(scene: Callable[[Scene], Coroutine[Any, Any, None]], **settings: Any) -> None:
        async def served() -> None:
            app = create_app(
                Settings(
                    data_dir=tmp_path / "data", durability="os", log_level="warning",
                    encoders={"slow": "own_slow_encoder:Slow"}, **settings,
                )
            )  # fmt: skip
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                async with app.router.lifespan_context(app):
                    found = Scene(client, control, app.state.engine)
                    await found.bandit("b")
                    await scene(found)
                assert set(await codes(found.left)) <= {200, 500, 503}

        asyncio.run(asyncio.wait_for(served(), 120))

    return run


async def codes(tasks: list[asyncio.Task[httpx.Response]]) -> list[int]:
    return [answer.status_code for answer in await asyncio.gather(*tasks)]


def test_a_full_queue_refuses_and_stores_nothing(play):
    async def scene(s: Scene) -> None:
        with s.held():
            first = s.select([1, 2], "first")
            await s.until_encoding()
            waiting = [s.select([1, number], f"waits-{number}") for number in range(3)]
            await several_steps()
            refused = await s.select([1, 2], "refused")
            assert refused.status_code == 503
            assert refused.json()["type"] == "urn:bandexa:unavailable"
            assert int(refused.headers["retry-after"]) >= 1
            score = await s.client.post("/bandits/b/score", json={"context": [1, 2]})
            assert (score.status_code, "retry-after" in score.headers) == (503, True)
            assert not await s.is_stored("refused")
        assert await codes([first, *waiting]) == [200] * 4
        assert s.calls() == [1, 1, 1, 1]
        again = await s.select([1, 2], "refused")
        assert again.status_code == 200
        assert await s.is_stored("refused")

    play(scene, encode_queue=3, encode_batch=1)


def test_a_decision_that_was_answered_is_repeated_though_the_queue_is_full(play):
    async def scene(s: Scene) -> None:
        answered = await s.select([1, 2], "answered")
        with s.held():
            others = [s.select([1, 2])]
            await s.until_encoding(2)
            others.append(s.select([1, 2]))
            await several_steps()
            assert (await s.select([1, 2])).status_code == 503
            assert (await s.select([1, 2], "answered")).json() == answered.json()
            assert (await s.select([2, 1], "answered")).status_code == 409
        assert await codes(others) == [200, 200]

    play(scene, encode_queue=1, encode_batch=1)


@pytest.mark.parametrize("num", [1, 3])
def test_reports_wait_for_a_select_that_is_being_encoded(play, num):
    async def scene(s: Scene) -> None:
        def report(path: str, **body: Any) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(s.client.post(path, json={"decision_id": "d", **body}))

        with s.held():
            selects = [s.select([1, 2], "d", activate=False) for _ in range(num)]
            await s.until_encoding()
            reports = [report("/reward", reward=0.5), report("/activate")]
            await several_steps()
            assert not any(each.done() for each in reports)
            assert not await s.is_stored("another")
        answers = [each.json() for each in await asyncio.gather(*selects)]
        assert all(answer == answers[0] for answer in answers)
        rewarded, activated = await asyncio.gather(*reports)
        assert (rewarded.status_code, rewarded.json()["status"]) == (200, "aggregated")
        assert (activated.status_code, activated.json()["status"]) == (200, "applied")
        assert (await s.client.get("/bandits/b")).json()["num_learned"] == 1

    play(scene)


def test_a_report_does_not_wait_for_selects_that_come_after_it(play):
    async def scene(s: Scene) -> None:
        with s.held():
            before = s.select([1, 2], "d")
            await s.until_encoding()
            reward = asyncio.create_task(s.is_stored("d"))
            await several_steps()
            after = s.select([1, 2], "d")
            await several_steps()
            assert not reward.done()
            before.cancel()
            assert await asyncio.wait_for(reward, 30) is False  # while `after` is being encoded
            assert not after.done()
        assert (await after).status_code == 200

    play(scene)


def test_a_reward_of_a_select_that_fails_or_is_given_up_is_of_an_unknown_decision(play):
    async def scene(s: Scene) -> None:
        with s.held():
            failing, leaving = s.select([MALFORMED, 0], "fails"), s.select([1, 2], "leaves")
            await s.until_encoding()
            rewards = [
                asyncio.create_task(s.is_stored("fails")),
                asyncio.create_task(s.is_stored("leaves")),
            ]
            await several_steps()
            leaving.cancel()
        assert (await failing).status_code == 422
        assert await asyncio.gather(*rewards) == [False, False]

    play(scene)


def test_what_would_be_refused_anyway_takes_no_place(play):
    async def scene(s: Scene) -> None:
        with s.held():
            first = s.select([1, 2])
            await s.until_encoding()
            wrong = [s.select([1, 2], candidates=["zz"]), s.select([1])]
            assert await codes(wrong) == [404, 422]
            second = s.select([1, 2])
            await several_steps()
        assert await codes([first, second]) == [200, 200]
        assert s.calls() == [1, 1]

    play(scene, encode_queue=1, encode_batch=1)


def test_contexts_that_wait_are_encoded_together_up_to_the_limit(play):
    async def scene(s: Scene) -> None:
        with s.held():
            first = s.select([0, 0])
            await s.until_encoding()
            waiting = [s.select([1, number]) for number in range(10)]
            await several_steps()
        assert await codes([first, *waiting]) == [200] * 11
        assert s.calls() == [1, 4, 4, 2]

    play(scene, encode_batch=4)


def test_bandits_of_different_encoders_share_the_queue_but_no_batch(play):
    async def scene(s: Scene) -> None:
        await s.bandit("c", seed=2, policy="greedy")
        await s.bandit("d", seed=3, policy="greedy", encoder={"name": "slow"})
        names = ["c", "d"] * 4
        with s.held():
            first = s.select([0, 0])
            await s.until_encoding()
            waiting = [s.select([1, n], name=name) for n, name in enumerate(names)]
            await several_steps()
        answers = await asyncio.gather(first, *waiting)
        assert s.calls() == [1, 4]
        for number, (name, answer) in enumerate(zip(names, answers[1:], strict=True)):
            body = {"context": [1, number]}
            scores = (await s.client.post(f"/bandits/{name}/score", json=body)).json()["scores"]
            best = max(row["mean"] for row in scores)
            assert answer.json()["score"] == pytest.approx(best, abs=1e-12)

    play(scene)


def test_a_batch_larger_than_the_queue_is_answered_whole(play):
    async def scene(s: Scene) -> None:
        items = [{"bandit": "b", "context": [number / 1000, 1]} for number in range(1000)]
        answer = await s.client.post("/select/batch", json={"items": items})
        assert [item["code"] for item in answer.json()["items"]] == [200] * 1000
        assert sum(s.calls()) == 1000

    play(scene, encode_queue=20, encode_wait_ms=0.0)


def test_batches_wait_within_bounds_and_leave_room_for_single_selects(play):
    async def scene(s: Scene) -> None:
        item = {"bandit": "b", "context": [1, 1]}
        with s.held():
            long = asyncio.create_task(
                s.client.post("/select/batch", json={"items": [item] * 1000})
            )
            await s.until_encoding()
            await several_steps()  # its items begin a few at a time
            more = await s.client.post("/select/batch", json={"items": [item, item]})
            assert [found["code"] for found in more.json()["items"]] == [503, 503]
            single = s.select([1, 1])
            await several_steps()
            assert not single.done()
        assert (await single).status_code == 200
        assert not long.done()
        assert {found["code"] for found in (await long).json()["items"]} == {200}

    play(scene, encode_queue=8, encode_batch=4)


def test_an_import_while_a_context_is_encoded_is_drawn_from(play):
    """A context part of the earlier encoder would not suit the imported posterior."""

    async def scene(s: Scene) -> None:
        zero = {"prior_mean": 0.0}  # all rewards are equal: a learned mean would make all tie
        await s.bandit("b2", seed=2, policy="greedy", posterior=zero)
        await s.bandit("other", seed=3, policy="greedy", posterior=zero)
        for number in range(6):
            chosen = (await s.select([number, 1], f"o-{number}", name="other")).json()
            assert await s.is_stored(chosen["decision_id"])
        data = (await s.client.get("/bandits/other/snapshot")).content
        num_calls = len(s.calls())
        with s.held():
            waiting = s.select([1, 2], name="b2")
            await s.until_encoding(num_calls + 1)
            answer = await s.client.put("/bandits/b2/snapshot", content=data)
            assert answer.status_code == 200, answer.text
        found = (await waiting).json()
        assert found["snapshot"] == answer.json()["snapshot"]
        scores = await s.client.post("/bandits/other/score", json={"context": [1, 2]})
        best = max(scores.json()["scores"], key=lambda row: row["mean"])
        assert found["action"]["id"] == best["id"]
        assert found["score"] == pytest.approx(best["mean"], abs=1e-12)

    play(scene)


@pytest.mark.parametrize(("first", "code"), [(MALFORMED, 422), (BROKEN, 500), (SHORT, 500)])
def test_a_context_the_encoder_fails_on_fails_alone(play, first: float, code: int):
    async def scene(s: Scene) -> None:
        with s.held():
            others = [s.select([0, 0])]
            await s.until_encoding()
            others += [s.select([1, number], f"good-{number}") for number in range(3)]
            bad = s.select([first, 1], "bad")
            others += [s.select([2, number]) for number in range(3)]
            await several_steps()
        assert await codes(others) == [200] * 7
        answer = await bad
        assert answer.status_code == code
        if code == 422:
            assert answer.json()["errors"][0]["field"] == "context"
        score = await s.client.post("/bandits/b/score", json={"context": [first, 1]})
        assert score.status_code == code
        assert not await s.is_stored("bad")
        assert (await s.select([1, 1])).status_code == 200

    play(scene)


def test_a_caller_that_goes_away_leaves_the_others_alone(play):
    async def scene(s: Scene) -> None:
        with s.held():
            gone = [s.select([1, 1], "gone-0")]
            await s.until_encoding()
            tasks = [s.select([1, number], f"d-{number}") for number in range(6)]
            await several_steps()
            gone += tasks[::2]
            for task in gone:
                task.cancel()
            await several_steps()
        assert await codes(tasks[1::2]) == [200] * 3
        assert s.calls() == [1, 3]
        assert [await s.is_stored(f"d-{number}") for number in range(6)] == [False, True] * 3
        assert not await s.is_stored("gone-0")

    play(scene)


def test_selects_of_one_id_that_wait_together_share_an_answer(play):
    async def scene(s: Scene) -> None:
        with s.held():
            same = [s.select([1, 2], "same") for _ in range(5)]
            await s.until_encoding()
            same += [s.select([1, 2], "same") for _ in range(5)]
            other = s.select([2, 1], "same")
            await several_steps()
        answers = [answer.json() for answer in await asyncio.gather(*same)]
        assert answers == [answers[0]] * 10
        assert (await other).status_code == 409

    play(scene)


def test_a_bandit_deleted_while_a_context_is_encoded_stores_no_decision(play):
    async def scene(s: Scene) -> None:
        with s.held():
            waiting = s.select([1, 2], "late")
            await s.until_encoding()
            assert (await s.client.delete("/bandits/b")).status_code == 204
            await s.bandit("b", seed=7)
        assert (await waiting).status_code == 409
        assert not await s.is_stored("late")
        assert (await s.select([1, 2], "late")).status_code == 200

    play(scene)


def test_a_server_that_ends_leaves_no_select_hanging(play):
    async def scene(s: Scene) -> None:
        with s.held():
            s.left.append(s.select([1, 2]))
            await s.until_encoding()
            s.left.extend(s.select([1, number]) for number in range(3))
            await several_steps()

    play(scene, encode_batch=1)


def test_only_a_split_module_may_be_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = "from bandexa_core.encoders import EncoderModule as M\nclass A(M):\n    slow = True\n"
    (tmp_path / "whole_and_slow.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"^encoders.mine: .* SplitModule"):
        EncoderRegistry({"mine": "whole_and_slow:A"})


def test_what_was_encoded_is_drawn_before_the_model_can_change(play, monkeypatch):
    """A swap in the next iteration would meet the part of another encoder."""

    async def scene(s: Scene) -> None:
        bandit = s.engine.bandit("b")
        encoder = bandit.model.slow_encoder
        assert encoder is not None
        context = np.array([1.0, 2.0], np.float32)
        part = EncodedContext(encoder.context_parts(context[None])[0])
        command = SelectCommand("b", context, None, None, None, 1, True, None)
        stored: list[DecisionRecord] = []
        monkeypatch.setattr(
            s.engine.store,
            "append_decisions",
            lambda records, done, *, more: stored.extend(records),
        )
        batcher = DecisionBatcher(s.engine.loop, s.engine.store, s.engine.store.ids, 0)
        deciding = asyncio.create_task(batcher.decide(Pending(bandit, command, context, part)))
        await asyncio.sleep(0)
        assert len(stored) == 1
        deciding.cancel()

    play(scene)
