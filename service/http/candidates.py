"""The candidates of a request, from their form on the wire to the form that serving takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any, cast

from numpy.typing import NDArray

from bandexa_core.ids import ActionId
from bandexa_core.model import MANY_OBJECTS
from service.http.arrays import array_of, stacked
from service.http.errors import InvalidBody
from service.http.inputs import hint_of, rows_of
from service.http.schemas.decide import ID_PATTERN, InlineAction
from service.serving.inputs import NamedSide
from service.serving.select.commands import CandidateInput, InlineCandidates
from service.store.errors import InvalidRequest
from service.store.objects import row_identity

_ID = re.compile(ID_PATTERN.strip("^$"))
MANY = 4096  # ids, whose check takes about a millisecond


def resolved(given: list[str | InlineAction] | None, side: NamedSide | None) -> CandidateInput:
    """Return the candidates of a request to a bandit; `side`: its named features of actions.

    Plain ids are not checked against the pattern of ids here: the catalogue's ids match it, and
    `check_ids` names the malformed ones when a look-up fails. Of many, they are checked at once: a
    long list was decoded off the event loop, and is not to be searched on it.

    Raises:
        InvalidBody: Ids and inline actions are mixed, or an id or an array is malformed.
        InvalidRequest: An action is offered twice, or features differ in length.
    """
    if given is None:
        return None
    if all(type(item) is str for item in given):
        ids = cast(list[ActionId], given)
        if len(set(ids)) != len(ids):
            raise InvalidRequest("candidates", "an action is offered twice")
        if len(ids) > MANY:
            _check(ids)
        return ids
    actions = _inline(given)
    names = tuple(ActionId(action.id) for action in actions)
    if len(set(names)) != len(names):
        raise InvalidRequest("candidates", "an action is offered twice")
    found = InlineCandidates(names, _features(actions, side), objects=side is not None)
    return found.looked_up() if len(names) > (MANY if side is None else MANY_OBJECTS) else found


def _features(actions: list[InlineAction], side: NamedSide | None) -> NDArray[Any]:
    features = [action.features for action in actions]
    if side is not None:
        return rows_of(side, features, "candidates.{}.features")
    try:
        return stacked(features)
    except ValueError as error:
        raise _array_error(actions, error) from error


def _inline(given: list[str | InlineAction]) -> list[InlineAction]:
    errors = []
    first = type(given[0])
    for index, item in enumerate(given):
        if type(item) is not first:
            errors.append((f"candidates.{index}", "give either ids or actions with features"))
        elif not isinstance(item, InlineAction):
            continue
        elif not _ID.fullmatch(item.id):
            errors.append((f"candidates.{index}.id", f"must match {ID_PATTERN}"))
    if errors:
        raise InvalidBody(errors[:20])
    return cast(list[InlineAction], given)


def _array_error(actions: list[InlineAction], error: ValueError) -> Exception:
    for index, action in enumerate(actions):
        try:
            array_of(action.features)
        except ValueError as own:
            message = f"{own}{hint_of(action.features)}"
            return InvalidBody([(f"candidates.{index}.features", message)])
    return InvalidRequest("candidates", str(error))


def check_ids(given: CandidateInput) -> None:
    """Refuse malformed ids, whether or not a catalogue has them; `resolved` did so with many.

    Raises:
        InvalidBody: Names each of them.
    """
    if isinstance(given, list) and len(given) <= MANY:
        _check(given)


def _check(ids: Sequence[str]) -> None:
    if errors := malformed_ids(ids, "candidates.{}"):
        raise InvalidBody(errors)


def malformed_ids(ids: Sequence[str], field: str) -> list[tuple[str, str]]:
    """Return (field, message) of the first malformed ids; `field` has a place for the number."""
    if all(map(_ID.fullmatch, ids)):
        return []
    wrong = (number for number, name in enumerate(ids) if not _ID.fullmatch(name))
    return [(field.format(number), f"must match {ID_PATTERN}") for number in islice(wrong, 20)]


def hashed(given: list[str | InlineAction] | None, offered: CandidateInput) -> Any:
    """Return candidates as `codec.body_hash` takes them; `offered`: as `resolved` gave them.

    Objects count by what is logged of them, as contexts do.
    """
    if given is None or type(given[0]) is str:
        return given
    if isinstance(offered, InlineCandidates) and offered.objects:
        rows = zip(offered.ids, offered.features, strict=True)
        return [{"id": name, "features": row_identity(row)} for name, row in rows]
    return [
        {"id": action.id, "features": array_of(action.features)}
        for action in cast(list[InlineAction], given)
    ]
