"""Rows of the table of decisions, decoded and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack

from bandexa_core.ids import ActionId, DecisionId, DecisionKey, LogPosition, SnapshotVersion
from service.store.errors import StoreDamaged
from service.store.objects import recorded_context, unpacked_rows
from service.store.records import BanditRecord, DecisionRecord, Retrieval
from service.store.sql.codec import unpack_chosen, unpack_propensities

COLUMNS = """d.key, d.time, d.body_hash, d.context, d.chosen, d.candidates, d.snapshot, d.position,
  d.propensity, d.activated, d.explored, d.std, d.propensities, d.imported, d.arm, d.unit"""


def decision_record(
    bandit: BanditRecord, decision_id: DecisionId, row: Sequence[Any]
) -> DecisionRecord:
    """Return the record of `COLUMNS`.

    Raises:
        StoreDamaged: A checksum differs.
    """
    key, time, body_hash, context, chosen, candidates, version, position = row[:8]
    propensity, activated, explored, std, propensities, imported, arm, unit = row[8:]
    picks = unpack_chosen(decision_id, chosen, context)
    ids, features, retrieval, served, shadows = None, None, None, None, None
    try:
        if candidates is not None:
            names, packed, *more = msgpack.unpackb(candidates)  # release 0.3.0 had two parts
            ids = None if names is None else tuple(ActionId(name) for name in names)
            if packed is not None:
                num = 0 if ids is None else len(ids)
                features = unpacked_rows(packed, num, bandit.spec.row_layout.action_dim)
            if more and more[0] is not None:
                retrieval = Retrieval(*more[0])
            served = ActionId(more[1]) if len(more) > 1 and more[1] is not None else None
            shadows = more[2] if len(more) > 2 else None
        array = recorded_context(bandit.spec.context, context)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise StoreDamaged(f"decision {decision_id} is not what was written") from error
    return DecisionRecord(
        decision_id, DecisionKey(key), bandit.key, time, body_hash, array, picks, ids, features,
        SnapshotVersion(version), LogPosition(position), propensity, bool(activated),
        None if explored is None else bool(explored), std,
        unit=None if unit is None else unit.hex(), retrieval=retrieval,
        propensities=unpack_propensities(decision_id, propensities),
        imported=None if imported is None else imported.decode(), arm=arm, served=served,
        shadows=shadows,
    )  # fmt: skip
