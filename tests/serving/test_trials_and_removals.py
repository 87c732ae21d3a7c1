"""Trials of challengers over what is erased, and over retention, in a running engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec.structs import replace

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import DecisionId
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec, TrainingSpec
from service.observe.counters import Metrics
from service.serving import manage, promoting
from service.serving.bandit import Bandit
from service.serving.challengers import Rule
from service.serving.engine import Engine
from service.serving.lifecycle import running
from service.serving.retention import Retention
from service.settings import Settings
from tests.fixtures.waiting import until
from tests.store.conftest import make_decision, make_report

LOCKSTEP = TrainingSpec(mode="lockstep")
SPEC = BanditSpec(
    policy="linear_ts", context=ContextSpec(shape=(3,)), action_dim=2, training=LOCKSTEP,
    encoder=EncoderSpec(name="concat"),
)  # fmt: skip


async def taught(engine: Engine, bandit: Bandit, first: int, num: int) -> None:
    store, record = engine.store, bandit.record
    for number in range(first, first + num):
        made = replace(make_decision(record, f"d{number}"), key=store.ids.new_key(record.key))
        await engine.commit(store.append_decision, made)
        await engine.rewards.reward(make_report(f"d{number}"))


async def with_challenger(engine: Engine) -> Bandit:
    bandit, _ = await manage.put_bandit(engine, "b", SPEC)
    await taught(engine, bandit, 0, 20)
    await promoting.declare(engine, "b", "products", {"encoder": {"name": "bilinear"}}, Rule())
    return bandit


def snapshot_of_trial(bandit: Bandit) -> int | None:
    return next((arm.snapshot for arm in bandit.model.spec.arms), None)


def test_what_is_erased_leaves_the_bandit_before_a_trial_is_learned(tmp_path: Path) -> None:
    async def scene() -> None:
        settings = Settings(data_dir=tmp_path / "data", durability="os")
        async with running(settings, Metrics(), EncoderRegistry()) as engine:
            bandit = await with_challenger(engine)
            for number in range(8):  # whose rounds come before
                other, _ = await manage.put_bandit(engine, f"other{number}", SPEC)
                engine.rounds.order(other)
            begun = asyncio.create_task(promoting.try_out(engine, "b", "products", 0.2))
            supervisor = engine.rounds.supervisor
            await until(lambda: supervisor.is_queued(bandit.record.uid), "the trial's round")
            erased = await engine.eraser.erase(bandit.record, None, [DecisionId("d3")])
            await begun
            assert (erased.decisions, erased.rebuilt) == (1, ("b",))
            assert bandit.model.progress.num_learned == 19
            stored = bandit.snapshots.versions()
            assert bandit.model.version in stored, "the served model is a clean snapshot"
            assert snapshot_of_trial(bandit) in stored
            assert bandit.model.has_trials

    asyncio.run(asyncio.wait_for(scene(), 120))


def test_an_erasure_ends_the_model_of_a_trial_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        settings = Settings(data_dir=tmp_path / "data", durability="os")
        async with running(settings, Metrics(), EncoderRegistry()) as engine:
            bandit = await with_challenger(engine)
            await promoting.try_out(engine, "b", "products", 0.2)
            assert bandit.model.has_trials
            await engine.eraser.erase(bandit.record, None, [DecisionId("d3")])
            assert snapshot_of_trial(bandit) not in bandit.snapshots.versions()
            assert not bandit.model.has_trials, "it has learned what is erased"

    asyncio.run(asyncio.wait_for(scene(), 120))


def test_retention_keeps_the_snapshot_of_a_trial_and_no_rows_for_it(tmp_path: Path) -> None:
    async def scene() -> None:
        settings = Settings(data_dir=tmp_path / "data", durability="os", keep_snapshots=2)
        limits = settings.model_copy(update={"max_age_days": 1e-9})
        async with running(settings, Metrics(), EncoderRegistry()) as engine:
            bandit = await with_challenger(engine)
            await promoting.try_out(engine, "b", "products", 0.2)
            kept = snapshot_of_trial(bandit)
            await taught(engine, bandit, 20, 20)
            for _ in range(3):
                await engine.rounds.train(bandit)
            retention = Retention(
                limits, Metrics(), engine.store, engine.bandits, engine.commit, engine.rounds.order
            )

            async def trimmed() -> bool:
                await retention.enforce()
                with engine.store.reader() as reader:
                    return reader.trim(bandit.record.key).position >= 40

            ends = engine.store.clock() + 0.5  # keys that are made together run ahead of the clock
            await until(lambda: engine.store.clock() > ends, "some time")
            assert await trimmed()
            assert kept in bandit.snapshots.versions()

    asyncio.run(asyncio.wait_for(scene(), 120))
