"""A capacity in bytes, alone and beside one in rows, for every backend."""

from __future__ import annotations

from typing import Any

import pytest

from bandexa_core.replay import Replay, open_replay


@pytest.fixture(params=["auto", "memory", "disk"])
def open_at(request, tmp_path, layout, no_sync):
    """Return a function that opens the replay of the test; on disk it has shards of 4 rows."""

    def _open(**capacities: Any) -> Replay:
        root, knobs = tmp_path / "replay", {"shard_size": 4, "flush_every": 3, "fs": no_sync}
        return open_replay(request.param, root, layout, **knobs, **capacities)

    return _open


@pytest.mark.parametrize(
    ("capacity", "capacity_bytes", "num_left"),
    [(None, 6 * 43, 6), (None, 7 * 43 - 1, 6), (4, 6 * 43, 4), (6, 4 * 43, 4), (None, 43, 1)],
)
def test_the_newest_rows_remain(
    open_at, layout, make_rows, join, assert_same, capacity, capacity_bytes, num_left
):
    """A row takes 32 bytes, 8 for two features and 3 for the context. The smaller limit holds."""
    assert layout.row_bytes == 43
    with open_at(capacity=capacity, capacity_bytes=capacity_bytes) as replay:
        for position in range(1, 30, 3):
            replay.append(make_rows(layout, range(position, position + 3)))
            assert len(replay) == min(position + 2, num_left)
        newest = make_rows(layout, range(31 - num_left, 31))
        assert_same(join(list(replay.scan(4)), layout), newest)
        replay.append(make_rows(layout, range(1, 31)))  # the log, followed again
        assert_same(join(list(replay.scan(4)), layout), newest)


@pytest.mark.parametrize("capacity_bytes", [0, -5, 42])
def test_a_capacity_of_less_than_one_row_is_refused(open_at, tmp_path, capacity_bytes):
    with pytest.raises(ValueError, match="capacity_bytes must hold a row of 43 bytes"):
        open_at(capacity_bytes=capacity_bytes)
    assert list(tmp_path.iterdir()) == []


def test_files_exceed_the_capacity_by_at_most_a_shard_and_a_flush(
    tmp_path, layout, make_rows, no_sync
):
    root = tmp_path / "replay"
    with open_replay(
        "disk", root, layout, shard_size=4, flush_every=2, capacity_bytes=10 * 43, fs=no_sync
    ) as replay:
        for position in range(1, 60):
            replay.append(make_rows(layout, [position]))
            stored = sum(path.stat().st_size for path in root.glob("*.rows"))
            assert stored <= (10 + 4 + 2) * 43


def test_opening_with_a_smaller_capacity_evicts(tmp_path, layout, make_rows, no_sync):
    knobs: dict[str, Any] = {"shard_size": 4, "fs": no_sync}
    root = tmp_path / "replay"
    with open_replay("disk", root, layout, **knobs) as replay:
        replay.append(make_rows(layout, range(1, 20)))
    with open_replay("disk", root, layout, capacity_bytes=5 * 43, **knobs) as replay:
        assert replay.positions().tolist() == [15, 16, 17, 18, 19]
