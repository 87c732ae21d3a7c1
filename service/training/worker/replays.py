"""The replays of the trainer: derived from the log, brought up to a position on demand.

Used by the trainer process alone. Nothing here is the truth: a replay that cannot be read, or
that is ahead of the log, is deleted and filled again from the store.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bandexa_core.errors import ReplayError
from bandexa_core.features.byte_rows import stacked
from bandexa_core.ids import BanditUid, LogPosition
from bandexa_core.log.metrics import Weights, weighted_group
from bandexa_core.log.rows import LearnRow, LogRow
from bandexa_core.replay import ExtendedReplay, Replay, RowLayout, Rows, open_replay
from bandexa_core.replay.activations import ActivationCache
from bandexa_core.replay.evicted import sample_size
from bandexa_core.replay.protocol import laid_out
from bandexa_core.spec import BanditSpec, ReplaySpec
from service.store.errors import LogTrimmed
from service.store.reading import LogReader
from service.store.records import BanditRecord

ROWS_AT_ONCE = 512
WEIGHTS_FILE = "weights.json"  # beside the shards; missing where rewards are single numbers
log = logging.getLogger(__name__)


class _Kind(NamedTuple):
    """What a replay was opened for; a change of the configuration may need another one."""

    knobs: ReplaySpec
    weights: Weights | None
    layout: RowLayout


class FollowedReplays:
    """One open replay per bandit."""

    def __init__(self, reader: LogReader, root: Path) -> None:
        self._reader = reader
        self._replay_root = root
        self._replays: dict[BanditUid, tuple[_Kind, Replay]] = {}
        self._activations: dict[BanditUid, ActivationCache] = {}

    def at(
        self, record: BanditRecord, spec: BanditSpec, position: LogPosition
    ) -> Replay | ExtendedReplay:
        """Return the bandit's rows with the log followed up to `position`.

        Rows that left the store leave the replay, and a sample stands for all that were evicted.
        """
        layout = self._reader.configurations(record, position).row_layout(spec)
        kind = _Kind(spec.replay, spec.rewards.learn, layout)
        most = sample_size(layout, spec.replay.evicted_sample)
        replay = self._open(record, kind)
        # Rows of a log that was lost with the machine's power, or of values that are void since.
        if replay.followed > position or self._has_void(record, replay, position):
            replay = self._start_over(record, kind)
        while True:
            replay.evict_through(self._reader.trim(record.key).position)
            start = LogPosition(max(replay.followed, replay.evicted_through))
            try:
                self._follow(replay, record, start, position, spec.rewards.learn)
                evicted = self._reader.evicted(
                    record, LogPosition(max(replay.evicted_through, 0)), position, most,
                    spec.rewards.learn,
                )  # fmt: skip
            except LogTrimmed:  # the server trimmed it during the read
                continue
            return replay if evicted is None else ExtendedReplay(replay, evicted)

    def _has_void(self, record: BanditRecord, replay: Replay, position: LogPosition) -> bool:
        followed = LogPosition(max(replay.followed, 0))
        rows = self._reader.void_rows(record.key, followed, position)
        return any(row.origin <= followed for row in rows)

    def _follow(
        self,
        replay: Replay,
        record: BanditRecord,
        start: LogPosition,
        position: LogPosition,
        weights: Weights | None,
    ) -> None:
        for rows in self._chunks(record, start, position, weights):
            learned = [row for row in rows if isinstance(row, LearnRow)]
            for batch in _runs(learned):
                if batch[0].before is None:
                    replay.append(laid_out(_rows(batch), replay.layout))
                else:
                    origins = np.array([row.origin for row in batch], np.int64)
                    values = np.array([row.learned for row in batch])
                    replay.correct(origins, values)
            replay.mark_followed(rows[-1].position)

    def _chunks(
        self,
        record: BanditRecord,
        start: LogPosition,
        position: LogPosition,
        weights: Weights | None,
    ) -> Iterator[list[LogRow]]:
        """Yield the rows in (start, position], several groups together."""
        rows: list[LogRow] = []
        for group in self._reader.follow(record, start, position, voids=position):
            rows += weighted_group(group, weights).rows
            if len(rows) >= ROWS_AT_ONCE:
                yield rows
                rows = []
        if rows:
            yield rows

    def activations(self, record: BanditRecord, spec: BanditSpec) -> ActivationCache | None:
        """Return the bandit's cache of frozen activations, None where it has no such cache."""
        limit = spec.replay.activation_bytes
        known = self._activations.get(record.uid)
        if known is not None and known.max_bytes != limit:
            self._activations.pop(record.uid).close()
            known = None
        if known is None and limit:
            known = ActivationCache(self._replay_root / record.uid / "activations", limit)
            self._activations[record.uid] = known
        return known

    def drop_activations(self, uid: BanditUid) -> None:
        """Close and empty the bandit's cache of frozen activations."""
        known = self._activations.pop(uid, None)
        if known is not None:
            known.close()

    def _open(self, record: BanditRecord, kind: _Kind) -> Replay:
        known = self._replays.get(record.uid)
        if known is not None and known[0] == kind:
            return known[1]
        if known is not None:
            known[1].close()
        knobs, weights, layout = kind
        root = self._replay_root / record.uid
        if _weights_of(root) != _text(weights):  # its values were made under others
            self.drop_activations(record.uid)
            shutil.rmtree(root, ignore_errors=True)
        capacity_bytes = knobs.capacity_bytes
        if capacity_bytes is not None:  # the configuration's own rows may be shorter
            capacity_bytes = max(capacity_bytes, layout.row_bytes)
        for attempt in range(2):
            try:
                replay = open_replay(
                    knobs.backend, root, layout, shard_size=knobs.shard_size,
                    cache_shards=knobs.cache_shards, flush_every=knobs.flush_every,
                    capacity=knobs.capacity, capacity_bytes=capacity_bytes,
                )  # fmt: skip
                break
            except ReplayError as error:
                if attempt:
                    raise
                log.warning("replay of %s is rebuilt from the log: %s", record.name, error)
                shutil.rmtree(root)
        if weights is not None:
            root.mkdir(parents=True, exist_ok=True)
            (root / WEIGHTS_FILE).write_text(_text(weights))
        self._replays[record.uid] = (kind, replay)
        return replay

    def _start_over(self, record: BanditRecord, kind: _Kind) -> Replay:
        self.drop_activations(record.uid)  # other rows may receive its positions
        self._replays.pop(record.uid)[1].close()
        shutil.rmtree(self._replay_root / record.uid, ignore_errors=True)
        return self._open(record, kind)

    def forget(self, uid: BanditUid) -> None:
        """Close and remove the replay of a deleted bandit."""
        self.drop_activations(uid)
        known = self._replays.pop(uid, None)
        if known is not None:
            known[1].close()
        shutil.rmtree(self._replay_root / uid, ignore_errors=True)


def _weights_of(root: Path) -> str:
    """Return under which weights of metrics the values of a replay were made, as `_text` has them.

    One that is about to be filled, or was never there, says nothing.
    """
    try:
        return (root / WEIGHTS_FILE).read_text()
    except FileNotFoundError:
        return _text(None)


def _text(weights: Weights | None) -> str:
    return json.dumps(weights, sort_keys=True)


def _runs(rows: list[LearnRow]) -> Iterator[list[LearnRow]]:
    """Split learn rows into runs that are all first values, or all corrections."""
    run: list[LearnRow] = []
    for row in rows:
        if run and (run[0].before is None) != (row.before is None):
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _rows(batch: list[LearnRow]) -> Rows:
    return Rows(
        positions=np.array([row.position for row in batch], np.int64),
        slots=np.array([row.slot for row in batch], np.int64),
        rewards=np.array([row.learned for row in batch]),
        actions=stacked([row.action for row in batch]),
        contexts=stacked([row.context for row in batch]),
    )
