"""Service time: what a wall clock that jumps changes, in one opening and between two."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from bandexa_core.ids import DecisionId, DecisionKey
from bandexa_core.spec import RewardSpec
from service.store.clock import ClockState, Jump, ServiceClock
from service.store.identity import first_key, key_at, time_of
from service.store.opening import noted_clock
from service.store.sqlite.store import SqliteStore
from tests.store.conftest import StoreClient, creating, make_decision, make_report, make_spec
from tests.store.reporting import close_windows, rewards

START, DAY, HOUR = 1.7e9, 86_400.0, 3600.0


class Machine:
    """The clocks of a machine: the wall clock may be set, the other one counts since boot."""

    def __init__(self) -> None:
        self.wall, self.elapsed, self.boot = START, 50.0, "first"

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.elapsed += seconds

    def reboot(self) -> None:
        """Boot it again: its clock since boot begins again."""
        self.elapsed, self.boot = 0.0, self.boot + " again"

    def clock(self) -> ServiceClock:
        """Return the service's clock, as a new process makes it."""
        return ServiceClock(lambda: self.wall, lambda: self.elapsed, self.boot)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def resumed(machine: Machine, before: ClockState) -> ServiceClock:
    clock = machine.clock()
    clock.resume(before)
    return clock


def test_service_time_is_wall_time_and_follows_its_corrections(machine):
    clock = machine.clock()
    for drift in (0.0, 0.5, -20.0, 59.0):
        before = clock()
        machine.run(10.0)
        machine.wall += drift
        assert not clock.note()
        assert (clock(), clock.offset) == (max(machine.wall, before + 10.0), 0.0), "never back"


@pytest.mark.parametrize("jump", [60 * DAY, 61.0, -3 * HOUR])
def test_a_jump_goes_into_the_offset_and_back_out_of_it(machine, caplog, jump):
    clock = machine.clock()
    machine.run(1.0)
    machine.wall += jump
    assert clock() == START + 1.0, "also before it is noted"
    with caplog.at_level(logging.WARNING):
        assert clock.note()
    assert "jumped" in caplog.text
    assert clock.offset == jump
    machine.run(35.0)
    assert not clock.note()
    assert clock() == START + 36.0
    machine.wall -= jump
    assert clock.note()
    assert (clock(), clock.offset) == (machine.wall, 0.0)


def test_times_are_shown_as_the_wall_clock_showed_them(machine):
    clock = machine.clock()
    machine.run(10.0)
    machine.wall += DAY
    clock.note()
    machine.run(10.0)
    state = ClockState.unpacked(clock.state().packed())
    assert state.wall_of(START + 5.0) == START + 5.0
    assert state.wall_of(START + 15.0) == START + DAY + 15.0 == state.wall - 5.0
    assert state.jumps == (Jump(START + 10.0, DAY),)


def test_a_restart_in_one_boot_counts_what_the_machine_saw(machine):
    before = machine.clock().state()
    machine.run(20 * DAY)
    assert resumed(machine, before)() == machine.wall, "it was really off for that long"
    machine.wall += 60 * DAY
    clock = resumed(machine, before)
    assert (clock(), clock.offset) == (START + 20 * DAY, 60 * DAY)
    machine.wall -= 90 * DAY
    clock = resumed(machine, before)
    assert (clock(), clock.offset) == (START + 20 * DAY, -30 * DAY)


def test_a_small_step_back_over_a_restart_moves_nothing_back(machine):
    before = machine.clock().state()
    machine.reboot()
    machine.wall -= 30.0
    assert resumed(machine, before)() == START


def test_after_a_reboot_a_weekend_counts_and_two_months_need_an_operator(machine):
    before = machine.clock().state()
    machine.run(3 * DAY)
    machine.reboot()
    assert resumed(machine, before)() == START + 3 * DAY
    machine.wall = START - HOUR
    assert resumed(machine, before)() == START
    machine.wall = START + 60 * DAY
    clock = resumed(machine, before)
    assert (clock(), clock.offset) == (START, 60 * DAY)
    assert clock.accept() == 60 * DAY
    assert (clock(), clock.offset) == (machine.wall, 0.0)
    assert clock.state().wall_of(START - 1.0) == START - 1.0


def test_accepting_never_moves_service_time_back(machine):
    clock = machine.clock()
    machine.wall -= HOUR
    clock.note()
    assert clock.accept() == 0.0
    assert (clock(), clock.offset) == (START, -HOUR)


# -- in a store -----------------------------------------------------------------------------------


