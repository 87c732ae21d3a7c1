"""The formats of the database's blobs: msgpack, arrays as raw bytes; and of its log.

A group of log rows ends with a row that has its rule and the hash of the log up to it. The other
rows of the group have their own hash: a leaf. Verification thus names the row that was changed.
See `hashing` for these hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any
from zlib import crc32

import msgpack
import msgspec
import numpy as np

from bandexa_core.ids import INLINE_SLOT, ActionId, ActionSlot, LogPosition
from bandexa_core.log.bounds import clip
from bandexa_core.log.contract import VOID, ItemState, MetricState, Outcome, positive_zero
from bandexa_core.log.delays import DelayState
from service.store.errors import StoreDamaged
from service.store.hashing import (
    AS_BLOCK,
    HASH_BYTES,
    ROW_BY_ROW,
    pack_metrics,
    unpack_metrics,
)
from service.store.objects import packed_action, packed_rows, recorded_action
from service.store.packing import UNPACKING_ERRORS, pack, unpacker
from service.store.records import ChosenAction, DecisionRecord, Propensities
from service.store.sql.database import Database

ERASED_ACTION = "erased"  # in place of an action that no catalogue has
INSIDE, LEGACY = 0, 3  # column `ends`: inside a group, or its rule (see `hashing`; of schema 4)
RULES = (ROW_BY_ROW, AS_BLOCK, LEGACY)
_SUMMED, _CHOSEN = unpacker(tuple[int, int, bytes]), unpacker(list[list[Any]])


def pack_chosen(chosen: Sequence[ChosenAction], context: bytes) -> bytes:
    """Encode the chosen actions of a decision, with checksums of its context and of them."""
    items = [
        (c.id, c.place, c.slot, packed_action(c.features), c.score)
        + (() if c.propensity is None else (c.propensity,))
        for c in chosen
    ]
    packed = pack(items)
    return pack((crc32(context), crc32(packed), packed))


def pack_propensities(found: Propensities) -> bytes:
    """Encode the propensities of all candidates, with a checksum of them."""
    packed = found.indexes.astype(np.int32).tobytes() + found.values.tobytes()
    return crc32(packed).to_bytes(4) + packed


def unpack_propensities(decision_id: str, blob: bytes | None) -> Propensities | None:
    """Decode `pack_propensities`.

    Raises:
        StoreDamaged: The checksum differs.
    """
    if blob is None:
        return None
    packed, num = blob[4:], (len(blob) - 4) // 12
    if blob[:4] != crc32(packed).to_bytes(4) or len(packed) != 12 * num:
        raise _damaged(decision_id)
    indexes = np.frombuffer(packed, np.int32, num)
    return Propensities(indexes, np.frombuffer(packed[4 * num :], np.float64))


class ChosenItem(msgspec.Struct, frozen=True, gc=False):
    """A chosen action as it is stored; see `ChosenAction`, and `packed_action` for features."""

    id: ActionId
    place: int
    slot: ActionSlot
    features: bytes | str
    score: float
    propensity: float | None = None  # decisions of version 0.3 have none


def unpack_chosen(
    decision_id: str, blob: bytes, context: bytes | None = None
) -> tuple[ChosenAction, ...]:
    """Decode `pack_chosen`; checks the context as well, where it is given.

    Raises:
        StoreDamaged: A checksum differs.
    """
    return tuple(
        ChosenAction(c.id, c.place, c.slot, recorded_action(c.features), c.score, c.propensity)
        for c in chosen_items(decision_id, blob, context)
    )


def chosen_ids(decision_id: str | int, blob: bytes) -> tuple[ActionId, ...]:
    """Decode only the ids of `pack_chosen`; the decision is named by its id or its key.

    Raises:
        StoreDamaged: A checksum differs.
    """
    try:
        return tuple([item[0] for item in _unpacked_chosen(decision_id, blob, None)])
    except (TypeError, LookupError) as error:
        raise _damaged(decision_id) from error


def chosen_score(decision_id: str, blob: bytes, place: int) -> tuple[ActionId, float]:
    """Decode only the id and the score of one of the actions of `pack_chosen`.

    Raises:
        StoreDamaged: A checksum differs.
        IndexError: There are not so many.
    """
    item = _unpacked_chosen(decision_id, blob, None)[place]
    if len(item) < len(ChosenItem.__struct_fields__) - 1:
        raise _damaged(decision_id)
    return item[0], item[4]


def chosen_items(
    decision_id: str, blob: bytes, context: bytes | None = None
) -> Sequence[ChosenItem]:
    """Decode `pack_chosen`, without making arrays; checks the context as well, where it is given.

    Raises:
        StoreDamaged: A checksum differs.
    """
    try:
        return [ChosenItem(*item) for item in _unpacked_chosen(decision_id, blob, context)]
    except TypeError as error:
        raise _damaged(decision_id) from error


def _unpacked_chosen(decision_id: str | int, blob: bytes, context: bytes | None) -> list[list[Any]]:
    """Return the fields of each item; see `chosen_items`."""
    try:
        context_sum, packed_sum, packed = _SUMMED.decode(blob)
        if crc32(packed) != packed_sum or (context is not None and crc32(context) != context_sum):
            raise ValueError("its checksum differs")
        return _CHOSEN.decode(packed)
    except UNPACKING_ERRORS as error:
        raise _damaged(decision_id) from error


def _damaged(decision: str | int) -> StoreDamaged:
    """Return the error of a decision, named by its id or its key."""
    name = f"at key {decision}" if isinstance(decision, int) else decision
    return StoreDamaged(f"decision {name} is not what was written")


def blank_chosen(decision_id: str, blob: bytes) -> bytes:
    """Return `pack_chosen` of an erased decision: no features, and only ids of the catalogue.

    What is damaged cannot be read, and is erased as a whole.
    """
    try:
        items = chosen_items(decision_id, blob)
    except StoreDamaged:
        items = ()
    blank = [
        (ERASED_ACTION if c.slot == INLINE_SLOT else c.id, c.place, c.slot, b"", c.score)
        for c in items
    ]
    packed = pack(blank)
    return pack((crc32(b""), crc32(packed), packed))


def pack_candidates(record: DecisionRecord) -> bytes | None:
    """Encode the candidates of a decision, the caller's own one, and those of shadows.

    None where all enabled actions were offered, the request named none, and there is no shadow.
    """
    if record.candidates is None and record.served is None and not record.shadows:
        return None
    features = None if record.features is None else packed_rows(record.features)
    parts: tuple[object, ...] = (record.candidates, features, record.retrieval)
    if record.shadows:
        parts = (*parts, record.served, dict(record.shadows))
    elif record.served is not None:
        parts = (*parts, record.served)
    return pack(parts)


def unpack_shadows(where: str, blob: bytes | None) -> dict[str, ActionId] | None:
    """Return what shadows would have served in a decision; None without shadows.

    Raises:
        StoreDamaged: It cannot be read.
    """
    if blob is None:
        return None
    try:
        parts = msgpack.unpackb(blob)
        return {name: ActionId(action) for name, action in parts[4].items()} if parts[4:] else None
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreDamaged(f"decision {where}: its shadows are damaged") from error


def unpack_candidate_ids(decision_id: str, blob: bytes | None) -> tuple[ActionId, ...] | None:
    """Return the ids of the candidates of a decision; None where all enabled actions were.

    Raises:
        StoreDamaged: They cannot be read.
    """
    if blob is None:
        return None
    try:
        ids = msgpack.unpackb(blob, use_list=False)[0]
    except (ValueError, TypeError, IndexError) as error:
        raise StoreDamaged(f"decision {decision_id!r}: its candidates are damaged") from error
    return None if ids is None else tuple(map(ActionId, ids))


def legacy_hash(previous: bytes, row: Sequence[Any]) -> bytes:
    """Return the hash up to and including a row that schema 4 wrote: each row had the chain's."""
    return blake2b(previous + pack(row), digest_size=HASH_BYTES).digest()


