"""The formats of the database's blobs (msgpack, arrays as raw bytes) and the hash of log rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any
from zlib import crc32

import msgpack
import numpy as np

from bandexa_core.ids import ActionId, ActionSlot
from bandexa_core.log.catalogue import CatalogueChange
from service.store.errors import StoreDamaged
from service.store.records import ChosenAction, DecisionRecord

KIND_LEARN, KIND_CATALOGUE, KIND_CONFIG, KIND_IMPORT = 1, 2, 3, 4
GENESIS_HASH = b""  # of a log without rows


def pack_chosen(chosen: Sequence[ChosenAction], context: bytes) -> bytes:
    """Encode the chosen actions of a decision, with checksums of its context and of them."""
    items = [(c.id, c.index, c.slot, c.features.tobytes(), c.score) for c in chosen]
    packed = msgpack.packb(items)
    return bytes(msgpack.packb((crc32(context), crc32(packed), packed)))


def unpack_chosen(
    decision_id: str, blob: bytes, context: bytes | None = None
) -> tuple[ChosenAction, ...]:
    """Decode `pack_chosen`; checks the context as well, where it is given.

    Raises:
        StoreDamaged: A checksum differs.
    """
    return tuple(
        ChosenAction(ActionId(i), index, ActionSlot(slot), np.frombuffer(f, np.float32), score)
        for i, index, slot, f, score in _items(decision_id, blob, context)
    )


def chosen_ids(decision_id: str, blob: bytes) -> tuple[ActionId, ...]:
    """Decode only the ids of `pack_chosen`.

    Raises:
        StoreDamaged: A checksum differs.
    """
    return tuple(ActionId(item[0]) for item in _items(decision_id, blob, None))


def _items(decision_id: str, blob: bytes, context: bytes | None) -> list[Any]:
    try:
        context_sum, packed_sum, packed = msgpack.unpackb(blob)
        if crc32(packed) != packed_sum or (context is not None and crc32(context) != context_sum):
            raise ValueError("its checksum differs")
        return list(msgpack.unpackb(packed))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise StoreDamaged(f"decision {decision_id} is not what was written") from error


def pack_candidates(record: DecisionRecord) -> bytes | None:
    """Encode the candidates of a decision; None where all enabled actions were offered."""
    if record.candidates is None:
        return None
    features = None if record.features is None else record.features.tobytes()
    return bytes(msgpack.packb((record.candidates, features)))


def pack_change(change: CatalogueChange) -> bytes:
    """Encode a catalogue change."""
    features = None if change.features is None else change.features.astype("<f4").tobytes()
    return bytes(msgpack.packb((change.ids, features, change.enabled.tobytes())))


def unpack_change(blob: bytes, action_dim: int) -> CatalogueChange:
    """Decode `pack_change`."""
    ids, features, enabled = msgpack.unpackb(blob)
    rows = None
    if features is not None:
        rows = np.frombuffer(features, "<f4").reshape(len(ids), action_dim)
    return CatalogueChange(tuple(ids), rows, np.frombuffer(enabled, np.bool_))


def pack_json(value: dict[str, Any]) -> bytes:
    """Encode a configuration, or a reference to a snapshot."""
    return json.dumps(value, sort_keys=True).encode()


def chain_hash(previous: bytes, row: Sequence[Any]) -> bytes:
    """Return the hash of the log up to and including `row`."""
    return blake2b(previous + msgpack.packb(row), digest_size=16).digest()


def hash_of_row(
    previous: bytes, position: int, kind: int, time: float, learned: Sequence[Any],
    payload: bytes | None,
) -> bytes:  # fmt: skip
    """Return the hash that a log row must have after the hash `previous`.

    `learned` holds the fields of a learn row. The hash of an import row does not cover its payload:
    the snapshot's version was not known yet when the hash was computed.
    """
    rest: tuple[Any, ...] = (payload,)
    if kind in (KIND_LEARN, KIND_IMPORT):
        rest = tuple(learned) if kind == KIND_LEARN else ()
    return chain_hash(previous, (position, kind, time, *rest))
