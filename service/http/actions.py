"""A change of a catalogue, from its form on the wire to the form that serving takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from bandexa_core.ids import ActionId
from service.http.arrays import array_of, decode_array, stacked
from service.http.candidates import malformed_ids
from service.http.errors import InvalidBody
from service.http.inputs import decode_rows, hint_of, rows_of
from service.http.schemas.catalogue import ActionBody, ActionsRequest
from service.serving.bandit import Bandit
from service.store.errors import InvalidRequest


class ActionColumns(NamedTuple):
    """N actions: their ids, features (not yet checked against the bandit), and switches."""

    ids: tuple[ActionId, ...]
    features: NDArray[Any] | None
    enabled: NDArray[np.bool_]


def action_columns(
    body: ActionsRequest, bandit: Callable[[], Bandit], *, packed: bool
) -> ActionColumns:
    """Return the actions of a request in columns; in the thread for large bodies.

    Args:
        body: The request.
        bandit: Returns the bandit, which knows what features its actions have.
        packed: Whether it is msgpack.

    Raises:
        InvalidBody: An id is malformed, or both forms or none are given.
        InvalidRequest: An action is given twice, or the features are neither a matrix nor objects.
    """
    has_features = bytes(body.features) not in (b"", b"null", b"\xc0")
    if (body.actions is None) == (body.ids is None):
        raise InvalidBody([("body", "give either actions, or ids with features")])
    if body.actions is not None:
        if has_features:
            raise InvalidBody([("body", "features belongs to ids; actions bring their own")])
        names = [action.id for action in body.actions]
        _check(names, "actions.{}.id")
        enabled = np.array([action.enabled for action in body.actions], np.bool_)
        return ActionColumns(_ids(names), _features(body.actions, bandit), enabled)
    assert body.ids is not None
    _check(body.ids, "ids.{}")
    features = None
    if has_features:
        features = _columns(bandit(), body.features, len(body.ids), packed=packed)
    return ActionColumns(_ids(body.ids), features, np.ones(len(body.ids), np.bool_))


def _check(names: list[str], field: str) -> None:
    if errors := malformed_ids(names, field):
        raise InvalidBody(errors)
    if len(set(names)) != len(names):
        raise InvalidBody([("body", "an action is given twice")])


def _ids(names: list[str]) -> tuple[ActionId, ...]:
    return tuple(ActionId(name) for name in names)


def _columns(bandit: Bandit, raw: Raw, num: int, *, packed: bool) -> NDArray[Any]:
    """Return the features of `num` actions that were given together."""
    if bandit.actions is not None:
        rows = decode_rows(bandit.actions, raw, packed=packed)
        if len(rows) != num:
            raise InvalidRequest("features", f"has {len(rows)} objects for {num} actions")
        return rows
    try:
        return decode_array(raw, packed=packed, most=num * bandit.record.spec.action_dim)
    except ValueError as error:
        raise InvalidRequest("features", str(error)) from error


def _features(actions: list[ActionBody], bandit: Callable[[], Bandit]) -> NDArray[Any] | None:
    rows = [action.features for action in actions if action.features is not None]
    if not rows:
        return None
    if len(rows) < len(actions):
        number = next(at for at, action in enumerate(actions) if action.features is None)
        message = "is needed: give features for every action listed, or for none"
        raise InvalidBody([(f"actions.{number}.features", message)])
    side = bandit().actions
    if side is not None:
        return rows_of(side, rows, "actions.{}.features")
    try:
        return stacked(rows)
    except ValueError as error:
        for number, row in enumerate(rows):
            try:
                array_of(row)
            except ValueError as own:
                message = f"{own}{hint_of(row)}"
                raise InvalidBody([(f"actions.{number}.features", message)]) from own
        raise InvalidRequest("actions", str(error)) from error
