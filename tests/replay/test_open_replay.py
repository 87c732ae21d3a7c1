"""The backend that open_replay selects, and the arguments that it refuses."""

from __future__ import annotations

import pytest

from bandexa_core.replay import DiskReplay, MemoryReplay, RowLayout, open_replay


@pytest.mark.parametrize(
    ("backend", "shape", "capacity", "expected"),
    [
        ("memory", (1 << 20,), None, MemoryReplay),
        ("disk", (1,), 10, DiskReplay),
        ("auto", (1000,), None, MemoryReplay),
        ("auto", (16 * 1024 - 32,), None, MemoryReplay),
        ("auto", (16 * 1024 - 31,), None, DiskReplay),
        ("auto", (1 << 20,), 255, MemoryReplay),
        ("auto", (1 << 20,), 256, DiskReplay),
        ("auto", (1000,), 1_000_000, DiskReplay),
    ],
)
def test_auto_stores_small_replays_in_memory(tmp_path, backend, shape, capacity, expected):
    """Small means 256 MiB when full or, without a limit, 16 KiB per row, of which 32 are fixed."""
    root = tmp_path / "replay"
    with open_replay(backend, root, RowLayout(shape, "uint8", 0), capacity=capacity) as replay:
        assert type(replay) is expected
    assert root.exists() == (expected is DiskReplay)


@pytest.mark.parametrize(
    ("shape", "capacity", "capacity_bytes", "expected"),
    [
        ((1 << 20,), None, 256 << 20, MemoryReplay),
        ((1 << 20,), None, 300 << 20, DiskReplay),
        ((1 << 20,), 255, 300 << 20, MemoryReplay),
        ((1000,), None, 1 << 30, DiskReplay),
        ((1000,), 1_000_000, 1 << 20, MemoryReplay),
    ],
)
def test_auto_considers_a_capacity_in_bytes(tmp_path, shape, capacity, capacity_bytes, expected):
    """The smaller one of both limits determines the size of a full replay."""
    layout = RowLayout(shape, "uint8", 0)
    with open_replay(
        "auto", tmp_path / "r", layout, capacity=capacity, capacity_bytes=capacity_bytes
    ) as replay:
        assert type(replay) is expected


def test_an_unknown_backend_is_refused(tmp_path, layout):
    with pytest.raises(ValueError, match="backend"):
        open_replay("tape", tmp_path, layout)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "dtype", "action_dim"),
    [
        ((0,), "uint8", 0),
        ((2, -1), "uint8", 0),
        ([3], "uint8", 0),
        ((2.0,), "uint8", 0),
        ((3,), "int64", 0),
        ((3,), "uint8", -1),
        ((3,), "uint8", True),
    ],
)
def test_invalid_layouts_are_refused(shape, dtype, action_dim):
    with pytest.raises(ValueError, match=r"context_shape|context_dtype|action_dim"):
        RowLayout(shape, dtype, action_dim)
