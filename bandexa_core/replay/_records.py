"""The records in the shard files of a disk replay: layout and checksums. Pure functions.

A record is packed and little endian: position int64, slot int64, reward float64, CRC-32 of the
reward, CRC-32 of all other fields, A action features, context. The reward has a checksum of
its own because corrections rewrite it alone.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bandexa_core.replay.protocol import RowLayout, Rows

HEADER = np.dtype(
    [
        ("position", "<i8"),
        ("slot", "<i8"),
        ("reward", "<f8"),
        ("reward_sum", "<u4"),
        ("row_sum", "<u4"),
    ]
)
REWARD_OFFSET = 16


def record_dtype(layout: RowLayout) -> np.dtype[np.void]:
    """Return the dtype of one record."""
    return np.dtype(
        [
            *((name, HEADER[name]) for name in HEADER.names or ()),
            ("action", np.dtype(layout.action_dtype).newbyteorder("<"), (layout.action_dim,)),
            ("context", np.dtype(layout.context_dtype).newbyteorder("<"), layout.context_shape),
        ]
    )


def records_of(rows: Rows, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """Return rows as records with their checksums."""
    records = np.empty(len(rows), dtype)
    records["position"] = rows.positions
    records["slot"] = rows.slots
    records["reward"] = rows.rewards
    records["reward_sum"] = _reward_sums(records["reward"])
    records["action"] = rows.actions
    records["context"] = rows.contexts
    records["row_sum"] = _row_sums(records, records["action"], records["context"])
    return records


def reward_fields(rewards: NDArray[np.float64]) -> NDArray[np.void]:
    """Return rewards with their checksums, as records have them at REWARD_OFFSET."""
    fields = np.empty(len(rewards), [("reward", "<f8"), ("reward_sum", "<u4")])
    fields["reward"], fields["reward_sum"] = rewards, _reward_sums(rewards)
    return fields


def are_intact(headers: NDArray[np.void], rows: Rows) -> NDArray[np.bool_]:
    """Return whether each row agrees with the checksums in its header."""
    intact: NDArray[np.bool_] = (
        _row_sums(headers, rows.actions, rows.contexts) == headers["row_sum"]
    )
    intact &= _reward_sums(rows.rewards) == headers["reward_sum"]
    return intact


def bytes_of(array: NDArray[np.generic]) -> memoryview:
    """Return the bytes of a contiguous one-dimensional array, sharing its memory."""
    return memoryview(array.view(np.uint8).data)


def _reward_sums(rewards: NDArray[np.float64]) -> NDArray[np.uint32]:
    raw = np.ascontiguousarray(rewards, "<f8").tobytes()
    sums = [crc32(raw[at : at + 8]) for at in range(0, len(raw), 8)]
    return np.array(sums, np.uint32)


def _row_sums(
    headers: NDArray[np.void], actions: NDArray[Any], contexts: NDArray[Any]
) -> NDArray[np.uint32]:
    """Return the checksum of position, slot, features and context of each row."""
    sums = np.empty(len(headers), np.uint32)
    heads = np.stack([headers["position"], headers["slot"]], axis=1, dtype="<i8")
    for row in range(len(headers)):
        part = crc32(actions[row].data, crc32(heads[row].data))
        sums[row] = crc32(np.ascontiguousarray(contexts[row]).data, part)
    return sums
