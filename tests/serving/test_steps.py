"""Reports about one decision that arrive together, out of memory, beside another writer."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bandexa_core.ids import DecisionId, DecisionKey
from bandexa_core.log import contract
from bandexa_core.log.contract import Reported
from bandexa_core.spec import RewardSpec
from service.serving import recent
from service.serving.commits import Committer
from service.serving.recent import RecentDecisions
from service.serving.steps import Steps
from service.store.errors import InvalidRequest, Unavailable, UnknownDecision
from service.store.protocol import Step
from service.store.records import BanditRecord, DecisionRecord, Erasure, RewardReport
from service.store.sql.ledger import MAX_LISTED
from service.store.sqlite.store import SqliteStore
from tests.store.conftest import creating, make_decision, make_report, make_spec

NAME = DecisionId("d0")
MOST = 10_000
ALL = DecisionKey((1 << 63) - 1)  # every decision is older


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
        self.records: dict[int, BanditRecord] = {}
        self.steps = Steps(
            store, self.commit, self.recent, self.records.get, MOST,
            lambda record: record.spec.reward_range, self._learn, lambda key: None,
        )  # fmt: skip

    def _learn(self, step: Step, rows: Any) -> None:
        self.learned += [row.after for row in rows]

    async def decide(
        self,
        aggregate: str,
        *,
        in_memory: bool = True,
        actions: tuple[str, ...] = ("a0",),
        **rewards: Any,
    ) -> None:
        spec = make_spec(rewards=RewardSpec(aggregate=aggregate, **rewards))  # type: ignore[arg-type]
        bandit: BanditRecord = await self.commit(creating(self.store), "b", spec)
        self.records[bandit.key] = bandit
        record: DecisionRecord = make_decision(bandit, NAME, actions=actions)
        assert await self.commit(self.store.append_decision, record) is None
        if in_memory:
            self.recent.made(record, bandit)

    async def reward(self, value: float, reward_id: str | None = None) -> str:
        report: RewardReport = replace(make_report(NAME, value), reward_id=reward_id)
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


def play(
    path: Path,
    scene: Callable[[Scene], Coroutine[Any, Any, None]],
    clock: Callable[[], float] | None = None,
) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        held = threading.Event()
        held.set()

        def deliver(answer: Callable[[], None]) -> None:
            assert held.wait(20)
            loop.call_soon_threadsafe(answer)

        store = SqliteStore(path / "bandexa.db", "os", deliver, clock, gather=loop.call_soon)
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
    monkeypatch.setattr(recent, "MAX_CHOSEN", 0)  # nothing stays in memory
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


@pytest.mark.parametrize("how", ["void", "preview", "correct"])
def test_a_step_of_another_server_is_seen_by_changes_of_what_was_reported(tmp_path, how):
    """What is in memory says that there is nothing to void, or that the value is so already."""

    async def scene(s: Scene) -> None:
        s.store.shared = True
        await s.decide("last")
        if how == "correct":
            await s.reward(1.0)
        entry = s.recent.get(NAME)
        found = (await s.commit(s.store.find_decision, NAME)).decision
        bandit, rules = found.bandit, found.bandit.spec.rewards
        _, change = contract.report(found.state, Reported(0, 3.0, "elsewhere"), rules, MOST)
        assert change is not None
        await s.commit(s.store.append_step, Step(found, change, 6.0, Reported(0, 3.0, "elsewhere")))
        assert entry is not None
        assert entry.decision.state != (await s.stored()), "it is old"
        if how == "correct":
            corrected = await s.steps.correct(NAME, bandit, None, 1.0, 7.0)
            assert corrected.status != "duplicate"
            assert (await s.stored()).items[0].value == 1.0
            return
        done = await s.steps.void(NAME, bandit, None, 7.0, dry_run=how == "preview")
        assert done.values == ((3.0, 1),)
        assert ((await s.stored()).items[0].value is None) == (how == "void")

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
        dropped = await s.commit(s.store.drop_decisions, entry.decision.bandit, ALL, 0)
        assert dropped.num == 1
        for _ in range(2):
            with pytest.raises(UnknownDecision):
                await s.reward(1.0)

    play(tmp_path, scene)


def test_a_reward_that_names_another_bandit_is_refused(tmp_path):
    async def scene(s: Scene) -> None:
        await s.decide("first")
        with pytest.raises(InvalidRequest, match="bandit"):
            await s.steps.reward(replace(make_report(NAME, 1.0), bandit="other"))
        report = replace(make_report(NAME, 1.0), bandit="b")
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


# -- ids that servers made ------------------------------------------------------------------------


async def served(
    s: Scene, actions: tuple[str, ...] = ("a0",), *, active: bool = True, **rewards: Any
) -> DecisionId:
    """Store a decision under an id of the store, and nothing in memory; returns the id."""
    await s.decide("last", in_memory=False, **rewards)
    (bandit,) = s.records.values()
    key = s.store.ids.new_key(bandit.key)
    record = make_decision(bandit, s.store.ids.text(key), actions=actions)
    record = replace(record, key=key, activated=active)
    assert await s.commit(s.store.append_decision, record) is None
    return record.decision_id


def counting_look_ups(s: Scene, monkeypatch: pytest.MonkeyPatch) -> list[DecisionId]:
    """Return a list that gets each decision that is looked up in the store."""
    looked_up: list[DecisionId] = []
    find = s.store.find_decision

    def counted(decision_id: DecisionId, done: Any) -> None:
        looked_up.append(decision_id)
        find(decision_id, done)

    monkeypatch.setattr(s.store, "find_decision", counted)
    return looked_up


def test_the_first_reward_of_a_served_decision_reads_nothing(tmp_path, monkeypatch):
    async def scene(s: Scene) -> None:
        name = await served(s)
        looked_up = counting_look_ups(s, monkeypatch)
        decision, status, rows = await s.steps.reward(make_report(name, 0.5))
        assert (decision.id, status, [row.after for row in rows]) == (name, "applied", [0.5])
        assert looked_up == []

    play(tmp_path, scene)


def test_a_served_decision_that_is_not_new_is_read_once(tmp_path, monkeypatch):
    async def scene(s: Scene) -> None:
        name = await served(s)
        assert (await s.steps.reward(make_report(name, 0.5)))[1] == "applied"
        looked_up = counting_look_ups(s, monkeypatch)
        assert (await s.steps.reward(make_report(name, 0.5)))[1] == "duplicate"
        assert (await s.steps.reward(make_report(name, 0.7)))[1] == "applied"
        assert looked_up == [name]
        assert s.learned == [0.5, 0.7]

    play(tmp_path, scene)


def test_a_served_decision_that_is_not_active_waits_for_its_activation(tmp_path):
    async def scene(s: Scene) -> None:
        name = await served(s, active=False)
        assert (await s.steps.reward(make_report(name, 0.5)))[1:] == ("aggregated", ())
        assert s.learned == []
        _, status, rows = await s.steps.activate(name, 7.0)
        assert (status, [row.after for row in rows]) == ("applied", [0.5])

    play(tmp_path, scene)


def test_an_activation_behind_a_wrong_guess_is_still_one(tmp_path):
    async def scene(s: Scene) -> None:
        name = await served(s, active=False)
        with s.writer_blocked():
            reward = asyncio.ensure_future(s.steps.reward(make_report(name, 0.5)))
            await asyncio.sleep(0)
            activation = asyncio.ensure_future(s.steps.activate(name, 7.0))
            await asyncio.sleep(0)
        assert (await activation)[1] == "applied"
        assert (await reward)[1] in ("aggregated", "applied")
        assert s.learned == [0.5]

    play(tmp_path, scene)


def test_a_reward_of_a_served_decision_with_several_actions_must_name_one(tmp_path):
    async def scene(s: Scene) -> None:
        name = await served(s, ("a0", "a1"))
        with pytest.raises(InvalidRequest, match="action"):
            await s.steps.reward(make_report(name, 0.5))
        assert (await s.steps.reward(make_report(name, 0.5, "a1")))[1] == "applied"
        assert s.learned == [0.5]

    play(tmp_path, scene)


def test_a_named_action_is_compared_after_a_reward_without_one(tmp_path):
    async def scene(s: Scene) -> None:
        name = await served(s)
        with s.writer_blocked():
            first = asyncio.ensure_future(s.steps.reward(make_report(name, 0.5)))
            await asyncio.sleep(0)
            same = asyncio.ensure_future(s.steps.reward(make_report(name, 0.5, "a0")))
            wrong = asyncio.ensure_future(s.steps.reward(make_report(name, 0.5, "a9")))
            await asyncio.sleep(0)
        assert (await first)[1] == "applied"
        assert (await same)[1] == "duplicate"
        with pytest.raises(InvalidRequest, match="a9"):
            await wrong

    play(tmp_path, scene)


def test_a_served_decision_that_was_removed_is_unknown(tmp_path):
    async def scene(s: Scene) -> None:
        name = await served(s)
        (bandit,) = s.records.values()
        await s.commit(s.store.drop_decisions, bandit, ALL, 0)
        for _ in range(2):
            with pytest.raises(UnknownDecision):
                await s.steps.reward(make_report(name, 0.5))

    play(tmp_path, scene)


@pytest.mark.parametrize("maturity", ["close", 1.0])
@pytest.mark.parametrize("gone", ["deleted", "erased"])
def test_what_goes_while_it_is_due_does_not_end_the_watch_of_windows(tmp_path, maturity, gone):
    now = [1000.0]

    async def scene(s: Scene) -> None:
        await s.steps.close_windows(lambda: now[0])
        await s.decide("first", reward_window_s=1.5, default_reward=0.0, maturity=maturity)
        (bandit,) = s.records.values()
        now[0] += 2.5
        with s.writer_blocked():
            closing = asyncio.ensure_future(s.steps.close_windows(lambda: now[0]))
            await asyncio.sleep(0)
            erasure = Erasure(1, bandit.key, None, (NAME,), 2000.0)
            deleted = gone == "deleted"
            going = s.commit.start(
                *((s.store.delete_bandit, bandit) if deleted else (s.store.erase, erasure, 0))
            )
            await asyncio.sleep(0)
        assert (await closing).windows
        await going
        due = await s.steps.close_windows(lambda: now[0])
        assert (due.windows, due.mature, s.learned) == ((), (), [])

    play(tmp_path, scene, lambda: now[0])


@pytest.mark.parametrize("maturity", ["close", 1.0])
def test_what_is_due_is_learned_although_what_is_in_memory_of_it_is_older(tmp_path, maturity):
    """Another server has activated it, and what is in memory here says that it is not active."""
    now = [1000.0]

    async def scene(s: Scene) -> None:
        await s.steps.close_windows(lambda: now[0])
        rules = {"reward_window_s": 1.5, "default_reward": 0.25, "maturity": maturity}
        name = await served(s, active=False, **rules)
        found = await s.commit(s.store.find_decision, name)
        s.recent.found(found)
        _, change = contract.activate(found.decision.state, found.decision.rules)
        assert change is not None
        await s.commit(s.store.append_step, Step(found.decision, change, now[0]))
        s.store.shared = True
        now[0] += 2.5
        for _ in range(3):  # the age, the window, and nothing any more
            due = await s.steps.close_windows(lambda: now[0])
        assert (due.windows, due.mature) == ((), ())
        assert s.learned == [0.25, 0.25]

    play(tmp_path, scene, lambda: now[0])
