"""Take decisions that were made elsewhere into a bandit's log, with what came of them.

Runs on the event loop. Each row becomes a decision marked as imported, under an id that follows
from its own one, and its values are learned at once. So a row that is imported again is found, and
nothing is counted twice; what a killed server had not taken, a repeated call does, in the same
order. An imported decision is evidence, and never served traffic: no count of requests has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, ActionSlot, BanditUid, DecisionId, LogPosition
from bandexa_core.log.contract import Outcome
from bandexa_core.model import ServingModel
from bandexa_core.policies import Candidates
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.serving.errors import UnknownAction
from service.serving.select.commands import CandidateInput, InlineCandidates, Offer
from service.store.errors import Conflict, Erased, InvalidRequest, ServiceError, UnknownDecision
from service.store.objects import stored_bytes, trimmed
from service.store.records import ChosenAction, DecisionRecord, Propensities, StoredAnswer

AT_ONCE = 64  # rows in one commit; selects run in between
ImportedStatus = Literal["imported", "updated", "duplicate"]


class ChosenRow(NamedTuple):
    """A chosen action of a row.

    Attributes:
        id: Its id.
        features: Those that it had then, as they are logged; None: those of the candidate.
        propensity: Of several, see `ChosenAction`.
        value: What it earned, a number or metrics; None: nothing is known.
    """

    id: ActionId
    features: NDArray[Any] | None
    propensity: float | None
    value: Outcome | None


class ImportRow(NamedTuple):
    """A decision that was made elsewhere.

    Attributes:
        source_id: Its id there.
        time: When it was made, seconds since the epoch.
        delay: Seconds from then to its value.
        context: See `SelectCommand`.
        candidates: What was offered; None: all actions that are enabled now.
        chosen: The chosen actions, best first.
        propensity: The probability of the first; None: it is not known.
        propensities: Those of candidates, by id; None: they are not known.
    """

    source_id: str
    time: float
    delay: float
    context: NDArray[Any]
    candidates: CandidateInput
    chosen: tuple[ChosenRow, ...]
    propensity: float | None
    propensities: Mapping[ActionId, float] | None


class Imported(NamedTuple):
    """What became of a row.

    Attributes:
        status: `updated`: it was there, and a value came or changed.
        decision_id: The id of the decision here.
    """

    status: ImportedStatus
    decision_id: DecisionId


def imported_id(bandit: BanditUid, source: str, source_id: str) -> DecisionId:
    """Return the id of an imported decision: of equal rows of one source the same.

    A decision id is unique within a store, and the same log may be imported into several bandits.
    """
    data = f"{len(source)}:{source}{source_id}".encode()
    digest = blake2b(data, key=bandit.encode()[:64], person=b"imported", digest_size=16)
    return DecisionId(digest.hexdigest())


async def import_rows(
    engine: Engine,
    bandit: Bandit,
    source: str,
    rows: Sequence[ImportRow | ServiceError],
    *,
    dry_run: bool = False,
) -> list[Imported | ServiceError]:
    """Import rows; each succeeds or fails on its own, and repeating them is safe.

    Args:
        engine: The server.
        bandit: Which one.
        source: The name of the log: ids are those of this log.
        rows: The rows; an error stays where it is.
        dry_run: Store nothing, and answer what would be: not whether values would change.

    Raises:
        StoreError, Unavailable: The store takes no writes; some rows may be imported.
    """
    found: list[Imported | ServiceError] = []
    last = LogPosition(0)
    for first in range(0, len(rows), AT_ONCE):
        made = [_recorded(engine, bandit, source, row) for row in rows[first : first + AT_ONCE]]
        if dry_run:
            found += [_expected(engine, each) for each in made]
            await asyncio.sleep(0)
            continue
        stored, position = await _stored(engine, bandit, rows[first : first + AT_ONCE], made)
        found += stored
        last = max(last, position)
    if last:
        await bandit.applier.applied(last)
        engine.rewards.train_if_due(bandit)
    return found


async def _stored(
    engine: Engine,
    bandit: Bandit,
    rows: Sequence[ImportRow | ServiceError],
    made: Sequence[DecisionRecord | ServiceError],
) -> tuple[list[Imported | ServiceError], LogPosition]:
    """Store some rows in their order; returns what became of each, and the last log position."""
    commits = [
        engine.commit.start(engine.store.append_decision, each)
        for each in made
        if isinstance(each, DecisionRecord)
    ]
    answers = iter(await asyncio.gather(*commits))
    tasks = []
    for row, each in zip(rows, made, strict=True):
        if isinstance(each, DecisionRecord) and isinstance(row, ImportRow):
            earlier: StoredAnswer | None = next(answers)
            if earlier is None:
                bandit.num_imported += 1
                engine.rewards.imported(bandit, each)
            tasks.append(asyncio.create_task(_taught(engine, bandit, row, each, earlier)))
    taught = iter(await asyncio.gather(*tasks))
    found: list[Imported | ServiceError] = []
    last = LogPosition(0)
    for each in made:
        if isinstance(each, ServiceError):
            found.append(each)
            continue
        outcome, position = next(taught)
        found.append(outcome)
        last = max(last, position)
    return found, last


async def _taught(
    engine: Engine,
    bandit: Bandit,
    row: ImportRow,
    made: DecisionRecord,
    earlier: StoredAnswer | None,
) -> tuple[Imported | ServiceError, LogPosition]:
    """Learn the values of a row whose decision is stored."""
    if earlier is not None and [c.id for c in earlier.chosen] != [c.id for c in made.chosen]:
        return Conflict(f"id {row.source_id!r} was imported with another action"), LogPosition(0)
    status: ImportedStatus = "imported" if earlier is None else "duplicate"
    last = LogPosition(0)
    try:
        for item, chosen in enumerate(row.chosen):
            if chosen.value is None:
                continue
            done, position = await engine.rewards.teach(
                bandit, made, item, chosen.value, row.time + row.delay
            )
            last = max(last, position)
            if earlier is not None and done not in ("duplicate", "void"):
                status = "updated"
    except (InvalidRequest, Erased, UnknownDecision) as error:
        return error, last
    return Imported(status, made.decision_id), last


def _expected(engine: Engine, made: DecisionRecord | ServiceError) -> Imported | ServiceError:
    """Return what would become of a row."""
    if isinstance(made, ServiceError):
        return made
    known = engine.reader.answer(made.decision_id) is not None
    return Imported("duplicate" if known else "imported", made.decision_id)


def _recorded(
    engine: Engine, bandit: Bandit, source: str, row: ImportRow | ServiceError
) -> DecisionRecord | ServiceError:
    if isinstance(row, ServiceError):
        return row
    try:
        made = _record(engine, bandit, source, row)
        engine.rewards.check_taught(bandit, made, [chosen.value for chosen in row.chosen])
        return made
    except ServiceError as error:
        return error


def _record(engine: Engine, bandit: Bandit, source: str, row: ImportRow) -> DecisionRecord:
    """Return the decision of a row.

    Raises:
        UnknownAction, InvalidRequest: It does not fit the bandit.
    """
    model = bandit.model
    context = bandit.context(row.context)
    offer = _offer(bandit, row.candidates)
    names = offer.ids
    if names is None:
        names = [model.catalogue.ids[slot] for slot in offer.candidates.slots.tolist()]
    places = {name: place for place, name in enumerate(names)}
    listed = isinstance(row.candidates, InlineCandidates) or _needs_list(model, offer)
    features = None
    if isinstance(row.candidates, InlineCandidates):
        rows = offer.candidates.features
        features = rows if stored_bytes(rows) <= engine.settings.max_inline_bytes else None
    return DecisionRecord(
        decision_id=imported_id(bandit.record.uid, source, row.source_id),
        key=engine.store.ids.new_key(bandit.record.key),
        bandit=bandit.record.key,
        time=row.time,
        body_hash=None,
        context=trimmed(context) if bandit.contexts is not None else context,
        chosen=tuple(
            _chosen(model, bandit, offer, places, each, listed=listed) for each in row.chosen
        ),
        candidates=tuple(names) if listed else None,
        features=features,
        snapshot=model.version,
        position=model.position,
        propensity=row.propensity,
        activated=True,
        propensities=_propensities(row, offer, places, listed=listed),
        imported=row.source_id,
    )


def _offer(bandit: Bandit, given: CandidateInput) -> Offer:
    """Return what was offered; retired actions may have been.

    Raises:
        UnknownAction, InvalidRequest: See `Bandit.offer`.
    """
    if given is None or isinstance(given, InlineCandidates):
        return bandit.offer(given)
    try:
        return Offer(bandit.model.candidates(given), given)
    except KeyError as error:
        raise UnknownAction(error.args[0], "candidates") from error


def _needs_list(model: ServingModel, offer: Offer) -> bool:
    """Whether the ids of candidates have to be stored: they are not all enabled actions."""
    if offer.ids is None:
        return False
    slots = offer.candidates.slots
    return bool((slots < 0).any()) or not np.array_equal(slots, model.catalogue.enabled_slots)


def _chosen(
    model: ServingModel,
    bandit: Bandit,
    offer: Offer,
    places: Mapping[ActionId, int],
    row: ChosenRow,
    *,
    listed: bool,
) -> ChosenAction:
    place = places.get(row.id)
    if place is None:
        raise InvalidRequest("action", f"{row.id!r} is not among the candidates")
    candidates: Candidates = offer.candidates
    slot = int(candidates.slots[place])
    features = candidates.action(place) if row.features is None else row.features
    if bandit.actions is not None:
        features = trimmed(features)
    shown = place if listed else slot
    return ChosenAction(row.id, shown, ActionSlot(slot), features, 0.0, row.propensity)


def _propensities(
    row: ImportRow, offer: Offer, places: Mapping[ActionId, int], *, listed: bool
) -> Propensities | None:
    if row.propensities is None:
        return None
    unknown = next((name for name in row.propensities if name not in places), None)
    if unknown is not None:
        raise InvalidRequest("propensities", f"{unknown!r} is not among the candidates")
    found = np.array([places[name] for name in row.propensities], np.int64)
    indexes = found if listed else offer.candidates.slots[found]
    values = np.array(list(row.propensities.values()), np.float64)
    return Propensities(indexes.astype(np.int32), values)
