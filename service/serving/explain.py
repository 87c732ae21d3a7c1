"""Explain a decision: draw it again from its snapshot and the log up to its position.

`store.loading` builds the model as it does at a start, stopped at the position that the decision
recorded. A separate thread explains one decision at a time, with separate readers: selects do not
wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.arms import Asked, drawn_by
from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import SnapshotError
from bandexa_core.features.byte_rows import stacked
from bandexa_core.ids import BanditUid, DecisionId
from bandexa_core.log.rows import ErasedRow, Group
from bandexa_core.model import MODEL_FILE, ServingModel
from bandexa_core.policies import Candidates
from bandexa_core.snapshots.store import SnapshotStore
from service.serving.contributing import Contribution, contributions
from service.store.errors import LogTrimmed, Unavailable, UnknownDecision
from service.store.loading import load_at
from service.store.objects import action_row, context_row
from service.store.reading import DecisionHistory, LogReader
from service.store.records import BanditRecord, DecisionRecord, StoredDecision

MAX_WAITING = 8
MAX_SHOWN = 200  # candidates; of more, those with the best means and the chosen ones


class NotExplainable(ValueError):
    """Something that the decision was made from was removed; the message says what."""


@dataclass(frozen=True, slots=True)
class Reproduced:
    """Whether drawing again gave what was served.

    None: nobody can say. No propensity was stored; or other numbers came out, and the candidates
    were retrieved from a list of the request, of which only they are stored.
    """

    action: bool | None
    score: bool | None
    propensity: bool | None


@dataclass(frozen=True, slots=True)
class Explained:
    """What the model expected of the candidates: K of them in the order of the request.

    Of a decision with `retrieve`, these are the retrieved ones.

    Attributes:
        ids: Their ids.
        indexes: Their places among all candidates, (K,).
        means: Posterior means of the expected reward, (K,).
        stds: Its posterior standard deviations, (K,).
        sampled: The sampled values that were ranked, (K,).
        propensities: Probabilities of being chosen, (K,).
        total: The number of all candidates.
        reproduced: Whether drawing again gave the decision.
        added: What each named feature added to the mean of the first chosen action.
    """

    ids: tuple[str, ...]
    indexes: NDArray[np.int64]
    means: NDArray[np.float64]
    stds: NDArray[np.float64]
    sampled: NDArray[np.float64]
    propensities: NDArray[np.float64]
    total: int
    reproduced: Reproduced
    added: tuple[Contribution, ...] = ()


class Explainer:
    """Explains decisions.

    Args:
        reader: Opens a reader of the store.
        history: Opens a reader of decisions.
        snapshots: Returns the snapshots of a bandit.
        registry: Encoders by name.
    """

    def __init__(
        self,
        reader: Callable[[], LogReader],
        history: Callable[[], DecisionHistory],
        snapshots: Callable[[BanditUid], SnapshotStore],
        registry: EncoderRegistry,
    ) -> None:
        self._new_reader = reader
        self._new_history = history
        self._snapshots = snapshots
        self._registry = registry
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._waiting = 0

    def close(self) -> None:
        """Finish the explanation under way."""
        self._thread.shutdown(cancel_futures=True)

    async def explain(
        self, bandit: BanditRecord, decision_id: DecisionId
    ) -> tuple[StoredDecision, Explained | str]:
        """Return a decision and its explanation, or a sentence that says why there is none.

        Raises:
            UnknownDecision: The bandit has no such decision.
            StoreDamaged: The stored decision is not what was written.
            Unavailable: Too many decisions wait to be explained.
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
    ) -> tuple[StoredDecision, Explained | str]:
        with self._new_history() as history:
            stored = history.decision(bandit, decision_id)
        if stored is None:
            raise UnknownDecision(decision_id)
        with self._new_reader() as reader:
            try:
                return stored, self._drawn_again(reader, bandit, stored.record)
            except (NotExplainable, LogTrimmed, SnapshotError) as error:
                return stored, str(error)

    def _drawn_again(
        self, reader: LogReader, bandit: BanditRecord, record: DecisionRecord
    ) -> Explained:
        if record.imported is not None:
            raise NotExplainable("it was imported: another model made this decision")
        snapshots = self._snapshots(bandit.uid)
        if record.snapshot not in snapshots.versions():
            if any(each.first <= record.position for each in reader.blanked(bandit.key)):
                raise NotExplainable(
                    f"snapshot {record.snapshot}, which made this decision, was removed: it may"
                    " have learned from decisions that were erased since"
                )
            raise NotExplainable(
                f"snapshot {record.snapshot}, which made this decision, was removed: of each bandit"
                " the newest `keep_snapshots` of the server's settings remain, and those that"
                " decisions of the last `keep_snapshots_h` hours refer to, within"
                " `keep_snapshots_bytes`"
            )
        if reader.trim(bandit.key).position > record.position:
            raise NotExplainable("the log up to this decision was removed by retention")
        snapshot = snapshots.load(record.snapshot, (MODEL_FILE,))
        num_erased = 0

        def count(group: Group) -> None:
            nonlocal num_erased
            num_erased += sum(isinstance(row, ErasedRow) for row in group.rows)

        model = load_at(reader, bandit, self._registry, snapshots, snapshot, record.position, count)
        if num_erased:
            raise NotExplainable(f"values that it had learned were erased since: {num_erased}")
        if model.version != record.snapshot:
            raise NotExplainable(f"snapshot {record.snapshot} is not of this decision's log")
        if record.arm is not None and not model.has_trials:
            raise NotExplainable("the snapshot of a challenger that had an arm then was removed")
        ids, candidates = _candidates(model, record)
        return _explained(model, record, ids, candidates)