class StoredItem(msgspec.Struct, frozen=True, gc=False):
    """One chosen action in the ledger.

    Attributes:
        state: Its rewards and its value.
        origin, latest: The positions of the first and the latest row that learned its value; 0
            where none did. Of a void one those before it became void.
        low, high: The bounds of the first row: corrections have them, too, when that row has left
            the log.
    """

    state: ItemState = ItemState()
    origin: LogPosition = LogPosition(0)
    latest: LogPosition = LogPosition(0)
    low: float | None = None
    high: float | None = None

    @property
    def learned(self) -> float | None:
        """What is learned as its value; None where it has none."""
        value = self.state.value
        return None if value is None else clip(value, self.low, self.high)


def outcome(reward: float, metrics: bytes | None) -> Outcome:
    """Return what was reported, from the columns of a reward: metrics, or else a number."""
    return reward if metrics is None else unpack_metrics(metrics) or ()


def outcome_columns(reward: Outcome) -> tuple[float, bytes | None]:
    """Return the columns of `outcome`; the number of metrics is 0."""
    reward = positive_zero(reward)
    return (0.0, pack_metrics(reward)) if isinstance(reward, tuple) else (reward, None)


NEW_ITEM = StoredItem()
_VOID = -1


def pack_items(items: Sequence[StoredItem]) -> bytes:
    """Encode the items of a ledger row.

    Partial sums are left out where they are the value; bounds, a pair at the end, where there are
    none. Metrics are a table behind them: of each how many rewards have it, and its partial sums. A
    void item has a number of rewards below 0.
    """
    packed = []
    for item in items:
        state, low, high = item.state, item.low, item.high
        num, value, partials = state.num, state.value, state.partials
        rest = () if num and partials == (value,) else partials
        bounds = () if low is None and high is None else ((low, high),)
        metrics = {each.name: (each.num, *each.partials) for each in state.metrics}
        table = (metrics,) if metrics else ()
        num = _VOID if state.void else num
        packed.append((num, value, item.origin, item.latest, *rest, *bounds, *table))
    return pack(packed)


