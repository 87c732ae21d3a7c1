"""Reports about one decision that arrive together, out of memory, beside another writer."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bandexa_core.ids import DecisionId
from bandexa_core.log import contract
from bandexa_core.log.contract import Reported
from bandexa_core.spec import RewardSpec
from service.serving import recent
from service.serving.commits import Committer
from service.serving.recent import RecentDecisions
from service.serving.steps import Steps
from service.store.errors import InvalidRequest, Unavailable, UnknownDecision
from service.store.protocol import Step
from service.store.records import BanditRecord, DecisionRecord, RewardReport
from service.store.sqlite.ledger import MAX_LISTED
from service.store.sqlite.store import SqliteStore
from tests.store.conftest import creating, make_decision, make_report, make_spec

NAME = DecisionId("d0")
MOST = 10_000


class Scene:
    """A store on a loop, with one bandit and one decision.

    Attributes:
        learned: The values of all committed steps, in order.
    """

    def __init__(self, store: SqliteStore, held: threading.Event) -> None:
        self.store = store
        self.held = held
        self.commit = Committer(asyncio.get_running_loop())
        self.recent = RecentDecisions()
        self.learned: list[float] = []
        self.steps = Steps(store, self.commit, self.recent, MOST, self._learn)

    def _learn(self, step: Step, rows: Any) -> None:
        self.learned += [row.after for row in rows]

    async def decide(self, aggregate: str, *, in_memory: bool = True) -> None:
        spec = make_spec(rewards=RewardSpec(aggregate=aggregate))  # type: ignore[arg-type]
        bandit: BanditRecord = await self.commit(creating(self.store), "b", spec)
        record: DecisionRecord = make_decision(bandit, NAME)
        assert await self.commit(self.store.append_decision, record) is None
        if in_memory:
            self.recent.made(record, bandit)

    async def reward(self, value: float, reward_id: str | None = None) -> str:
        report: RewardReport = dataclasses.replace(make_report(NAME, value), reward_id=reward_id)
        _, status, _ = await self.steps.reward(report)
        return status

    async def stored(self) -> contract.DecisionState:
        """Return the decision's state in the store."""
        found = await self.commit(self.store.find_decision, NAME)
        return found.decision.state  # type: ignore[no-any-return]

    @contextmanager
    def writer_blocked(self) -> Iterator[None]:
        """Hold the writer between two commits: nothing is answered until the exit."""
        self.held.clear()
        try:
            yield
        finally:
            self.held.set()


