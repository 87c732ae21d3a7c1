"""Why this action: a decision drawn again, from its snapshot and the log up to its position.

The one way a model comes to be (`loading`) stopped at the position the decision recorded. On a
thread of its own, one decision at a time, with its own readers: selects do not wait for it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import SnapshotError
from bandexa_core.ids import DecisionId
from bandexa_core.model import MODEL_FILE, ServingModel
from bandexa_core.policies import Candidates
from bandexa_core.snapshots.store import SnapshotStore
from service.store.errors import LogTrimmed, Unavailable, UnknownDecision
from service.store.loading import load_at
from service.store.records import BanditRecord, DecisionRecord
from service.store.sqlite.history import History, KeptDecision
from service.store.sqlite.reader import StoreReader

MAX_WAITING = 8
MAX_TOLD = 200  # candidates; of more, those with the best means, and the chosen ones


class NotExplainable(ValueError):
    """What a decision came from is not there any more; says what."""


@dataclass(frozen=True, slots=True)
class Reproduced:
    """Whether drawing again gave what was served; `propensity` is None where none was kept."""

    action: bool
    score: bool
    propensity: bool | None


@dataclass(frozen=True, slots=True)
class Explained:
    """What the model thought of the candidates, K in the order of the request, or the best ones.

    Attributes:
        indexes: Where they stand among all candidates.
        means, stds: Of the expected reward, under the posterior.
        sampled: The values that were ranked.
        propensities: Their probabilities of being served.
        total: How many candidates there were.
    """

    ids: tuple[str, ...]
    indexes: NDArray[np.int64]
    means: NDArray[np.float64]
    stds: NDArray[np.float64]
    sampled: NDArray[np.float64]
    propensities: NDArray[np.float64]
    total: int
    reproduced: Reproduced


class Explainer:
    """Explains decisions.

    Args:
        database: The store's file.
        snapshots: The directory with a directory of snapshots per bandit.
        registry: Encoders by name.
    """

    def __init__(self, database: Path, snapshots: Path, registry: EncoderRegistry) -> None:
        self._database = database
        self._snapshots = snapshots
        self._registry = registry
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._waiting = 0

    def close(self) -> None:
        """Finish what is under way."""
        self._thread.shutdown(cancel_futures=True)

    async def explain(
        self, bandit: BanditRecord, decision_id: DecisionId
    ) -> tuple[KeptDecision, Explained | str]:
        """Return a decision, and why; or a sentence that says why that cannot be told any more.

        Raises:
            UnknownDecision: The bandit has no such decision.
            StoreDamaged: It is not what was written.
            Unavailable: Too many wait already.
        """
        if self._waiting >= MAX_WAITING:
            raise Unavailable("too many decisions wait to be explained")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._explain, bandit, decision_id)
        finally:
            self._waiting -= 1

    def _explain(
        self, bandit: BanditRecord, decision_id: DecisionId
    ) -> tuple[KeptDecision, Explained | str]:
        with History(self._database) as history:
            kept = history.decision(bandit, decision_id)
        if kept is None:
            raise UnknownDecision(decision_id)
        with StoreReader(self._database) as reader:
            try:
                return kept, self._drawn_again(reader, bandit, kept.record)
            except (NotExplainable, LogTrimmed, SnapshotError) as error:
                return kept, str(error)

    def _drawn_again(
        self, reader: StoreReader, bandit: BanditRecord, record: DecisionRecord
    ) -> Explained:
        snapshots = SnapshotStore(self._snapshots / bandit.uid)
        if record.snapshot not in snapshots.versions():
            raise NotExplainable(
                f"snapshot {record.snapshot}, which made this decision, was removed: of each bandit"
                " the newest `keep_snapshots` of the server's settings are kept"
            )
        if reader.trim(bandit.key).position > record.position:
            raise NotExplainable("the log up to this decision was removed by retention")
        snapshot = snapshots.load(record.snapshot, (MODEL_FILE,))
        model = load_at(reader, bandit, self._registry, snapshots, snapshot, record.position)
        if model.version != record.snapshot:
            raise NotExplainable(f"snapshot {record.snapshot} is not of this decision's log")
        ids, candidates = _candidates(model, record)
        return _explained(model, record, ids, candidates)


def _candidates(model: ServingModel, record: DecisionRecord) -> tuple[tuple[str, ...], Candidates]:
    if record.candidates is None:
        candidates = model.enabled_candidates()
        return tuple(model.catalogue.ids[slot] for slot in candidates.slots), candidates
    if record.features is not None:
        return record.candidates, model.inline_candidates(record.candidates, record.features)
    try:
        candidates = model.candidates(record.candidates)
    except KeyError:
        raise NotExplainable(
            "the candidates' own features were too large to keep: see `max_inline_bytes`"
        ) from None
    by_slot = {picked.slot: picked.features for picked in record.chosen}
    for row, slot in enumerate(candidates.slots.tolist()):
        features = by_slot.get(slot)
        if features is not None and not np.array_equal(features, candidates.features[row]):
            raise NotExplainable(
                "the candidates' own features were too large to keep: see `max_inline_bytes`"
            )
    return record.candidates, candidates


def _explained(
    model: ServingModel, record: DecisionRecord, ids: tuple[str, ...], candidates: Candidates
) -> Explained:
    ballot = model.ballot(record.decision_id, record.context, candidates)
    choice = model.select(record.decision_id, record.context, candidates, num=len(record.chosen))
    means, stds = model.policy.score(record.context, candidates)
    again = [ids[index] for index in choice.chosen.tolist()]
    served = [picked.id for picked in record.chosen]
    first = ids.index(served[0])
    propensities = ballot.propensities
    told = np.arange(len(ids))
    if len(told) > MAX_TOLD:
        best = np.argsort(-means, kind="stable")[:MAX_TOLD]
        told = np.union1d(best, [ids.index(name) for name in served])
    kept, score = record.propensity, record.chosen[0].score
    return Explained(
        ids=tuple(ids[index] for index in told.tolist()),
        indexes=told,
        means=means[told],
        stds=stds[told],
        sampled=ballot.sampled[told],
        propensities=propensities[told],
        total=len(ids),
        reproduced=Reproduced(
            action=again == served,
            score=bool(abs(ballot.sampled[first] - score) <= 1e-6 * max(1.0, abs(score))),
            propensity=None if kept is None else bool(abs(propensities[first] - kept) < 1e-9),
        ),
    )
