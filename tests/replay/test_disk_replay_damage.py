"""Directories of a disk replay that are torn, damaged or of another layout."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from bandexa_core.errors import ReplayError
from bandexa_core.replay import DiskReplay, RowLayout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "replay"


def test_rows_after_the_last_flush_are_cut_off_wherever_they_are_torn(
    root, tmp_path, layout, make_rows, plain_model, no_sync
):
    """Reopening starts from the last flush, however much a crash leaves of the next record."""
    model = plain_model(layout)
    model.append(make_rows(layout, range(1, 7)))
    with DiskReplay(root, layout, shard_size=4, fs=no_sync) as replay:
        replay.append(make_rows(layout, range(1, 7)))
        replay.mark_followed(6)
        replay.flush()
        replay.append(make_rows(layout, [7]))
        image = shutil.copytree(root, tmp_path / "image")
    shard = image / "shard-00000001.rows"
    assert shard.stat().st_size == 3 * layout.row_bytes
    whole = model.all(), make_rows(layout, range(7, 12))
    for torn in range(layout.row_bytes + 1):
        left = shutil.copytree(image, tmp_path / f"torn-{torn}")
        os.truncate(left / shard.name, 3 * layout.row_bytes - torn)
        with DiskReplay(left, layout, shard_size=4, fs=no_sync) as replay:
            assert replay.followed == 6
            assert (left / shard.name).stat().st_size == 2 * layout.row_bytes
            model.assert_equals(replay)
            replay.append(whole[1])
            assert len(replay) == len(whole[0]) + len(whole[1])
        with DiskReplay(left, layout, shard_size=4, fs=no_sync) as replay:
            assert next(replay.scan(50)).positions.tolist() == list(range(1, 12))


def test_a_flushed_row_that_is_torn_at_any_byte_is_refused(root, layout, make_rows, no_sync):
    with DiskReplay(root, layout, shard_size=4, fs=no_sync) as replay:
        replay.append(make_rows(layout, range(1, 7)))
    shard = root / "shard-00000001.rows"
    for num_bytes in range(2 * layout.row_bytes - 1, -1, -1):
        os.truncate(shard, num_bytes)
        with pytest.raises(ReplayError, match=r"shard-00000001.rows has \d+ of \d+ bytes"):
            DiskReplay(root, layout, shard_size=4, fs=no_sync)
    shard.unlink()
    with pytest.raises(ReplayError, match=r"shard-00000001.rows is missing"):
        DiskReplay(root, layout, shard_size=4, fs=no_sync)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_middle_shard_is_refused(root, layout, make_rows, damage):
    with DiskReplay(root, layout, shard_size=4) as replay:
        replay.append(make_rows(layout, range(1, 15)))
    shard = root / "shard-00000001.rows"
    if damage == "missing":
        shard.unlink()
    else:
        os.truncate(shard, 4 * layout.row_bytes - 1)
    with pytest.raises(ReplayError, match=r"shard-00000001.rows .*delete"):
        DiskReplay(root, layout, shard_size=4)


def test_positions_that_do_not_increase_are_refused(root, layout, make_rows):
    with DiskReplay(root, layout) as replay:
        replay.append(make_rows(layout, range(1, 5)))
    with (root / "shard-00000000.rows").open("r+b") as file:
        file.seek(2 * layout.row_bytes)
        file.write(bytes(8))
    with pytest.raises(ReplayError, match="do not increase"):
        DiskReplay(root, layout)


@pytest.mark.parametrize(
    ("other", "shard_size"),
    [
        (RowLayout((4,), "uint8", 2), 8),
        (RowLayout((3, 1), "uint8", 2), 8),
        (RowLayout((3,), "float32", 2), 8),
        (RowLayout((3,), "uint8", 1), 8),
        (RowLayout((3,), "uint8", 2), 9),
    ],
)
def test_another_layout_is_refused_and_the_directory_does_not_change(
    root, layout, make_rows, plain_model, other, shard_size
):
    with DiskReplay(root, layout, shard_size=8) as replay:
        replay.append(make_rows(layout, range(1, 10)))
    with pytest.raises(ReplayError, match="instead of"):
        DiskReplay(root, other, shard_size=shard_size)
    model = plain_model(layout)
    model.append(make_rows(layout, range(1, 10)))
    with DiskReplay(root, layout, shard_size=8) as replay:
        model.assert_equals(replay)


@pytest.mark.parametrize("corrected", [False, True])
def test_a_scan_finds_a_changed_byte_anywhere_in_a_row(root, layout, make_rows, no_sync, corrected):
    with DiskReplay(root, layout, shard_size=4, fs=no_sync) as replay:
        replay.append(make_rows(layout, range(1, 4)))
        if corrected:
            replay.correct(np.array([2]), np.array([0.75]))
    shard = root / "shard-00000000.rows"
    whole = shard.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        shard.write_bytes(damaged)
        with pytest.raises(ReplayError), DiskReplay(root, layout, shard_size=4, fs=no_sync) as it:
            list(it.scan(2))
    shard.write_bytes(whole)
    with DiskReplay(root, layout, shard_size=4, fs=no_sync) as replay:
        assert sum(len(rows) for rows in replay.scan(2)) == 3


def test_another_format_is_refused(root, layout):
    DiskReplay(root, layout).close()
    path = root / "replay.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "format": 1}))
    with pytest.raises(ReplayError, match="'format': 1"):
        DiskReplay(root, layout)


def test_a_torn_state_file_is_refused_at_every_byte(root, layout, make_rows, no_sync):
    with DiskReplay(root, layout, fs=no_sync) as replay:
        replay.append(make_rows(layout, range(1, 5)))
    path = root / "replay.json"
    data = path.read_bytes()
    for num_bytes in range(len(data)):
        path.write_bytes(data[:num_bytes])
        with pytest.raises(ReplayError, match=r"replay\.json"):
            DiskReplay(root, layout, fs=no_sync)
    path.unlink()
    with pytest.raises(ReplayError, match=r"replay\.json is missing"):
        DiskReplay(root, layout, fs=no_sync)


@pytest.mark.parametrize(
    "state",
    [
        {"first": 3, "end": 2, "evicted_through": -1, "followed": 0},
        {"first": -1, "end": 2, "evicted_through": -1, "followed": 0},
        {"first": 0, "end": "2", "evicted_through": -1, "followed": 0},
        {"first": 0, "end": 2.0, "evicted_through": -1, "followed": 0},
        {"first": 0, "end": 0, "evicted_through": -1, "followed": -4},
        {"first": 0, "end": 0, "followed": 0},
        [0, 0, -1, 0],
        None,
    ],
)
def test_an_invalid_state_file_is_refused(root, layout, state):
    DiskReplay(root, layout).close()
    path = root / "replay.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": state}))
    with pytest.raises(ReplayError, match="damaged"):
        DiskReplay(root, layout)


def test_a_shard_deleted_while_open_is_a_replay_error(root, layout, make_rows):
    with DiskReplay(root, layout, shard_size=2, cache_shards=1) as replay:
        replay.append(make_rows(layout, range(1, 8)))
        (root / "shard-00000000.rows").unlink()
        with pytest.raises(ReplayError, match="shard-00000000"):
            list(replay.scan(10))


def test_a_shard_truncated_while_open_is_a_replay_error(root, layout, make_rows):
    with DiskReplay(root, layout) as replay:
        replay.append(make_rows(layout, range(1, 8)))
        os.truncate(root / "shard-00000000.rows", 100)
        with pytest.raises(ReplayError, match="ends before"):
            list(replay.scan(10))


def test_a_root_that_cannot_be_created_is_refused(tmp_path, layout):
    (tmp_path / "file").touch()
    with pytest.raises(ReplayError, match="cannot open"):
        DiskReplay(tmp_path / "file" / "replay", layout)
