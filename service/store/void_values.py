"""Takes void values out of the sums of a model, where no older snapshot is without them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from bandexa_core.features.byte_rows import stacked
from bandexa_core.ids import LogPosition
from bandexa_core.log.bounds import clip
from bandexa_core.log.metrics import weighted_group, weighted_row
from bandexa_core.log.rows import LearnRow, VoidRow
from bandexa_core.model import ServingModel
from bandexa_core.policies.linear_head import LinearHead
from bandexa_core.posterior.frame import FIRST_ROWS
from bandexa_core.replay import Rows
from service.store.reading import BEGINNING, LogReader
from service.store.records import BanditRecord

log = logging.getLogger(__name__)
AT_ONCE = 512  # values


def remove_void(
    reader: LogReader,
    record: BanditRecord,
    model: ServingModel,
    void: Sequence[VoidRow],
    up_to: LogPosition,
) -> int:
    """Take void values out of the sums of a model; returns how many there were.

    A decision that retention or an erasure has removed meanwhile cannot be taken out: what it
    taught stays.

    Args:
        reader: Reads the log.
        record: The bandit.
        model: The model as its snapshot has it.
        void: The rows that void values which it has learned.
        up_to: The position of the last of them.
    """
    if not void or not isinstance(model.policy, LinearHead):
        return 0
    wanted = {row.origin for row in void}
    before: dict[LogPosition, float] = {}  # as the model knows them: later rows correct them
    learn = model.spec.rewards.learn
    for group in reader.follow(record, model.position, up_to):
        for row in weighted_group(group, learn).rows:
            if isinstance(row, LearnRow) and row.origin in wanted and row.before is not None:
                before.setdefault(row.origin, clip(row.before, row.low, row.high))
    found = [weighted_row(row, learn) for _, row in reader.void_values(record, void)]
    if len(found) < len(void):
        log.warning(
            "bandit %s: %d void values stay in its sums: their decisions were removed", record.name,
            len(void) - len(found),
        )  # fmt: skip
    for first in range(0, len(found), AT_ONCE):
        part = found[first : first + AT_ONCE]
        rows = Rows(
            positions=np.array([row.origin for row in part], np.int64),
            slots=np.array([row.slot for row in part], np.int64),
            rewards=np.array([before.get(row.origin, row.learned) for row in part]),
            actions=stacked([row.action for row in part]),
            contexts=stacked([row.context for row in part]),
        )
        weights = model.row_weights
        weights_N = np.ones(len(part)) if weights is None else weights(rows.positions)
        model.policy.remove(rows, weights_N)
    first = min(row.origin for row in void)
    early = reader.count_learned(record.key, BEGINNING, first) < FIRST_ROWS
    model.policy.posterior.begin_frame_again(center=early)
    return len(found)
