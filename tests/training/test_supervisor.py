"""The supervisor with a real child process, which behaves as a test configures it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from service.observe.counters import Count, Metrics
from service.training import supervisor as supervisor_module
from service.training.errors import RoundFailed
from service.training.messages import Configuration, Published, RoundOrder
from service.training.supervisor import TrainerSupervisor
from tests.fixtures.waiting import is_running

STAND_IN = Path(__file__).with_name("stand_in_trainer.py")
A, B = BanditUid("a"), BanditUid("b")
WITHIN_S = 20.0


class StandInConfiguration(Configuration, frozen=True, kw_only=True):
    """The configuration of the stand-in: the trainer's, and its own fields."""

    script: str
    stubborn: bool = False


def configuration(script: Path, *, stubborn: bool = False) -> StandInConfiguration:
    return StandInConfiguration(
        database="", snapshots="", replays="", encoders={}, weights={}, device="cpu", threads=1,
        niceness=0, keep_snapshots=2, keep_snapshots_h=0.0,
        keep_snapshots_bytes=0, epoch=1, log_format="json", log_level="info",
        script=str(script), stubborn=stubborn,
    )  # fmt: skip


class Swaps:
    """The side of the service: numbers the orders, and records what was published."""

    def __init__(self) -> None:
        self.orders = 0
        self.published_versions: list[tuple[str, int]] = []
        self.gone: set[str] = set()
        self.failures: list[tuple[str, str]] = []
        self.error: Exception | None = None

    async def order_for(self, uid: BanditUid) -> RoundOrder | None:
        if uid in self.gone:
            return None
        self.orders += 1
        return RoundOrder(uid, LogPosition(self.orders), SnapshotVersion(0))

    def failed(self, uid: BanditUid, error: str, seconds: float) -> None:
        self.failures.append((uid, error))

    async def published(self, uid: BanditUid, event: Published) -> None:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.published_versions.append((uid, event.version))


class Scene:
    """A supervisor at work in a test's own directory."""

    def __init__(self, root: Path, *, stubborn: bool = False, hung_s: float = 60.0) -> None:
        self.root = root
        self.metrics = Metrics()
        self.swaps = Swaps()
        self.supervisor = TrainerSupervisor(
            configuration(root / "script", stubborn=stubborn), self.swaps, self.metrics, hung_s
        )

    def script(self, *behaviours: str) -> None:
        (self.root / "script").write_text("\n".join(behaviours))

    def orders(self) -> list[dict[str, Any]]:
        path = self.root / "orders"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def count(self, name: str) -> int:
        count: Count = getattr(self.metrics, name)
        return count.value

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            await asyncio.sleep(0.005)
        raise AssertionError(f"not in time: {what}")

    async def trained(self, uid: BanditUid) -> Published:
        return await asyncio.wait_for(self.supervisor.request(uid), WITHIN_S)


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Run a coroutine function on a supervisor whose child is the stand-in; close it after."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{STAND_IN}"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(supervisor_module, "FIRST_BACKOFF_S", 0.01)

    def run(story: Callable[[Scene], Awaitable[None]], *script: str, **options: Any) -> Scene:
        async def whole() -> Scene:
            scene = Scene(tmp_path, **options)
            scene.script(*script)
            scene.supervisor.start()
            try:
                await story(scene)
            finally:
                await scene.supervisor.close()
            return scene

        return asyncio.run(whole())

    return run


def test_a_round_is_done_once_it_is_swapped_in(play):
    async def story(scene: Scene) -> None:
        event = await scene.trained(A)
        assert (event.uid, event.version) == ("a", 1)
        assert scene.swaps.published_versions == [("a", 1)]
        assert scene.supervisor.rounds == 1

    play(story)


def test_requests_that_wait_share_a_round(play):
    async def story(scene: Scene) -> None:
        first = scene.supervisor.request(A)
        await scene.until(lambda: scene.supervisor.state == "training", "the first round")
        assert scene.supervisor.is_queued(A)
        later = [scene.supervisor.request(A) for _ in range(5)]
        (scene.root / "go").touch()
        versions = [event.version for event in await asyncio.gather(first, *later)]
        assert versions == [1, 2, 2, 2, 2, 2], "one under way may miss rows; the next has them"
        assert scene.supervisor.rounds == 2
        assert not scene.supervisor.is_queued(A)

    play(story, "linger")


def test_bandits_take_turns(play):
    async def story(scene: Scene) -> None:
        first = scene.supervisor.request(A)
        await scene.until(lambda: scene.supervisor.state == "training", "the first round")
        rest = [scene.supervisor.request(uid) for uid in (A, B, A, B)]
        (scene.root / "go").touch()
        await asyncio.gather(first, *rest)
        assert [uid for uid, _ in scene.swaps.published_versions] == ["a", "a", "b"]

    play(story, "linger")


def test_a_failing_round_is_reported_to_its_callers_and_the_next_goes_on(play):
    async def story(scene: Scene) -> None:
        with pytest.raises(RoundFailed, match="the rows are cursed"):
            await scene.trained(A)
        assert (await scene.trained(A)).version == 2
        assert scene.count("rounds_failed") == 1
        assert scene.count("trainer_restarts") == 0

    play(story, "fail")


