"""The disk replay alone: reopening, eviction, descriptors, the lock, the order of steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

import bandexa_core
from bandexa_core.errors import ReplayError, ReplayLocked
from bandexa_core.replay import DiskReplay, RowLayout


def _shards(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("shard-*"))


def _open_files(root: Path) -> list[str]:
    links = Path("/proc/self/fd").iterdir()
    targets = [os.readlink(link) for link in links if link.is_symlink()]
    return [Path(target).name for target in targets if target.startswith(f"{root}/")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "replay"


@pytest.mark.parametrize(
    "layout",
    [
        RowLayout((), "float32", 0),
        RowLayout((3,), "uint8", 0),
        RowLayout((2, 3), "float64", 5),
        RowLayout((40, 20), "float32", 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("shard_size", [1, 7, 2048])
def test_reopening_restores_every_value(root, layout, shard_size, plain_model, make_rows):
    model = plain_model(layout)
    with DiskReplay(root, layout, shard_size=shard_size) as replay:
        for each in (model, replay):
            each.append(make_rows(layout, range(1, 20)))
            each.append(make_rows(layout, [5, 19, 30, 2**62], salt=9))
            each.correct(np.array([1, 7, 30]), np.array([-1e300, 5e-324, -0.0]))
        replay.mark_followed(2**62)
    for _ in range(2):
        with DiskReplay(root, layout, shard_size=shard_size, cache_shards=1) as replay:
            assert replay.followed == 2**62
            model.assert_equals(replay)
            with pytest.raises(ValueError, match="not stored"):
                replay.append(make_rows(layout, [29]))


def test_a_row_is_a_packed_little_endian_record(root, make_rows):
    """Position, slot, reward and two checksums, then actions, then the context, without gaps."""
    layout = RowLayout((2,), "uint8", 1)
    rows = make_rows(layout, [1, 9])
    with DiskReplay(root, layout) as replay:
        replay.append(rows)
    expected = b""
    for i in range(2):
        head = rows.positions[i].astype("<i8").tobytes() + rows.slots[i].astype("<i8").tobytes()
        reward = rows.rewards[i].astype("<f8").tobytes()
        rest = rows.actions[i].astype("<f4").tobytes() + rows.contexts[i].tobytes()
        sums = (crc32(reward), crc32(head + rest))
        expected += head + reward + np.array(sums, "<u4").tobytes() + rest
    assert (root / "shard-00000000.rows").read_bytes() == expected
    assert len(expected) == 2 * layout.row_bytes


def test_long_runs_are_read_in_pieces(root, assert_same, make_rows):
    """A run of 2,000 neighbours has more buffers than one preadv call takes."""
    layout = RowLayout((1,), "uint8", 1)
    rows = make_rows(layout, range(1, 2001))
    with DiskReplay(root, layout, shard_size=1500) as replay:
        replay.append(rows)
        assert_same(next(replay.scan(5000)), rows)
        sample = replay.sample(np.random.default_rng(0), 10_000)
        assert_same(sample, make_rows(layout, sample.positions))


def test_a_flush_deletes_evicted_shards(root, layout, make_rows, no_sync):
    with DiskReplay(root, layout, shard_size=4, capacity=6, flush_every=3, fs=no_sync) as replay:
        for start in range(1, 100, 3):
            replay.append(make_rows(layout, range(start, start + 3)))
            assert len(_shards(root)) <= 3
        replay.flush()
        assert _shards(root) == ["shard-00000023.rows", "shard-00000024.rows"]
        assert replay.num_bytes == sum((root / n).stat().st_size for n in _shards(root))
    with DiskReplay(root, layout, shard_size=4, capacity=6, fs=no_sync) as replay:
        assert next(replay.scan(10)).positions.tolist() == list(range(94, 100))
        replay.append(make_rows(layout, range(90, 100)))
        assert len(replay) == 6


def test_opening_with_a_smaller_capacity_evicts(root, layout, make_rows, assert_same):
    with DiskReplay(root, layout, shard_size=4) as replay:
        replay.append(make_rows(layout, range(1, 20)))
    with DiskReplay(root, layout, shard_size=4, capacity=5) as replay:
        assert_same(next(replay.scan(10)), make_rows(layout, range(15, 20)))
    assert _shards(root) == ["shard-00000003.rows", "shard-00000004.rows"]
    with DiskReplay(root, layout, shard_size=4, capacity=50) as replay:
        assert len(replay) == 5


def test_one_append_far_beyond_the_capacity_skips_shards(root, layout, make_rows, assert_same):
    with DiskReplay(root, layout, shard_size=4, capacity=5) as replay:
        replay.append(make_rows(layout, range(1, 4)))
        replay.append(make_rows(layout, range(4, 60)))
        assert_same(next(replay.scan(10)), make_rows(layout, range(55, 60)))
    with DiskReplay(root, layout, shard_size=4, capacity=5) as replay:
        replay.append(make_rows(layout, [60]))
        assert_same(next(replay.scan(10)), make_rows(layout, range(56, 61)))


@pytest.mark.parametrize("cache_shards", [1, 2, 5])
def test_the_number_of_open_shards_is_bounded_and_all_are_closed_at_the_end(
    root, layout, make_rows, cache_shards, no_sync
):
    replay = DiskReplay(root, layout, shard_size=2, cache_shards=cache_shards, fs=no_sync)
    rng = np.random.default_rng(0)
    for start in range(1, 60, 6):
        replay.append(make_rows(layout, range(start, start + 6)))
        replay.sample(rng, 30)
        replay.correct(np.arange(1, start, 5), np.zeros(len(range(1, start, 5))))
        list(replay.scan(7))
        open_files = _open_files(root)
        assert sum(name.endswith(".rows") for name in open_files) <= cache_shards
        assert len(open_files) <= cache_shards + 1
    replay.close()
    assert _open_files(root) == []


def test_a_failed_opening_leaves_no_open_files(root, layout, make_rows):
    with DiskReplay(root, layout) as replay:
        replay.append(make_rows(layout, range(1, 9)))
    os.truncate(root / "shard-00000000.rows", 3)
    with pytest.raises(ReplayError, match="has 3 of"):
        DiskReplay(root, layout)
    assert _open_files(root) == []


def test_a_second_opener_in_this_process_is_refused_until_close(root, layout, make_rows):
    first = DiskReplay(root, layout)
    with pytest.raises(ReplayLocked, match="is open") as refused:
        DiskReplay(root, layout)
    # Callers answer a ReplayError by deleting the directory; an open one must not be deleted.
    assert not isinstance(refused.value, ReplayError)
    first.append(make_rows(layout, [1]))
    first.close()
    with DiskReplay(root, layout) as second:
        assert len(second) == 1


def test_a_second_process_is_refused_until_the_first_is_killed(root, layout):
    program = (
        "import sys, pathlib; from bandexa_core.replay import *;"
        "replay = DiskReplay(pathlib.Path(sys.argv[1]), RowLayout((3,), 'uint8', 2));"
        "print('open', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(bandexa_core.__file__).parents[1])},
    )
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"open\n"
            with pytest.raises(ReplayLocked, match="is open"):
                DiskReplay(root, layout)
        finally:
            child.kill()
        child.wait()
    DiskReplay(root, layout).close()


def test_rows_are_flushed_every_flush_every_rows(root, layout, make_rows, lossy_file_system):
    fs = lossy_file_system()
    with DiskReplay(root, layout, flush_every=5, fs=fs) as replay:
        flushes = []
        for position in range(1, 12):
            fs.calls.clear()
            replay.append(make_rows(layout, [position]))
            flushes.append(("rename", "replay.json") in fs.calls)
        assert flushes == [False] * 4 + [True] + [False] * 4 + [True, False]
        fs.calls.clear()
        replay.correct(np.arange(1, 5), np.zeros(4))
        assert ("rename", "replay.json") in fs.calls
        fs.calls.clear()
        replay.flush()
        assert fs.calls == []  # nothing has changed
        replay.mark_followed(12)
        replay.flush()
        assert ("rename", "replay.json") in fs.calls


def test_a_flush_syncs_rows_then_the_state_and_then_deletes_shards(
    root, layout, make_rows, lossy_file_system
):
    fs = lossy_file_system()
    replay = DiskReplay(root, layout, shard_size=2, cache_shards=9, capacity=2, fs=fs)
    replay.append(make_rows(layout, range(1, 3)))
    replay.flush()
    replay.append(make_rows(layout, range(3, 6)))
    fs.calls.clear()
    replay.flush()
    assert fs.calls == [
        ("sync_file", "shard-00000001.rows"),
        ("sync_file", "shard-00000002.rows"),
        ("sync_dir", "replay"),
        ("create", "replay.json.tmp"),
        ("truncate", "replay.json.tmp"),
        ("write", "replay.json.tmp"),
        ("sync_file", "replay.json.tmp"),
        ("rename", "replay.json"),
        ("sync_dir", "replay"),
        ("remove_file", "shard-00000000.rows"),
    ]
    replay.close()


def test_a_written_shard_is_synced_before_its_file_is_closed(
    root, layout, make_rows, lossy_file_system
):
    fs = lossy_file_system()
    with DiskReplay(root, layout, shard_size=2, cache_shards=1, fs=fs) as replay:
        fs.calls.clear()
        replay.append(make_rows(layout, range(1, 4)))
        assert fs.calls == [
            ("create", "shard-00000000.rows"),
            ("write", "shard-00000000.rows"),
            ("sync_file", "shard-00000000.rows"),
            ("create", "shard-00000001.rows"),
            ("write", "shard-00000001.rows"),
        ]


@pytest.mark.parametrize("failing", ["append", "correct", "flush", "sample", "close"])
def test_after_a_failed_write_the_replay_must_be_opened_again(
    root, layout, make_rows, plain_model, lossy_file_system, failing
):
    fs = lossy_file_system()
    replay = DiskReplay(root, layout, shard_size=4, cache_shards=1, fs=fs)
    replay.append(make_rows(layout, range(1, 7)))
    replay.flush()
    replay.append(make_rows(layout, [7]))
    fs.stop_at = 1
    with pytest.raises(ReplayError, match="stopped before"):
        {
            "append": lambda: replay.append(make_rows(layout, [8])),
            "correct": lambda: replay.correct(np.array([1]), np.array([1.0])),
            "flush": replay.flush,
            "sample": lambda: replay.sample(np.random.default_rng(0), 50),
            "close": replay.close,
        }[failing]()
    fs.stop_at = None
    if failing != "close":
        for use in (replay.flush, lambda: len(replay), lambda: next(replay.scan(1))):
            with pytest.raises(ReplayError, match="open it again"):
                use()
    replay.close()
    assert _open_files(root) == []
    model = plain_model(layout)
    model.append(make_rows(layout, range(1, 7)))
    with DiskReplay(root, layout, shard_size=4) as replay:
        model.assert_equals(replay)


@pytest.mark.parametrize(
    "knob", ["shard_size", "cache_shards", "flush_every", "capacity", "read_threads"]
)
def test_knobs_below_one_are_refused(root, layout, knob):
    with pytest.raises(ValueError, match=knob):
        DiskReplay(root, layout, **{knob: 0})  # type: ignore[arg-type]
    assert not root.exists()