def unpack_items(blob: bytes) -> tuple[StoredItem, ...]:
    """Decode `pack_items`.

    Raises:
        StoreDamaged: It cannot be decoded.
    """
    try:
        return tuple(_unpacked(*item) for item in msgpack.unpackb(blob))
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise StoreDamaged("a ledger row is not what was written") from error


def _unpacked(
    num: int, value: float | None, origin: LogPosition, latest: LogPosition, *rest: Any
) -> StoredItem:
    bounds: tuple[float | None, float | None] = (None, None)
    metrics: tuple[MetricState, ...] = ()
    if rest and isinstance(rest[-1], dict):
        rest, table = rest[:-1], rest[-1]
        metrics = tuple(MetricState(n, table[n][0], tuple(table[n][1:])) for n in sorted(table))
    if rest and isinstance(rest[-1], list):
        rest, bounds = rest[:-1], rest[-1]
    if num == _VOID:
        return StoredItem(VOID, origin, latest, *bounds)
    partials = rest or (() if value is None or not num or metrics else (value,))
    state = ItemState(num, partials, value, metrics=metrics)
    return StoredItem(state, origin, latest, *bounds)


def pack_delays(state: DelayState) -> bytes:
    """Encode how late the rewards of a bandit come."""
    return pack((state.since, state.num, state.age_s, dict(state.counts)))


def stored_delays(connection: Database) -> dict[int, DelayState]:
    """Return what is stored of the delays of all bandits.

    Raises:
        StoreDamaged: It is not what was written.
    """
    rows = connection.execute("SELECT bandit, delays FROM delays").fetchall()
    try:
        return {
            bandit: DelayState(*msgpack.unpackb(blob, strict_map_key=False))
            for bandit, blob in rows
        }
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise StoreDamaged("the delays of a bandit are not what was written") from error