class Scene:
    """A store on a machine, with a bandit whose windows take ten seconds."""

    def __init__(self, path: Path, machine: Machine) -> None:
        self.client, self.machine = StoreClient(path), machine
        self.store = self.opened()
        rules = RewardSpec(reward_window_s=10.0, default_reward=0.5)
        self.bandit = self.client.call(creating(self.store), "b", make_spec(rewards=rules))
        self.tick()

    def opened(self) -> SqliteStore:
        clock = self.machine.clock()
        return SqliteStore(self.client.path, "os", lambda answer: answer(), clock)

    def reopen(self, between: Callable[[], None] | None = None) -> None:
        self.store.close()
        if between is not None:
            between()
        self.store = self.opened()

    def decide(self, name: str) -> DecisionKey:
        key = self.store.ids.new_key(self.bandit.key)
        record = replace(make_decision(self.bandit, name), key=key, time=self.machine.wall)
        self.client.call(self.store.append_decision, record)
        return key

    def tick(self) -> list[str]:
        """Close the windows that are over; returns their decisions."""
        due = close_windows(self.client.call, self.store, self.machine.wall)
        return [str(name) for name, _ in due]

    def run(self, seconds: int) -> list[str]:
        closed = []
        for _ in range(seconds):
            self.machine.run(1.0)
            closed += self.tick()
        return closed


@pytest.fixture
def scene(tmp_path: Path, machine: Machine):
    scene = Scene(tmp_path / "bandexa.db", machine)
    yield scene
    scene.store.close()


@pytest.mark.parametrize("jump", [60 * DAY, -3 * HOUR])
def test_windows_keys_and_log_rows_follow_no_jump(scene, machine, jump):
    scene.decide("before")
    assert scene.run(4) == []
    machine.wall += jump
    key = scene.decide("in it")  # before anybody has noted the jump
    assert abs(time_of(key) - START - 4.0) < 0.001
    assert scene.tick() == []
    assert scene.run(5) == []
    machine.wall -= jump
    assert scene.run(1) == ["before"]
    assert scene.run(3) == []
    assert scene.run(1) == ["in it"]
    scene.client.call(rewards(scene.store), make_report("in it", 0.25))
    with scene.store.reader() as reader:
        cutoffs = [reader.last_before(scene.bandit.key, START + at) for at in (10.0, 11.0, 15.0)]
    assert cutoffs == [0, 1, 2], "the rows are dated 10 and 14"


def test_what_people_see_is_wall_time(scene, machine):
    scene.run(4)
    machine.wall += DAY
    scene.tick()
    scene.decide("d")
    shown = machine.wall
    with scene.store.history() as history:
        found = history.decision(scene.bandit, DecisionId("d"))
        assert (found.record.time, found.closes) == (shown, shown + 10.0)
    assert scene.run(10) == ["d"]
    machine.wall -= DAY
    scene.tick()
    with scene.store.history() as history:
        (learned,) = history.decision(scene.bandit, DecisionId("d")).learned
    assert learned.time == shown + 10.0
    with scene.store.counting() as counting:
        (counted,) = counting.learned(scene.bandit.key, 0, 9, 9)
    assert (counted.time, counted.decided, counted.first_learned) == (
        shown + 10.0, shown, shown + 10.0
    )  # fmt: skip


def noted_offset(scene: Scene) -> float:
    noted = noted_clock(scene.client.path)
    assert noted is not None
    return noted.offset


def test_the_offset_outlives_the_store_and_is_accepted(scene, machine):
    key = scene.decide("old")
    machine.wall += 60 * DAY
    scene.run(11)
    scene.reopen()
    assert scene.store.clock.offset == 60 * DAY

    def two_months_off() -> None:
        machine.reboot()
        machine.wall += 60 * DAY

    scene.reopen(two_months_off)
    assert scene.store.clock() == START + 11.0
    assert noted_offset(scene) == 60 * DAY, "of the last note"
    scene.decide("new")
    moved = scene.client.call(scene.store.accept_clock)
    assert moved == 120 * DAY == scene.store.clock() - START - 11.0
    assert noted_offset(scene) == 0.0, "at once"
    assert scene.tick() == [], "nobody watched the window meanwhile"
    old = key_at(scene.bandit.key, scene.store.clock() - DAY)
    with scene.store.reader() as reader:
        assert reader.may_drop(scene.bandit, old, DecisionKey(key - 1))
    assert first_key(scene.bandit.key) < key < old


def test_an_erasure_concerns_decisions_that_a_crash_left_ahead_of_the_clock(scene):
    """The last note of the clock may be older than the newest decisions."""
    call = scene.client.call
    scene.store.ids.seen(key_at(scene.bandit.key, START + 30.0))  # as an opening finds it
    key = scene.store.ids.new_key(scene.bandit.key)
    assert time_of(key) >= START + 30.0
    call(
        scene.store.append_decision, replace(make_decision(scene.bandit, "d"), key=key, unit="her")
    )
    erasure = call(scene.store.begin_erasure, None, "her", ())
    part = call(scene.store.erase, erasure, 0)
    assert [len(ids) for ids in part.decisions.values()] == [1]
