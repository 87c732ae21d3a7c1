"""Crashes of the disk replay at every step of the file system and in any order of operations.

The tests play the caller, which follows a log of rows and corrections from `replay.followed`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bandexa_core.errors import ReplayError
from bandexa_core.filesystem import FileSystem
from bandexa_core.replay import DiskReplay, Replay, RowLayout, Rows
from tests.fixtures.matrices import examples

LAYOUT = RowLayout((3,), "uint8", 1)

# One event of the log: its position and the position of the row that it corrects; None: a new row.
Event = tuple[int, int | None]


def _follow(replay, log: list[Event], make_rows, batch: int) -> None:
    """Apply the events after `replay.followed` in batches, as the trainer does."""
    rest = [event for event in log if event[0] > getattr(replay, "followed", 0)]
    for start in range(0, len(rest), batch):
        for position, target in rest[start : start + batch]:
            if target is None:
                replay.append(make_rows(LAYOUT, [position]))
            else:
                replay.correct(np.array([target]), np.array([position * 1.5]))
        if hasattr(replay, "mark_followed"):
            replay.mark_followed(rest[min(start + batch, len(rest)) - 1][0])


def _rewards(rows: Rows):
    return zip(rows.positions, rows.rewards, strict=True)


def _model(plain_model, log: list[Event], make_rows, capacity):
    model = plain_model(LAYOUT, capacity)
    _follow(model, log, make_rows, len(log) or 1)
    return model


def _script() -> list[Event]:
    rng = np.random.default_rng(4)
    log: list[Event] = []
    rows: list[int] = []
    for position in range(1, 23):
        if rows and rng.random() < 0.3:
            log.append((position, int(rng.choice(rows))))
        else:
            rows.append(position)
            log.append((position, None))
    return log


def _run(root: Path, fs, log: list[Event], make_rows, capacity) -> None:
    """Open a replay, follow the log and close the replay."""
    with DiskReplay(
        root, LAYOUT, shard_size=4, cache_shards=1, flush_every=3, capacity=capacity, fs=fs
    ) as replay:
        _follow(replay, log, make_rows, 4)


@pytest.mark.few(2)
@pytest.mark.parametrize("capacity", [None, 7])
@pytest.mark.parametrize("how", ["process", "lost", "zeroed"])
def test_following_the_log_again_repairs_a_crash_at_any_step(
    tmp_path, make_rows, plain_model, lossy_file_system, no_sync, how, capacity
):
    log = _script()
    whole = _model(plain_model, log, make_rows, capacity)
    stop_at = 0
    finished = False
    seen_followed = set()
    while not finished:
        stop_at += 1
        fs = lossy_file_system(stop_at)
        root = tmp_path / f"root-{stop_at}"
        with suppress(ReplayError):
            _run(root, fs, log, make_rows, capacity)
            finished = True
        left = tmp_path / f"left-{stop_at}"
        fs.survivors(root, left, how)
        with DiskReplay(left, LAYOUT, shard_size=4, capacity=capacity, fs=no_sync) as replay:
            seen_followed.add(int(replay.followed))
            _assert_nothing_missing(replay, log, capacity)
            _follow(replay, log, make_rows, 4)
            whole.assert_equals(replay)
        shutil.rmtree(left)
        if root.exists():
            shutil.rmtree(root)
    assert stop_at > 70
    assert {0, 22} < seen_followed


def _assert_nothing_missing(replay: Replay, log: list[Event], capacity: int | None) -> None:
    """Check that all events up to `followed` are applied; later ones may be.

    The rows are the newest ones up to some row, without gaps. A reward whose last correction comes
    after `followed` may be torn, and a scan may refuse it; following the log writes it again.
    """
    appended = [position for position, target in log if target is None]
    drawn = replay.sample(np.random.default_rng(0), 2000) if len(replay) else None
    found = {} if drawn is None else {int(p): r for p, r in _rewards(drawn)}
    assert list(found) == replay.positions().tolist()
    last = max(found, default=0)
    assert last >= max((p for p in appended if p <= replay.followed), default=0)
    assert list(found) == [p for p in appended if p <= last][-(capacity or len(log)) :]
    for row, reward in found.items():
        values = [(row, row / 3)] + [(p, p * 1.5) for p, target in log if target == row]
        if values[-1][0] <= replay.followed:
            assert reward == values[-1][1]


def test_a_copy_at_any_moment_catches_up_with_the_log(tmp_path, make_rows, plain_model, no_sync):
    """The directory is copied after every event, in the state in which a kill would leave it."""
    log = _script()
    whole = _model(plain_model, log, make_rows, 9)
    with DiskReplay(
        tmp_path / "root", LAYOUT, shard_size=4, flush_every=100, capacity=9, fs=no_sync
    ) as replay:
        for number in range(len(log)):
            _follow(replay, log[: number + 1], make_rows, 1)
            if number % 7 == 3:
                replay.flush()
            copy = shutil.copytree(tmp_path / "root", tmp_path / f"copy-{number}")
            with DiskReplay(copy, LAYOUT, shard_size=4, capacity=9, fs=no_sync) as copied:
                assert copied.followed <= replay.followed
                _follow(copied, log, make_rows, 5)
                whole.assert_equals(copied)


class DiskReplayMachine(RuleBasedStateMachine):
    """Compares a disk replay with a plain list; class attributes carry the fixtures."""

    make_rows: Callable[..., Rows]
    plain_model: type
    no_sync: FileSystem
    capacity: int | None

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.num_crashes = 0
        self.root = Path(self.directory.name) / "0"
        self.log: list[Event] = []
        self.rows: list[int] = []
        self.model = self.plain_model(LAYOUT, self.capacity)
        self.flushed = 0
        self.replay = self._open()

    def _open(self) -> DiskReplay:
        return DiskReplay(
            self.root,
            LAYOUT,
            shard_size=3,
            cache_shards=2,
            flush_every=6,
            capacity=self.capacity,
            fs=self.no_sync,
        )

    @rule(steps=st.lists(st.integers(1, 4), min_size=1, max_size=9))
    def append(self, steps: list[int]) -> None:
        last = self.log[-1][0] if self.log else 0
        positions = last + np.cumsum(steps)
        rows = self.make_rows(LAYOUT, positions)
        self.replay.append(rows)
        self.model.append(rows)
        self.log += [(int(position), None) for position in positions]
        self.rows += positions.tolist()

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def append_again(self, data) -> None:
        chosen = data.draw(st.sets(st.sampled_from(self.rows[-12:]), min_size=1))
        rows = self.make_rows(LAYOUT, sorted(chosen))
        known = {int(p): r for p, r in _rewards(self.model.all())}
        rewards = [known.get(int(p), r) for p, r in zip(rows.positions, rows.rewards, strict=True)]
        rows = Rows(rows.positions, rows.slots, np.array(rewards), rows.actions, rows.contexts)
        self.replay.append(rows)

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def correct(self, data) -> None:
        target = data.draw(st.sampled_from(self.rows))
        position = self.log[-1][0] + 1
        change = np.array([target]), np.array([position * 1.5])
        assert self.replay.correct(*change) == self.model.correct(*change)
        self.log.append((position, target))

    @precondition(lambda self: self.log)
    @rule()
    def mark_followed(self) -> None:
        self.replay.mark_followed(self.log[-1][0])

    @rule()
    def flush(self) -> None:
        self.replay.flush()
        self.flushed = int(self.replay.followed)

    @rule()
    def reopen(self) -> None:
        followed = self.replay.followed
        self.replay.close()
        self.replay = self._open()
        assert self.replay.followed == followed
        self.flushed = int(followed)

    @rule(data=st.data())
    def crash(self, data) -> None:
        """Continue with a copy from before the close; its last shard is torn after flushed rows."""
        followed = self.replay.followed
        self.num_crashes += 1
        copy = Path(self.directory.name) / str(self.num_crashes)
        shutil.copytree(self.root, copy)
        self.replay.close()
        self.root = copy
        shards = sorted(copy.glob("shard-*"))
        if shards and data.draw(st.booleans()):
            size = shards[-1].stat().st_size
            flushed = self._flushed_bytes(shards[-1])
            os.truncate(shards[-1], data.draw(st.integers(min(flushed, size), size + 40)))
        self.replay = self._open()
        assert self.flushed <= self.replay.followed <= followed
        self.flushed = int(self.replay.followed)
        _follow(self.replay, self.log, self.make_rows, 4)

    def _flushed_bytes(self, shard: Path) -> int:
        """Return how many bytes of the shard replay.json lists; a crash tears only the others."""
        end: int = json.loads((self.root / "replay.json").read_text())["state"]["end"]
        number = int(shard.stem.split("-")[1])
        return max(0, min(3, end - 3 * number)) * LAYOUT.row_bytes

    @invariant()
    def replay_equals_list(self) -> None:
        self.model.assert_equals(self.replay, chunk=5)

    def teardown(self) -> None:
        self.replay.close()
        self.directory.cleanup()


@pytest.mark.few(1)
@pytest.mark.parametrize("capacity", [None, 8])
def test_a_replay_equals_a_list_after_any_sequence_of_operations(
    capacity, make_rows, plain_model, no_sync
):
    machine = type(
        "Machine",
        (DiskReplayMachine,),
        {
            "capacity": capacity,
            "make_rows": staticmethod(make_rows),
            "plain_model": plain_model,
            "no_sync": no_sync,
        },
    )
    run = settings(
        max_examples=examples(10, 40),
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(machine, settings=run)
