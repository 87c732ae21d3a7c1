"""Contexts and action features of a request, from their form on the wire to that of the bandit.

A bandit has arrays or objects with named features; the wire has either. What does not suit the
bandit is refused here, with the place of what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandexa_core.log.contract import Outcome
from bandexa_core.log.metrics import in_order
from bandexa_core.wording import not_finite
from service.http.arrays import decode_array, is_envelope
from service.serving.bandit import Bandit
from service.serving.inputs import NamedSide
from service.store.errors import InvalidRequest

NEEDS_OBJECT = "must be an object with named features, as this bandit has them; it is an array"
NO_OBJECT = "; this bandit has no named features"
NO_ACTION_OBJECT = "; the bandit has no `actions.features`, so that its actions have no names"
# What is on the wire may be longer than its JSON in the log: blanks, escapes, wide numbers.
WIRE_BYTES, WIRE_TIMES = 256, 8
_JSON, _MSGPACK = (
    decoder(dict[str, Any]) for decoder in (msgspec.json.Decoder, msgspec.msgpack.Decoder)
)
_JSON_LIST, _MSGPACK_LIST = (
    decoder(list[dict[str, Any]]) for decoder in (msgspec.json.Decoder, msgspec.msgpack.Decoder)
)


def decode_context(
    bandit: Bandit, raw: msgspec.Raw, *, packed: bool, side: NamedSide | None = None
) -> NDArray[Any]:
    """Return the context of a request: an array, or an object as it is logged.

    Args:
        bandit: The bandit that is asked.
        raw: The part of the body.
        packed: Whether the body is msgpack.
        side: What named features of contexts may be, where that is not the bandit's own.

    Raises:
        InvalidRequest: It cannot be one; names the field.
    """
    side = bandit.contexts if side is None else side
    if side is not None:
        value = _object(raw, side.max_bytes, packed=packed)
        return side.row(value, "context")
    try:
        return decode_array(raw, packed=packed, most=bandit.num_numbers)
    except ValueError as error:
        hint = NO_OBJECT if _is_object(raw, packed=packed) else ""
        raise InvalidRequest("context", f"{error}{hint}") from error


def _object(raw: msgspec.Raw, max_bytes: int, *, packed: bool) -> dict[str, Any]:
    if len(memoryview(raw)) > WIRE_BYTES + WIRE_TIMES * max_bytes:
        raise InvalidRequest("context", f"is too long: at most {max_bytes} bytes are allowed")
    try:
        value = (_MSGPACK if packed else _JSON).decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if _is_object(raw, packed=packed):
            raise _no_object(raw, error, packed=packed) from error
        raise InvalidRequest("context", _needs_object(raw, packed=packed)) from error
    if is_envelope(value):
        raise InvalidRequest("context", NEEDS_OBJECT)
    return value


def _no_object(raw: msgspec.Raw, error: Exception, *, packed: bool) -> InvalidRequest:
    """Return the refusal of an object that cannot be decoded: mostly a number that is too large."""
    try:
        found = None if packed else not_finite(json.loads(bytes(memoryview(raw))))
    except (ValueError, RecursionError):
        found = None
    if found is None and "`key`" in str(error):
        return InvalidRequest("context", "its keys must be texts")
    if found is None:
        return InvalidRequest("context", f"is no JSON object: {error}")
    path, message = found
    return InvalidRequest(".".join(["context", *path]), message)


def _needs_object(raw: msgspec.Raw, *, packed: bool) -> str:
    first = bytes(memoryview(raw)[:1])
    is_list = first == b"[" if not packed else first != b"" and first[0] >> 4 in (9, 13)
    return NEEDS_OBJECT if is_list else NEEDS_OBJECT.partition(";")[0]


def _is_object(raw: msgspec.Raw, *, packed: bool) -> bool:
    first = bytes(memoryview(raw)[:1])
    if not packed:
        return first == b"{"
    return first != b"" and (first[0] >> 4 == 8 or first[0] in (0xDE, 0xDF))


def hint_of(features: Any) -> str:
    """Return what to add to the refusal of features that are an object in place of numbers."""
    return NO_ACTION_OBJECT if isinstance(features, dict) and not is_envelope(features) else ""


def rows_of(side: NamedSide, values: Sequence[Any], field: str) -> NDArray[np.uint8]:
    """Return decoded features of actions as they are logged, uint8 (N, max_bytes).

    Args:
        side: What they may be.
        values: Of each action an object; an empty list stands for one without features.
        field: The place of each in the request, with "{}" for its number.

    Raises:
        InvalidRequest: One of them cannot be one; names the field.
    """
    objects = [{} if value == [] else value for value in values]
    for number, value in enumerate(objects):
        if not isinstance(value, dict) or is_envelope(value):
            raise InvalidRequest(field.format(number), NEEDS_OBJECT)
    return side.rows(objects, field)


def decode_rows(side: NamedSide, raw: msgspec.Raw, *, packed: bool) -> NDArray[np.uint8]:
    """Return the features of several actions, a list of objects, as they are logged.

    Raises:
        InvalidRequest: It is no list of objects, or one of them cannot be one; names the field.
    """
    try:
        values = (_MSGPACK_LIST if packed else _JSON_LIST).decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        text = "must be a list of objects with named features, one for each action"
        raise InvalidRequest("features", text) from error
    return rows_of(side, values, "features.{}")


def outcome_of(
    reward: float | None, metrics: Mapping[str, float] | None, field: str = "reward"
) -> Outcome:
    """Return what is reported: a single reward, or metrics. `field`: where the reward is.

    Raises:
        InvalidRequest: It is neither, or both.
    """
    if metrics is None:
        if reward is None:
            raise InvalidRequest(field, "is needed, or `metrics` in place of it")
        return reward
    if reward is not None:
        raise InvalidRequest("metrics", f"give either `{field}` or `metrics`")
    return in_order(metrics)
