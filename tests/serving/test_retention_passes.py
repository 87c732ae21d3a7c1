"""Passes of retention over a running engine: what goes by age, and what a pass costs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.spec import BanditSpec, ContextSpec, RewardSpec, TrainingSpec
from service.observe.counters import Metrics
from service.serving import manage
from service.serving.bandit import Bandit
from service.serving.commits import Committer
from service.serving.engine import Engine
from service.serving.lifecycle import running
from service.serving.retention import Retention
from service.settings import Settings
from tests.fixtures.waiting import until
from tests.store.conftest import make_decision, make_report


class Counting(Committer):
    """Counts the commits that it waits for."""

    num = 0

    async def __call__(self, *arguments: Any, **more: Any) -> Any:
        self.num += 1
        return await super().__call__(*arguments, **more)


class Scene:
    """An engine, and passes of retention over it, by a limit that everything exceeds."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.commit = Counting(engine.loop)
        self.metrics = Metrics()
        self.retention = Retention(
            settings, self.metrics, engine.store, engine.bandits, self.commit, engine.rounds.order
        )

    async def bandit(self, training: TrainingSpec, **changes: Any) -> Bandit:
        spec = BanditSpec(
            policy="linear_ts", context=ContextSpec(shape=(3,)), action_dim=2, training=training,
            **changes,
        )  # fmt: skip
        bandit, _ = await manage.put_bandit(self.engine, "b", spec)
        return bandit

    async def feed(self, bandit: Bandit, first: int, num: int, *, rewarded: bool = True) -> None:
        """Store decisions, and reward them."""
        store, record = self.engine.store, bandit.record
        names = [f"d{number}" for number in range(first, first + num)]
        made = [
            replace(make_decision(record, name), key=store.ids.new_key(record.key))
            for name in names
        ]
        await asyncio.gather(*(self.engine.commit(store.append_decision, each) for each in made))
        if rewarded:
            reports = [make_report(name) for name in names]
            await asyncio.gather(*(self.engine.rewards.reward(report) for report in reports))

    async def enforce(self) -> int:
        """Run one pass; returns how many commits it made."""
        before = self.commit.num
        await self.retention.enforce()
        return self.commit.num - before

    async def passed(self, seconds: float) -> None:
        """Return once so much service time has passed."""
        ends = self.engine.store.clock() + seconds
        await until(lambda: self.engine.store.clock() > ends, "some time")

    def left(self) -> int:
        with self.engine.store.counting() as counting:
            return sum(
                len(counting.decisions(bandit.record.key, 0, 10_000, 1 << 30))
                for bandit in self.engine.bandits()
            )


def play(folder: Path, scene: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        settings = Settings(data_dir=folder / "data", durability="os")
        limits = settings.model_copy(update={"max_age_days": 1e-9})
        async with running(settings, Metrics(), EncoderRegistry()) as engine:
            await scene(Scene(engine, limits))

    asyncio.run(asyncio.wait_for(run(), 120))


def test_a_quiet_bandit_gives_up_everything_by_age_alone(tmp_path):
    async def scene(s: Scene) -> None:
        bandit = await s.bandit(TrainingSpec(mode="background"))
        await s.feed(bandit, 0, 30)
        await s.feed(bandit, 30, 5, rewarded=False)
        num_learned = bandit.model.progress.num_learned
        supervisor = s.engine.rounds.supervisor
        for _ in range(10):
            await s.enforce()
            await until(lambda: not supervisor.is_queued(bandit.record.uid), "the ordered round")
        assert s.left() == 0
        assert s.metrics.decisions_removed.value == 35
        assert bandit.model.progress.num_learned == num_learned == 30
        rounds = bandit.model.version
        assert await s.enforce() == 0
        assert bandit.model.version == rounds, "no round is ordered for nothing"
        await s.feed(bandit, 50, 2)  # it learns on
        assert bandit.model.progress.num_learned == 32

    play(tmp_path, scene)


def test_what_is_held_back_is_examined_once_and_goes_with_its_snapshot(tmp_path):
    async def scene(s: Scene) -> None:
        bandit = await s.bandit(TrainingSpec(mode="lockstep"))
        await s.feed(bandit, 0, 1200)
        await s.passed(0.5)  # keys that are made together run ahead of the clock
        assert 1 <= await s.enforce() <= 4, "500 decisions at once"
        for _ in range(3):
            assert await s.enforce() == 0
        await s.feed(bandit, 1200, 1)
        assert await s.enforce() == 1, "the new one alone is examined"
        for _ in range(4):  # until no snapshot is older
            await s.engine.rounds.train(bandit)
        assert s.left() == 1201
        assert 1 <= await s.enforce() <= 8
        assert s.left() == 0
        assert await s.enforce() == 0

    play(tmp_path, scene)


def test_an_open_window_holds_back_without_a_commit(tmp_path):
    async def scene(s: Scene) -> None:
        rules = RewardSpec(reward_window_s=3600.0)
        bandit = await s.bandit(TrainingSpec(mode="lockstep"), rewards=rules)
        await s.feed(bandit, 0, 20, rewarded=False)
        assert await s.enforce() == 0
        assert s.left() == 20

    play(tmp_path, scene)