def _candidates(model: ServingModel, record: DecisionRecord) -> tuple[tuple[str, ...], Candidates]:
    if record.candidates is None or (record.retrieval and not record.retrieval.listed):
        candidates = model.enabled_candidates(record.time)
        return tuple(model.catalogue.ids[slot] for slot in candidates.slots), candidates
    if record.features is not None:
        return record.candidates, model.inline_candidates(record.candidates, record.features)
    try:
        candidates = model.candidates(record.candidates)
    except KeyError:
        raise NotExplainable(
            "the candidates' own features were too large to store: see `max_inline_bytes`"
        ) from None
    by_slot = {picked.slot: picked.features for picked in record.chosen}
    for row, slot in enumerate(candidates.slots.tolist()):
        features = by_slot.get(slot)
        if features is None:
            continue
        known, offered = action_row(model.spec.actions, features), candidates.features[row]
        if not np.array_equal(*stacked([known, offered])):
            raise NotExplainable(
                "the candidates' own features were too large to store: see `max_inline_bytes`"
            )
    return record.candidates, candidates


def _asked(
    model: ServingModel, record: DecisionRecord, ids: tuple[str, ...], context: NDArray[Any]
) -> Asked | None:
    """Return what arms have to know, to decide again; None: the bandit decided without arms.

    The unit is not known any more, and neither is the arm that it drew: that is the recorded one.
    """
    if record.arm is None:
        return None
    by_unit = model.spec.sticky is not None and record.unit is not None
    return Asked(
        record.unit, record.served, lambda action: ids.index(action) if action in ids else None,
        record.arm if by_unit else None, context,
    )  # fmt: skip


def _explained(
    model: ServingModel, record: DecisionRecord, ids: tuple[str, ...], candidates: Candidates
) -> Explained:
    retrieval = record.retrieval
    is_listed = retrieval is not None and retrieval.listed
    retrieve = None if retrieval is None else retrieval.num
    context = context_row(model.spec.context, record.context)
    drawn = drawn_by(model.spec, record.decision_id, record.unit)
    ballot = model.ballot(drawn, context, candidates, retrieve=retrieve)
    places = {name: place for place, name in enumerate(ids)}
    bounds = model.limits.bounds(places.get, len(ids))
    choice = model.select(
        drawn, context, candidates, num=len(record.chosen), retrieve=retrieve,
        asked=_asked(model, record, ids, context), bounds=bounds,
    )  # fmt: skip
    means, stds = model.policy.score(context, candidates)
    again = [ids[index] for index in choice.chosen.tolist()]
    served = [picked.id for picked in record.chosen]
    first = ids.index(served[0])
    propensities = ballot.propensities
    has_own = choice.arm is not None or bounds is not None
    if has_own and choice.all_propensities is not None:
        propensities = choice.all_propensities()
    shown = np.arange(len(ids))
    if choice.retrieved is not None:
        shown = choice.retrieved
    if len(shown) > MAX_SHOWN:
        best = shown[np.argsort(-means[shown], kind="stable")[:MAX_SHOWN]]
        shown = np.union1d(best, [ids.index(name) for name in served])
    stored, score = record.propensity, record.chosen[0].score

    def verdict(same: bool) -> bool | None:
        return None if is_listed and not same else same

    return Explained(
        ids=tuple(ids[index] for index in shown.tolist()),
        indexes=shown,
        means=means[shown],
        stds=stds[shown],
        sampled=ballot.sampled[shown],
        propensities=propensities[shown],
        total=len(ids) if retrieval is None else retrieval.total,
        added=contributions(model, record),
        reproduced=Reproduced(
            action=verdict(again == served and choice.arm == record.arm),
            score=verdict(bool(abs(ballot.sampled[first] - score) <= 1e-6 * max(1.0, abs(score)))),
            propensity=(
                None if stored is None else verdict(bool(abs(propensities[first] - stored) < 1e-9))
            ),
        ),
    )
