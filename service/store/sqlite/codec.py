"""The formats of the database's blobs (msgpack, arrays as raw bytes) and the hashes of the log.

A group of log rows ends with a row that has its rule and the hash of the log up to it. The other
rows of the group have their own hash: a leaf. Verification thus names the row that was changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple
from zlib import crc32

import msgpack
import numpy as np

from bandexa_core.ids import ActionId, ActionSlot, LogPosition
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.contract import ItemState
from service.store.errors import StoreDamaged
from service.store.records import ChosenAction, DecisionRecord

KIND_LEARN, KIND_CATALOGUE, KIND_CONFIG, KIND_IMPORT = 1, 2, 3, 4
INSIDE, ROW_BY_ROW, AS_BLOCK, LEGACY = 0, 1, 2, 3  # column `ends`: inside a group, or its rule
GENESIS_HASH = b""  # of a log without rows
HASH_BYTES = 16


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


def leaf_hash(row: Sequence[Any]) -> bytes:
    """Return the hash of one log row, given its position, kind, time and content."""
    return blake2b(msgpack.packb(row), digest_size=HASH_BYTES).digest()


def group_hash(previous: bytes, rule: int, leaves: Sequence[bytes]) -> bytes:
    """Return the hash of the log up to and including a group with these leaves."""
    whole = b"".join((previous, bytes((rule,)), *leaves))
    return blake2b(whole, digest_size=HASH_BYTES).digest()


def row_content(kind: int, learned: Sequence[Any], payload: bytes | None) -> tuple[Any, ...]:
    """Return the part of a row's content that its hash covers.

    `learned` has the fields of a learn row.
    """
    return tuple(learned) if kind == KIND_LEARN else (payload,)


def legacy_hash(previous: bytes, row: Sequence[Any]) -> bytes:
    """Return the hash up to and including a row that schema 4 wrote: each row had the chain's."""
    return blake2b(previous + msgpack.packb(row), digest_size=HASH_BYTES).digest()


class StoredItem(NamedTuple):
    """One chosen action in the ledger.

    Attributes:
        state: Its rewards and its value.
        origin, latest: The positions of the first and the latest row that learned its value; 0
            where none did.
    """

    state: ItemState = ItemState()
    origin: LogPosition = LogPosition(0)
    latest: LogPosition = LogPosition(0)


NEW_ITEM = StoredItem()


def pack_items(items: Sequence[StoredItem]) -> bytes:
    """Encode the items of a ledger row; partial sums are left out where they are the value."""
    packed = []
    for (num, partials, value), origin, latest in items:
        rest = () if num and partials == (value,) else partials
        packed.append((num, value, origin, latest, *rest))
    return bytes(msgpack.packb(packed))


def unpack_items(blob: bytes) -> tuple[StoredItem, ...]:
    """Decode `pack_items`.

    Raises:
        StoreDamaged: It cannot be decoded.
    """
    try:
        return tuple(
            StoredItem(
                ItemState(num, tuple(rest) or ((value,) if num else ()), value), origin, latest
            )
            for num, value, origin, latest, *rest in msgpack.unpackb(blob)
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise StoreDamaged("a ledger row is not what was written") from error
