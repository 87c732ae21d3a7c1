"""The call that imports decisions which were made elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from bandexa_core.ids import ActionId
from bandexa_core.log.contract import Outcome
from service.http import candidates
from service.http.arrays import ActionFeatures, array_of
from service.http.auth import needs
from service.http.codec import MSGPACK, Typed, WireRoute, prepared, typed_answer
from service.http.errors import InvalidBody
from service.http.inputs import decode_context, outcome_of, rows_of
from service.http.openapi import typed
from service.http.problems import problem_of
from service.http.routes.common import EngineDep, Name, problems
from service.http.schemas.importing import (
    ImportAnswer,
    ImportBatchAnswer,
    ImportedAction,
    ImportedItem,
    ImportItem,
    ImportRequest,
)
from service.serving.bandit import Bandit
from service.serving.importing import ChosenRow, Imported, ImportRow, import_rows
from service.serving.inputs import NamedSide
from service.store.errors import InvalidRequest, ServiceError

router = APIRouter(prefix="/bandits", route_class=WireRoute)
_REQUEST, _ITEM = Typed(ImportRequest), Typed(ImportItem)


@router.post(
    "/{name}/log",
    openapi_extra=needs("admin") | typed(ImportRequest, ImportBatchAnswer),
    response_class=Response,
    responses=problems(404, 413, 415, 422),
)
async def import_log(name: Name, request: Request, engine: EngineDep) -> Response:
    """Import up to 1000 decisions that were made elsewhere, with what came of them.

    Each is stored as a decision of this bandit that is marked as imported, and its value is
    learned. Repeating the call changes nothing; another value of the same id replaces the one
    before. No count of served requests has them.
    """
    bandit = engine.bandit(name)

    def rows(body: ImportRequest, encoding: str) -> tuple[ImportRequest, list[_Row]]:
        read = _Reader(bandit, packed=encoding == MSGPACK, logged=body.logged)
        return body, [_or_error(read.row, raw, encoding) for raw in body.items]

    body, found = await prepared(request, _REQUEST, rows)
    done = await import_rows(engine, bandit, body.source, found, dry_run=body.dry_run)
    return typed_answer(request, ImportBatchAnswer([_item(each) for each in done]))


_Row = ImportRow | ServiceError


def _or_error(row: Callable[[ImportItem], ImportRow], raw: msgspec.Raw, encoding: str) -> _Row:
    try:
        return row(_ITEM.decode(raw, encoding, None))
    except ServiceError as error:
        return error


def _item(found: Imported | ServiceError) -> ImportedItem:
    if isinstance(found, Imported):
        return ImportedItem(200, ImportAnswer(found.status, found.decision_id))
    problem = problem_of(found)
    return ImportedItem(problem.status, error=problem)


class _Reader:
    """Makes rows of items; on any thread."""

    def __init__(self, bandit: Bandit, *, packed: bool, logged: bool) -> None:
        self._bandit = bandit
        self._packed = packed
        self._contexts = _side(bandit.contexts, logged)
        self._actions = _side(bandit.actions, logged)

    def row(self, item: ImportItem) -> ImportRow:
        """Return the row of an item.

        Raises:
            InvalidBody, InvalidRequest: It cannot be one.
        """
        if (item.action is None) == (item.actions is None):
            raise InvalidBody([("action", "give either action, or actions")])
        if item.actions is None:
            chosen: tuple[ChosenRow, ...] = (
                self._chosen(
                    item.action or "",
                    item.action_features,
                    None,
                    _outcome(item),
                    "action_features",
                ),
            )
        elif _outcome(item) is not None or item.action_features is not None:
            raise InvalidBody([("actions", "each has its own value and features")])
        else:
            chosen = tuple(map(self._chosen_of, range(len(item.actions)), item.actions))
        offered = candidates.resolved(item.candidates, self._actions)
        candidates.check_ids(offered)
        return ImportRow(
            source_id=item.id,
            time=time.time() if item.time is None else item.time,
            delay=item.delay,
            context=decode_context(
                self._bandit, item.context, packed=self._packed, side=self._contexts
            ),
            candidates=offered,
            chosen=chosen,
            propensity=item.propensity,
            propensities=None
            if item.propensities is None
            else {ActionId(name): each for name, each in item.propensities.items()},
        )

    def _chosen_of(self, number: int, action: ImportedAction) -> ChosenRow:
        field = f"actions.{number}.features"
        value = _outcome(action)
        return self._chosen(action.id, action.features, action.propensity, value, field)

    def _chosen(
        self,
        name: str,
        features: ActionFeatures | None,
        propensity: float | None,
        value: Outcome | None,
        field: str,
    ) -> ChosenRow:
        rows = None
        if features is not None and self._actions is not None:
            rows = rows_of(self._actions, [features], field)
        elif features is not None:
            try:
                given = array_of(features)
            except ValueError as error:
                raise InvalidRequest(field, str(error)) from error
            rows = self._bandit.features(given[None], 1, field)
        return ChosenRow(ActionId(name), None if rows is None else rows[0], propensity, value)


def _outcome(item: ImportItem | ImportedAction) -> Outcome | None:
    """Return what an action earned; None: nothing is known.

    Raises:
        InvalidRequest: There are two answers.
    """
    if item.value is None and item.metrics is None:
        return None
    return outcome_of(item.value, item.metrics, "value")


def _side(side: NamedSide | None, logged: bool) -> NamedSide | None:
    return None if side is None else replace(side, takes_digests=logged)
