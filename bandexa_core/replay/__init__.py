"""The replay: rewarded decisions as training rows, derived from the log and disposable.

`MemoryReplay` and `DiskReplay` implement one protocol, under one suite of tests. The trainer opens
a replay with `open_replay` and draws its batches with `training_batches`. `protocol` states what
holds after a crash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bandexa_core.filesystem import FileSystem
from bandexa_core.replay.disk import DiskReplay
from bandexa_core.replay.evicted import Evicted, ExtendedReplay
from bandexa_core.replay.memory import MemoryReplay
from bandexa_core.replay.prefetch import training_batches
from bandexa_core.replay.protocol import (
    ContextDtype,
    LearnedRows,
    Replay,
    RowBuffers,
    RowLayout,
    Rows,
    RowWeights,
    TrainingRows,
)
from bandexa_core.replay.share import RankShare

__all__ = [
    "ContextDtype",
    "DiskReplay",
    "Evicted",
    "ExtendedReplay",
    "LearnedRows",
    "MemoryReplay",
    "RankShare",
    "Replay",
    "RowBuffers",
    "RowLayout",
    "RowWeights",
    "Rows",
    "TrainingRows",
    "open_replay",
    "training_batches",
]

Backend = Literal["auto", "memory", "disk"]

_AUTO_TOTAL_BYTES = 256 * 2**20
_AUTO_ROW_BYTES = 16 * 2**10


def open_replay(
    backend: Backend,
    root: Path,
    layout: RowLayout,
    *,
    shard_size: int = 2048,
    cache_shards: int = 16,
    flush_every: int = 256,
    capacity: int | None = None,
    capacity_bytes: int | None = None,
    fs: FileSystem | None = None,
) -> Replay:
    """Open a replay with the backend of that name.

    `capacity` limits the number of rows and `capacity_bytes` their size, at `layout.row_bytes`
    each; the smaller limit holds. `DiskReplay` describes the other arguments.

    `auto` stores rows in memory when they are small: with a limit, when a full replay takes at most
    256 MiB; without one, when a row takes at most 16 KiB. Otherwise it stores them on disk. The
    memory backend does not use `root`.

    Raises:
        ValueError: The backend is unknown, a number is below 1, or a limit is less than one row.
        ReplayError: The directory cannot be opened (see `DiskReplay`).
    """
    if backend not in ("auto", "memory", "disk"):
        raise ValueError(f"replay backend must be auto, memory or disk, not {backend!r}")
    num_rows = _rows_allowed(layout, capacity, capacity_bytes)
    if backend == "memory" or (backend == "auto" and _fits_memory(layout, num_rows)):
        return MemoryReplay(layout, num_rows)
    return DiskReplay(
        root,
        layout,
        shard_size=shard_size,
        cache_shards=cache_shards,
        flush_every=flush_every,
        capacity=num_rows,
        fs=fs,
    )


def _rows_allowed(
    layout: RowLayout, capacity: int | None, capacity_bytes: int | None
) -> int | None:
    if capacity_bytes is None:
        return capacity
    if capacity_bytes < layout.row_bytes:
        raise ValueError(
            f"capacity_bytes must hold a row of {layout.row_bytes} bytes, not {capacity_bytes}"
        )
    num_rows = capacity_bytes // layout.row_bytes
    return num_rows if capacity is None else min(capacity, num_rows)


def _fits_memory(layout: RowLayout, num_rows: int | None) -> bool:
    if num_rows is None:
        return layout.row_bytes <= _AUTO_ROW_BYTES
    return num_rows * layout.row_bytes <= _AUTO_TOTAL_BYTES
