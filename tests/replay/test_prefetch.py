"""Batches that a thread reads ahead: equal rows, errors for the caller, a clean end."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from bandexa_core.errors import ClosedError, ReplayError
from bandexa_core.replay import (
    DiskReplay,
    MemoryReplay,
    RowBuffers,
    RowLayout,
    training_batches,
)
from bandexa_core.replay.prefetch import PrefetchedBatches
from tests.fixtures.gpu import need_gpu

LAYOUTS = [RowLayout((3,), "uint8", 2), RowLayout((40, 40), "float32", 0)]


def _prefetch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("replay-")]


@pytest.fixture
def filled(tmp_path, make_rows, no_sync):
    """Return a function that opens a disk replay of 50 rows in shards of 8."""
    opened: list[DiskReplay] = []

    def _open(layout=LAYOUTS[0], **knobs) -> DiskReplay:
        root = tmp_path / f"replay-{len(opened)}"
        replay = DiskReplay(root, layout, shard_size=8, fs=no_sync, **knobs)
        opened.append(replay)
        replay.append(make_rows(layout, range(1, 51)))
        return replay

    yield _open
    for replay in opened:
        replay.close()
    assert _prefetch_threads() == []


def _drop_from_cache(replay: DiskReplay) -> None:
    replay.flush()
    for path in replay._root.glob("*.rows"):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_prefetched_rows_are_those_of_a_plain_loop(
    filled, assert_same, make_rows, layout, weighted
):
    """The generator ends in the same state, too."""
    replay = filled(layout)
    sums = np.cumsum(np.arange(50) ** 2.0) if weighted else None
    plain, ahead = np.random.default_rng(3), np.random.default_rng(3)
    expected = [replay.sample(plain, 16, sums) for _ in range(7)]
    with PrefetchedBatches(replay, ahead, 16, 7, sums) as batches:
        num = 0
        for rows, wanted in zip(batches, expected, strict=True):
            assert_same(rows, wanted)
            assert_same(rows, make_rows(layout, rows.positions))
            num += 1
    assert num == 7
    assert ahead.random() == plain.random()


@pytest.mark.few(12)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("cache_shards", [1, 3, 16])
@pytest.mark.parametrize("read_threads", [1, 2, 8])
@pytest.mark.parametrize("asks_the_cache", [True, False])
def test_rows_outside_the_page_cache_come_back_bit_for_bit(
    filled, make_rows, assert_same, monkeypatch, layout, cache_shards, read_threads, asks_the_cache
):
    """Without a report of the system on what is cached, threads read everything."""
    if not asks_the_cache:
        monkeypatch.setattr("bandexa_core.replay._shards._CACHED_ONLY", None)
    replay = filled(layout, cache_shards=cache_shards, read_threads=read_threads)
    rng = np.random.default_rng(0)
    for batch_size in (1, 5, 60):
        _drop_from_cache(replay)
        rows = replay.sample(rng, batch_size)
        assert_same(rows, make_rows(layout, rows.positions))
    _drop_from_cache(replay)
    assert_same(next(replay.scan(100)), make_rows(layout, range(1, 51)))


def test_a_batch_is_valid_until_the_next_is_requested(filled, make_rows, assert_same):
    replay = filled()
    with PrefetchedBatches(replay, np.random.default_rng(0), 8, 6) as batches:
        first, second, third = next(batches), next(batches), next(batches)
        assert_same(third, make_rows(replay.layout, third.positions))
        fourth = next(batches)
        assert np.shares_memory(fourth.contexts, first.contexts)
        for held in (second, third):
            assert not np.shares_memory(fourth.contexts, held.contexts)


def test_batches_are_read_ahead_only_into_free_buffers(filled):
    """With three buffers, two more draws may follow while the first batch is in use."""
    rng, plain = np.random.default_rng(0), np.random.default_rng(0)
    batches = PrefetchedBatches(filled(), rng, 8, 100)
    next(batches)
    batches.close()
    allowed = []
    for _ in range(3):
        plain.integers(1, 51, 8)
        allowed.append(plain.bit_generator.state)
    assert rng.bit_generator.state in allowed


def test_the_given_allocator_returns_the_buffers(filled):
    made: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        made.append(np.zeros(shape, dtype))
        return made[-1]

    with PrefetchedBatches(filled(), np.random.default_rng(0), 4, 9, allocate=allocate) as batches:
        used = [next(batches).contexts for _ in range(9)]
    assert len(made) == 6  # three batches of actions and contexts
    assert all(any(array is one for one in made) for array in used)


def test_an_error_is_raised_where_the_batch_is_requested(tmp_path, layout):
    with (
        DiskReplay(tmp_path / "empty", layout) as replay,
        PrefetchedBatches(replay, np.random.default_rng(0), 4, 5) as batches,
    ):
        with pytest.raises(ValueError, match="empty"):
            next(batches)
        with pytest.raises(StopIteration):
            next(batches)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("read_threads", [1, 8])
def test_a_torn_row_is_a_replay_error_in_the_requesting_thread(filled, layout, read_threads):
    replay = filled(layout, read_threads=read_threads)
    replay.flush()
    for path in replay._root.glob("*.rows"):
        os.truncate(path, path.stat().st_size - 1)
    with (
        PrefetchedBatches(replay, np.random.default_rng(0), 200, 5) as batches,
        pytest.raises(ReplayError, match="ends before row"),
    ):
        next(batches)


def test_an_error_in_the_with_block_ends_the_thread(filled):
    def train() -> None:
        with PrefetchedBatches(filled(), np.random.default_rng(0), 8, 1000) as batches:
            next(batches)
            raise RuntimeError("training went wrong")

    with pytest.raises(RuntimeError, match="training"):
        train()
    assert _prefetch_threads() == []


def test_after_close_batches_are_refused_and_the_replay_can_be_used_again(filled, make_rows):
    replay = filled()
    batches = PrefetchedBatches(replay, np.random.default_rng(0), 8, 1000)
    batches.close()
    batches.close()
    with pytest.raises(ClosedError, match="closed"):
        next(batches)
    replay.append(make_rows(replay.layout, range(51, 60)))
    assert len(replay) == 59


def test_a_replay_closed_while_reading_is_a_named_error(filled):
    replay = filled()
    with PrefetchedBatches(replay, np.random.default_rng(0), 8, 10_000) as batches:
        replay.close()
        with pytest.raises((ClosedError, ReplayError)):
            for _ in batches:
                pass


@pytest.mark.parametrize(("name", "numbers"), [("batch_size", (0, 1)), ("num_batches", (1, 0))])
def test_numbers_below_one_are_refused(filled, name, numbers):
    with pytest.raises(ValueError, match=name):
        PrefetchedBatches(filled(), np.random.default_rng(0), *numbers)


def test_only_a_replay_on_disk_is_read_ahead(filled, make_rows, assert_same):
    disk, memory = filled(), MemoryReplay(LAYOUTS[0])
    memory.append(make_rows(LAYOUTS[0], range(1, 51)))
    with (
        training_batches(disk, np.random.default_rng(1), 8, 5) as ahead,
        training_batches(memory, np.random.default_rng(1), 8, 5) as plain,
    ):
        assert len(_prefetch_threads()) == 1
        for one, two in zip(ahead, plain, strict=True):
            assert_same(one, two)


def test_a_read_overlaps_with_the_use_of_the_batch_before(filled):
    """The next batches become ready while the first one is in use."""
    with PrefetchedBatches(filled(), np.random.default_rng(0), 8, 3) as batches:
        next(batches)
        deadline = time.monotonic() + 20
        while batches._ready.qsize() < 2:
            assert time.monotonic() < deadline
            os.sched_yield()


@pytest.mark.gpu
def test_pinned_buffers_reach_the_device_unchanged(filled, make_rows):
    from bandexa_core.training.encoder_trainer import _pinned

    need_gpu()
    replay = filled(LAYOUTS[1])
    rng = np.random.default_rng(0)
    with PrefetchedBatches(replay, rng, 16, 20, allocate=_pinned) as batches:
        for rows in batches:
            contexts = torch.from_numpy(rows.contexts)
            assert contexts.is_pinned()
            expected = make_rows(LAYOUTS[1], rows.positions).contexts
            assert np.array_equal(contexts.to("cuda").cpu().numpy(), expected)


def _wrong(**changes: Any) -> RowBuffers:
    arrays: dict[str, Any] = {
        "actions": np.empty((4, 2), np.float32),
        "contexts": np.empty((4, 3), np.uint8),
    }
    return RowBuffers(**arrays | changes)


@pytest.mark.parametrize(
    "out",
    [
        _wrong(actions=np.empty((4, 3), np.float32)),
        _wrong(actions=np.empty((4, 2), np.float64)),
        _wrong(contexts=np.empty((5, 3), np.uint8)),
        _wrong(contexts=np.empty((4, 3), np.int8)),
        _wrong(contexts=np.empty((3, 4), np.uint8).T),
        _wrong(contexts=np.frombuffer(bytes(12), np.uint8).reshape(4, 3)),
    ],
)
@pytest.mark.parametrize("backend", ["memory", "disk"])
def test_buffers_that_do_not_fit_are_refused(filled, make_rows, backend, out):
    replay = filled() if backend == "disk" else MemoryReplay(LAYOUTS[0])
    if backend == "memory":
        replay.append(make_rows(LAYOUTS[0], range(1, 51)))
    with pytest.raises(ValueError, match=r"out\.(actions|contexts)"):
        replay.sample(np.random.default_rng(0), 4, out=out)
    fitting = _wrong()
    rows = replay.sample(np.random.default_rng(0), 4, out=fitting)
    assert rows.contexts is fitting.contexts
    assert rows.actions is fitting.actions
