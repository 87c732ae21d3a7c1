"""The hash of a log: equal logs have equal hashes, whatever store holds them.

The rows of a log form groups. Each row has a hash of its own, a leaf. The hash of the log up to the
end of a group covers the hash before the group, the group's rule and its leaves. Only the end of a
group has one, so that snapshots stand there.

What a leaf covers of a row is fixed here too: its numbers, and its metrics if it has some, for a
learn row and for one that voids a value; for any other row its payload, the bytes that
`pack_change` and `pack_json` make.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgpack
import numpy as np

from bandexa_core.ids import DecisionKey
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.rows import LearnRow, Metrics, VoidRow
from bandexa_core.replay import RowLayout
from service.store.objects import packed_rows, unpacked_rows
from service.store.packing import pack

KIND_LEARN, KIND_CATALOGUE, KIND_CONFIG, KIND_IMPORT, KIND_VOID = 1, 2, 3, 4, 5
ROW_BY_ROW, AS_BLOCK = 1, 2  # the rules by which a group is applied
MAX_GROUP = 64  # rows; a group is applied at once, and no select is drawn meanwhile
GENESIS_HASH = b""  # of a log without rows
HASH_BYTES = 16
_BOOL = np.dtype(np.bool_)


def rule_of(num_rows: int) -> int:
    """Return the rule of a group of so many learn rows."""
    return AS_BLOCK if num_rows > 1 else ROW_BY_ROW


def group_hash(previous: bytes, rule: int, leaves: Sequence[bytes]) -> bytes:
    """Return the hash of the log up to and including a group with these leaves."""
    whole = b"".join((previous, bytes((rule,)), *leaves))
    return blake2b(whole, digest_size=HASH_BYTES).digest()


def leaf_hash(row: Sequence[Any]) -> bytes:
    """Return the hash of one log row, given its position, kind, time and content."""
    return blake2b(pack(row), digest_size=HASH_BYTES).digest()


def row_content(kind: int, learned: Sequence[Any], payload: bytes | None) -> tuple[Any, ...]:
    """Return the part of a row's content that its hash covers.

    `learned` has the fields of a learn row, see `learned_content`.
    """
    if kind not in (KIND_LEARN, KIND_VOID):
        return (payload,)
    return tuple(learned) if payload is None else (*learned, payload)


def learned_content(key: DecisionKey, item: int, row: LearnRow) -> tuple[Any, ...]:
    """Return what the hash of a learn row covers: of chosen action `item` of decision `key`."""
    numbers = (key, item, row.origin, row.before, row.after, row.low, row.high)
    if row.metrics is row.metrics_before is None:
        return numbers
    return (*numbers, pack_log_metrics(row.metrics, row.metrics_before))


def void_content(key: DecisionKey, item: int, row: VoidRow) -> tuple[Any, ...]:
    """Return what the hash of a row covers that voids the value of a chosen action."""
    numbers = (key, item, row.origin, row.before, None, row.low, row.high)
    payload = pack_log_metrics(None, row.metrics)
    return numbers if payload is None else (*numbers, payload)


def pack_metrics(metrics: Metrics | None) -> bytes | None:
    """Encode metrics; equal ones to the same bytes."""
    return None if metrics is None else pack(metrics)


def unpack_metrics(blob: bytes | None) -> Metrics | None:
    """Decode `pack_metrics`."""
    return None if blob is None else _metrics(msgpack.unpackb(blob))


def pack_log_metrics(metrics: Metrics | None, before: Metrics | None) -> bytes | None:
    """Encode the metrics of a log row and those before it; None where there are none."""
    return None if metrics is before is None else pack((metrics, before))


def unpack_log_metrics(blob: bytes | None) -> tuple[Metrics | None, Metrics | None]:
    """Decode `pack_log_metrics`."""
    if blob is None:
        return None, None
    after, before = msgpack.unpackb(blob)
    return _metrics(after), _metrics(before)


def _metrics(pairs: list[list[Any]] | None) -> Metrics | None:
    return None if pairs is None else tuple((name, value) for name, value in pairs)


def pack_change(change: CatalogueChange) -> bytes:
    """Encode a catalogue change."""
    features = None if change.features is None else packed_rows(change.features)
    return pack((change.ids, features, change.enabled.tobytes()))


def unpack_change(blob: bytes, layout: RowLayout) -> CatalogueChange:
    """Decode `pack_change`, of a bandit with rows of this layout."""
    ids, features, enabled = msgpack.unpackb(blob)
    rows = None
    if features is not None:
        rows = unpacked_rows(features, len(ids), layout.action_dim)
    return CatalogueChange(tuple(ids), rows, np.frombuffer(enabled, _BOOL))


def pack_json(value: dict[str, Any]) -> bytes:
    """Encode a configuration, or a reference to a snapshot."""
    return json.dumps(value, sort_keys=True).encode()