def test_a_child_that_dies_in_a_round_is_replaced_and_the_round_ordered_again(play):
    async def story(scene: Scene) -> None:
        event = await scene.trained(A)
        assert event.version == 3, "each try requests again what the round covers"
        assert scene.swaps.published_versions == [("a", 3)]
        assert scene.count("trainer_restarts") == 2
        assert scene.count("rounds_failed") == 0

    play(story, "die", "die")


def test_a_child_that_hangs_in_a_round_is_ended_and_replaced(play, caplog):
    async def story(scene: Scene) -> None:
        event = await scene.trained(A)
        assert event.version == 2
        first, second = (scene.root / "starts").read_text().split()
        assert not is_running(int(first))
        assert scene.supervisor.pid == int(second)
        assert scene.count("trainer_restarts") == 1
        assert (await scene.trained(B)).version == 3

    play(story, "linger", hung_s=2.0)
    assert "reported nothing for 2 s" in caplog.text


def test_a_child_that_hangs_as_it_starts_is_ended_and_replaced(play):
    async def story(scene: Scene) -> None:
        (scene.root / "hang").touch()
        assert (await scene.trained(A)).version == 1
        first, second = (scene.root / "starts").read_text().split()
        assert not is_running(int(first))
        assert scene.supervisor.pid == int(second)

    play(story, hung_s=2.0)


def test_a_round_that_kills_every_child_is_given_up_and_others_go_on(play):
    async def story(scene: Scene) -> None:
        deadly, other = scene.supervisor.request(A), scene.supervisor.request(B)
        with pytest.raises(RoundFailed, match="died 3 times"):
            await asyncio.wait_for(deadly, WITHIN_S)
        assert (await asyncio.wait_for(other, WITHIN_S)).uid == "b"
        assert scene.count("rounds_failed") == 1

    play(story, "die", "die", "die")


def test_a_child_that_dies_idle_is_replaced(play):
    async def story(scene: Scene) -> None:
        await scene.trained(A)
        old = scene.supervisor.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        await scene.until(lambda: scene.supervisor.pid not in (old, None), "a new child")
        assert (await scene.trained(A)).version == 2
        assert scene.supervisor.pid != old
        assert scene.count("trainer_restarts") == 1

    play(story)


def test_a_child_that_does_not_start_fails_its_callers_until_one_does(play):
    async def story(scene: Scene) -> None:
        await scene.trained(A)
        (scene.root / "no-start").touch()
        scene.script("die")
        rounds = [scene.supervisor.request(uid) for uid in (A, B)]
        outcomes = await asyncio.wait_for(asyncio.gather(*rounds, return_exceptions=True), WITHIN_S)
        assert [type(outcome) for outcome in outcomes] == [RoundFailed, RoundFailed]
        assert not scene.supervisor.is_queued(A)
        (scene.root / "no-start").unlink()
        await scene.until(lambda: scene.supervisor.state == "idle", "a child that starts")
        assert (await scene.trained(B)).uid == "b"

    play(story)


def test_what_cannot_be_swapped_in_does_not_end_the_supervision(play):
    async def story(scene: Scene) -> None:
        for error in (RoundFailed("refused"), ValueError("tensors do not fit"), KeyError("mean")):
            scene.swaps.error = error
            with pytest.raises(RoundFailed):
                await scene.trained(A)
        assert (await scene.trained(A)).version == 4
        assert scene.count("rounds_failed") == 3

    play(story)


def test_a_deleted_bandit_is_not_trained(play):
    async def story(scene: Scene) -> None:
        scene.swaps.gone.add("a")
        with pytest.raises(RoundFailed, match="deleted"):
            await scene.trained(A)
        await scene.supervisor.forget(A)
        await scene.trained(B)
        assert [(o["do"], o["uid"]) for o in scene.orders()] == [("forget", "a"), ("round", "b")]

    play(story)


def test_closing_ends_the_child_and_fails_its_callers(play):
    async def story(scene: Scene) -> None:
        rounds = [scene.supervisor.request(uid) for uid in (A, B)]
        await scene.until(lambda: scene.supervisor.state == "training", "the first round")
        pid = scene.supervisor.pid
        assert pid is not None
        await scene.supervisor.close()
        for outcome in await asyncio.gather(*rounds, return_exceptions=True):
            assert isinstance(outcome, RoundFailed)
            assert "shutting down" in str(outcome)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        await scene.supervisor.close()
        assert scene.supervisor.state == "stopped"

    play(story, "linger")


def test_a_child_that_ignores_the_end_of_its_input_is_killed(play, monkeypatch):
    monkeypatch.setattr(supervisor_module, "STOP_TIMEOUT_S", 0.1)

    async def story(scene: Scene) -> None:
        scene.supervisor.request(A)
        pid = await scene.until(lambda: scene.supervisor.pid, "a child")
        await scene.until(lambda: scene.supervisor.state == "training", "its round")
        await scene.supervisor.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    play(story, stubborn=True)


def test_there_is_no_child_before_the_first_round(play):
    async def story(scene: Scene) -> None:
        assert (scene.supervisor.state, scene.supervisor.phase) == ("idle", "idle")
        assert scene.supervisor.down_s == 0.0
        assert not await scene.supervisor.forget(A)
        assert not (scene.root / "starts").exists()
        await scene.trained(A)
        (started,) = (scene.root / "starts").read_text().splitlines()
        assert scene.supervisor.pid == int(started)

    play(story)