def play(path: Path, scene: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        held = threading.Event()
        held.set()

        def deliver(answer: Callable[[], None]) -> None:
            assert held.wait(20)
            loop.call_soon_threadsafe(answer)

        store = SqliteStore(path / "bandexa.db", "os", deliver, gather=loop.call_soon)
        try:
            await asyncio.wait_for(scene(Scene(store, held)), 60)
        finally:
            await loop.run_in_executor(None, store.close)

    asyncio.run(run())


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_thousand_rewards_of_one_decision_at_once_are_summed_exactly(tmp_path, in_memory):
    values = [math.sin(n) * 10.0 ** (n % 9) for n in range(1000)]

    async def scene(s: Scene) -> None:
        await s.decide("sum", in_memory=in_memory)
        found = await asyncio.gather(*(s.reward(v, f"r{n}") for n, v in enumerate(values)))
        assert sorted(set(found)) == ["aggregated", "applied"]
        assert found.count("applied") == 1
        again = await asyncio.gather(*(s.reward(v, f"r{n}") for n, v in enumerate(values)))
        assert again == ["duplicate"] * len(values)
        state = await s.stored()
        assert (state.num_rewards, state.items[0].num) == (1000, 1000)
        assert state.items[0].value == math.fsum(values) == s.learned[-1]

    play(tmp_path, scene)


def test_rewards_that_repeat_one_another_at_once_count_once(tmp_path):
    async def scene(s: Scene) -> None:
        await s.decide("sum")
        found = await asyncio.gather(*(s.reward(1.0, f"r{n % 5}") for n in range(100)))
        assert found.count("duplicate") == 95
        assert (await s.stored()).items[0].value == 5.0
        assert s.learned == [1.0, 2.0, 3.0, 4.0, 5.0]

    play(tmp_path, scene)


def test_a_duplicate_is_answered_only_once_what_it_repeats_is_committed(tmp_path):
    async def scene(s: Scene) -> None:
        await s.decide("first")
        with s.writer_blocked():
            first = asyncio.create_task(s.reward(0.5))
            again = asyncio.create_task(s.reward(0.5))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not first.done()
            assert not again.done()
        assert [await first, await again] == ["applied", "duplicate"]

    play(tmp_path, scene)


def test_a_decision_that_left_memory_with_many_rewards_finds_its_repeats_in_the_store(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(recent, "MAX_ARRAY_BYTES", 0)  # nothing stays in memory
    num = MAX_LISTED + 20

    async def scene(s: Scene) -> None:
        await s.decide("sum")
        for n in range(num):
            assert await s.reward(1.0, f"r{n}") == ("aggregated" if n else "applied")
        same = [s.reward(1.0, f"r{n}") for n in (0, num - 1)]
        other = [s.reward(2.0, "r0"), s.reward(1.0, "new"), s.reward(1.0, "new")]
        found = await asyncio.gather(*same, *other)
        assert found[:3] == ["duplicate", "duplicate", "ignored"]
        assert sorted(found[3:]) == ["aggregated", "duplicate"]
        state = await s.stored()
        assert state.items[0].value == num + 1
        assert state.num_rewards == num + 2

    play(tmp_path, scene)


def test_a_step_of_another_writer_in_between_makes_it_step_again(tmp_path):
    async def scene(s: Scene) -> None:
        await s.decide("sum")
        await s.reward(1.0, "here")
        entry = s.recent.get(NAME)
        assert entry is not None
        decision = entry.decision
        reported = Reported(0, 10.0, "elsewhere")
        rules = decision.bandit.spec.rewards
        _, change = contract.report(decision.state, reported, rules, MOST)
        assert change is not None
        step = Step(decision, change, 6.0, reported)
        assert len(await s.commit(s.store.append_step, step)) == 1
        assert await s.reward(100.0, "here too") == "aggregated"
        assert (await s.stored()).items[0].value == 111.0
        assert await s.reward(10.0, "elsewhere") == "duplicate"

    play(tmp_path, scene)


def test_steps_that_were_refused_leave_nothing_in_memory(tmp_path, monkeypatch):
    async def scene(s: Scene) -> None:
        await s.decide("sum")
        append = s.store.append_step
        calls = itertools.count()

        def refuses_first(step: Step, done: Any) -> None:
            if next(calls) == 0:
                s.commit._loop.call_soon(done, None, Unavailable("the disk refuses"))
            else:
                append(step, done)

        monkeypatch.setattr(s.store, "append_step", refuses_first)
        first, second = await asyncio.gather(
            s.reward(1.0, "r0"), s.reward(2.0, "r1"), return_exceptions=True
        )
        assert isinstance(first, Unavailable)
        assert second == "applied", "it was stepped again, from what is stored"
        assert s.learned == [2.0]
        assert await s.reward(1.0, "r0") == "aggregated"
        assert (await s.stored()).items[0].value == 3.0

    play(tmp_path, scene)


def test_a_reward_whose_caller_goes_away_is_learned(tmp_path):
    async def scene(s: Scene) -> None:
        await s.decide("last")
        with s.writer_blocked():
            gone = asyncio.create_task(s.reward(0.5))
            await asyncio.sleep(0)
            gone.cancel()
            left = asyncio.create_task(s.reward(0.7))
            await asyncio.sleep(0)
        assert await left == "applied"
        assert gone.cancelled()
        assert s.learned == [0.5, 0.7]

    play(tmp_path, scene)


def test_a_decision_that_was_removed_meanwhile_is_unknown(tmp_path):
    async def scene(s: Scene) -> None:
        await s.decide("last")
        entry = s.recent.get(NAME)
        assert entry is not None
        dropped = await s.commit(s.store.drop_decisions, entry.decision.bandit, 1e12, 0)
        assert dropped.num == 1
        for _ in range(2):
            with pytest.raises(UnknownDecision):
                await s.reward(1.0)

    play(tmp_path, scene)


def test_a_reward_that_names_another_bandit_is_refused(tmp_path):
    async def scene(s: Scene) -> None:
        await s.decide("first")
        with pytest.raises(InvalidRequest, match="bandit"):
            await s.steps.reward(dataclasses.replace(make_report(NAME, 1.0), bandit="other"))
        report = dataclasses.replace(make_report(NAME, 1.0), bandit="b")
        assert (await s.steps.reward(report))[1] == "applied"

    play(tmp_path, scene)


def test_rewards_without_an_id_that_repeat_a_late_one_are_duplicates(tmp_path):
    """A late reward with an id is another report: whoever sends ids repeats them."""

    async def scene(s: Scene) -> None:
        await s.decide("first")
        entry = s.recent.get(NAME)
        assert entry is not None
        change = contract.close(entry.decision.state, entry.decision.bandit.spec.rewards)
        assert change is not None
        await s.commit(s.store.append_step, Step(entry.decision, change, 6.0, closes=0.0))
        found = [await s.reward(0.5, name) for name in ("r0", None, None, "r0")]
        assert found == ["late", "late", "duplicate", "duplicate"]
        s.recent.drop(NAME)
        assert [await s.reward(0.5), await s.reward(0.25)] == ["duplicate", "late"]

    play(tmp_path, scene)
