"""What all routes share: the engine, the documented errors, candidates in their three forms."""

from __future__ import annotations

from typing import Annotated, Any, cast

import numpy as np
from fastapi import Depends, Path, Request

from bandexa_core.ids import ActionId
from service.http.schemas import Id, InlineAction
from service.serving.bandit import CandidateInput, InlineCandidates
from service.serving.engine import Engine
from service.store.errors import InvalidRequest


async def _engine(request: Request) -> Engine:  # async: FastAPI runs others in a thread
    engine: Engine = request.app.state.engine
    return engine


EngineDep = Annotated[Engine, Depends(_engine)]
Name = Annotated[Id, Path(description="The bandit's name.")]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a route's errors."""
    return {
        status: {"content": {"application/problem+json": {"schema": {"$ref": PROBLEM_SCHEMA}}}}
        for status in (*statuses, 503)
    }


PROBLEM_SCHEMA = "#/components/schemas/Problem"


def candidates_of(given: list[Any] | None) -> CandidateInput:
    """Return a request's candidates as the engine takes them."""
    if given is None:
        return None
    if not isinstance(given[0], InlineAction):
        return cast(list[ActionId], given)
    ids = tuple(ActionId(action.id) for action in given)
    return InlineCandidates(ids, stacked([action.features for action in given], "candidates"))


def stacked(rows: list[Any], field: str) -> Any:
    """Return rows of features as one array; InvalidRequest where they are uneven."""
    try:
        return np.stack([np.asarray(row) for row in rows])
    except ValueError as error:
        raise InvalidRequest(field, "features must be numbers, as many for each action") from error
