"""Messages of the service as typed values, and the errors of a failed call; standard library alone.

Pure functions and frozen values; the clients are the only senders. Answers are checked field by
field, so that a service that breaks the contract is reported as such. The errors of a call:

    BanditError
    +-- ServiceUnavailable   nothing answered (refused, timed out, cut off), or overload (429, 503)
    +-- ServiceFailed        another 5xx, or an answer that does not follow the contract
    +-- Rejected             a 4xx with the service's problem document
        +-- NotFound         404, no such bandit or decision
        +-- Conflict         409
        +-- Invalid          422, the problem names the fields
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Array = Sequence[object] | Mapping[str, object]
"""An array in a request: nested lists, or what `array_body` returns."""

_T = TypeVar("_T")
_FALLBACK_PREFIX = "fallback:"


class BanditError(Exception):
    """Any failed call."""


class ServiceUnavailable(BanditError):
    """Nothing answered, or the service asked to come back after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServiceFailed(BanditError):
    """The service failed, or its answer does not follow the contract."""


class Rejected(BanditError):
    """The service refused a call, or one item of a batch; `problem` is its RFC 9457 document."""

    def __init__(self, status: int, problem: Mapping[str, object], *, where: str) -> None:
        super().__init__(f"{where}: {_problem_text(status, problem)}")
        self.status = status
        self.problem = dict(problem)


class NotFound(Rejected):
    """No such bandit, action or decision."""


class Conflict(Rejected):
    """The call contradicts what is stored."""


class Invalid(Rejected):
    """The body is invalid; `problem["errors"]` names the fields."""


_REJECTIONS: Mapping[int, type[Rejected]] = {404: NotFound, 409: Conflict, 422: Invalid}


@dataclass(frozen=True, slots=True)
class Action:
    """A chosen action; `index` counts in the candidates as sent, else in the catalogue."""

    id: str
    index: int


@dataclass(frozen=True, slots=True)
class Selection:
    """The answer to a select; `actions` holds all k chosen ones, `action` is the first.

    With `fallback` the service did not answer, and the caller's own action stands in: without
    score and propensity, at snapshot and position -1. The service never hears of it.
    """

    decision_id: str
    action: Action
    actions: tuple[Action, ...]
    score: float | None
    propensity: float | None
    snapshot: int
    position: int
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class RewardStatus:
    """What became of a reward: applied, duplicate, ignored, aggregated or late.

    Or fallback: its decision was the caller's own, which the service never heard of.
    """

    status: str
    train_due: bool


@dataclass(frozen=True, slots=True)
class BanditState:
    """Configuration and progress of a bandit; `created` tells whether this call made it."""

    name: str
    uid: str
    spec: Mapping[str, object]
    num_actions: int
    snapshot: int
    position: int
    num_learned: int
    train_due: bool
    trainer: Mapping[str, object]
    created: bool


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The number of actions after an upsert, and the log position of the change."""

    num_actions: int
    position: int


@dataclass(frozen=True, slots=True)
class ActionScore:
    """Mean and standard deviation of an action's value under the served model."""

    id: str
    index: int
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one context, with the snapshot and position of the model that gave them."""

    scores: tuple[ActionScore, ...]
    snapshot: int
    position: int


@dataclass(frozen=True, slots=True)
class Training:
    """The outcome of a training round that was waited for."""

    trained: bool
    snapshot: int
    position: int
    metrics: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """What a bandit serves after an import."""

    snapshot: int
    position: int


@dataclass(frozen=True, slots=True)
class SelectRequest:
    """One select; see `BanditClient.select` for the fields."""

    bandit: str
    context: Array
    candidates: Sequence[str] | Sequence[Mapping[str, object]] | None = None
    retrieve: int | None = None
    decision_id: str | None = None
    k: int = 1
    activate: bool = True

    def body(self) -> dict[str, object]:
        """Return the JSON body; fields at their default are left out."""
        body: dict[str, object] = {"bandit": self.bandit, "context": self.context}
        optional = {
            "candidates": self.candidates,
            "retrieve": self.retrieve,
            "decision_id": self.decision_id,
        }
        body.update({key: value for key, value in optional.items() if value is not None})
        if self.k != 1:
            body["k"] = self.k
        if not self.activate:
            body["activate"] = False
        return body


@dataclass(frozen=True, slots=True)
class RewardReport:
    """One outcome of a decision; see `BanditClient.reward` for the fields."""

    decision_id: str
    reward: float
    reward_id: str | None = None
    action: str | None = None

    def body(self) -> dict[str, object]:
        """Return the JSON body; fields at their default are left out."""
        body: dict[str, object] = {"decision_id": self.decision_id, "reward": self.reward}
        optional = {"reward_id": self.reward_id, "action": self.action}
        body.update({key: value for key, value in optional.items() if value is not None})
        return body


def new_id() -> str:
    """Return an id nobody else uses."""
    return uuid.uuid4().hex


def fallback_selection(action: str) -> Selection:
    """Return the selection of the caller's own action where the service did not answer."""
    chosen = Action(action, -1)
    return Selection(
        _FALLBACK_PREFIX + new_id(), chosen, (chosen,), None, None, -1, -1, fallback=True
    )


def is_fallback(decision_id: str) -> bool:
    """Tell whether a decision was the caller's own."""
    return decision_id.startswith(_FALLBACK_PREFIX)


def array_body(dtype: str, shape: Sequence[int], data: bytes) -> dict[str, object]:
    """Return an array in its compact form: `data` is its bytes in C order, little endian.

    For a numpy array `x` that is `array_body(str(x.dtype), x.shape, x.tobytes())`.
    """
    return {"dtype": dtype, "shape": list(shape), "data": base64.b64encode(data).decode("ascii")}


def failure(
    status: int, content: bytes, *, where: str, retry_after: str | None = None
) -> BanditError:
    """Return the error that an answer with a status of 400 or more stands for."""
    problem: Mapping[str, object] = {}
    try:
        decoded = json.loads(content)
        problem = decoded if isinstance(decoded, dict) else {}
    except ValueError:
        pass
    if status in (429, 503):
        text = _problem_text(status, problem)
        return ServiceUnavailable(f"{where}: {text}", retry_after_s=_seconds(retry_after))
    if 400 <= status < 500:
        return _REJECTIONS.get(status, Rejected)(status, problem, where=where)
    return ServiceFailed(f"{where}: {_problem_text(status, problem)}")


def answer(content: bytes, *, where: str) -> Mapping[str, object]:
    """Decode the JSON object of a successful answer; ServiceFailed if it is none."""
    try:
        decoded = json.loads(content)
    except ValueError as error:
        raise ServiceFailed(f"{where} answered something other than JSON: {error}") from error
    return _mapping(decoded)


def batch(
    fields: Mapping[str, object], num_items: int, read: Callable[[Mapping[str, object]], _T]
) -> list[_T | Rejected]:
    """Read the items of a batch answer, in the order in which they were sent."""
    rows = [_mapping(row) for row in _get(fields, "items", list)]
    if len(rows) != num_items:
        raise ServiceFailed(f"a batch of {num_items} items was answered with {len(rows)}")
    items: list[_T | Rejected] = []
    for number, row in enumerate(rows):
        status = _get(row, "code", int)
        if status < 400:
            items.append(read(_mapping(row.get("answer"))))
        else:
            problem = _mapping(row.get("error"))
            kind = _REJECTIONS.get(status, Rejected)
            items.append(kind(status, problem, where=f"item {number} of a batch"))
    return items


def bandit_state(fields: Mapping[str, object], *, created: bool) -> BanditState:
    """Read the answer of PUT or GET /bandits/{name}."""
    return BanditState(
        name=_get(fields, "name", str),
        uid=_get(fields, "uid", str),
        spec=_mapping(fields.get("spec")),
        num_actions=_get(fields, "num_actions", int),
        snapshot=_get(fields, "snapshot", int),
        position=_get(fields, "position", int),
        num_learned=_get(fields, "num_learned", int),
        train_due=_get(fields, "train_due", bool),
        trainer=_mapping(fields.get("trainer")),
        created=created,
    )


def catalogue(fields: Mapping[str, object]) -> Catalogue:
    """Read the answer of PUT /bandits/{name}/actions."""
    return Catalogue(_get(fields, "num_actions", int), _get(fields, "position", int))


def selection(fields: Mapping[str, object]) -> Selection:
    """Read the answer of a select."""
    first = _action(_mapping(fields.get("action")))
    several = fields.get("actions")
    chosen = (
        tuple(_action(_mapping(row)) for row in several) if isinstance(several, list) else (first,)
    )
    return Selection(
        decision_id=_get(fields, "decision_id", str),
        action=first,
        actions=chosen,
        score=_optional_float(fields, "score"),
        propensity=_optional_float(fields, "propensity"),
        snapshot=_get(fields, "snapshot", int),
        position=_get(fields, "position", int),
    )


def reward_status(fields: Mapping[str, object]) -> RewardStatus:
    """Read the answer of a reward."""
    return RewardStatus(_get(fields, "status", str), _get(fields, "train_due", bool))


def scores(fields: Mapping[str, object]) -> Scores:
    """Read the answer of POST /bandits/{name}/score."""
    rows = [_mapping(row) for row in _get(fields, "scores", list)]
    return Scores(
        tuple(
            ActionScore(
                _get(row, "id", str),
                _get(row, "index", int),
                _get(row, "mean", float),
                _get(row, "std", float),
            )
            for row in rows
        ),
        _get(fields, "snapshot", int),
        _get(fields, "position", int),
    )


def training(fields: Mapping[str, object]) -> Training:
    """Read the answer of a training round that was waited for."""
    return Training(
        trained=_get(fields, "trained", bool),
        snapshot=_get(fields, "snapshot", int),
        position=_get(fields, "position", int),
        metrics=_mapping(fields.get("metrics") or {}),
    )


def snapshot_state(fields: Mapping[str, object]) -> SnapshotState:
    """Read the answer of a snapshot import."""
    return SnapshotState(_get(fields, "snapshot", int), _get(fields, "position", int))


def _action(fields: Mapping[str, object]) -> Action:
    return Action(_get(fields, "id", str), _get(fields, "index", int))


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ServiceFailed(f"expected a JSON object in an answer, found {value!r:.80}")
    return value


def _get(fields: Mapping[str, object], key: str, kind: type[_T]) -> _T:
    value = fields.get(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ServiceFailed(f"an answer lacks {key!r} of type {kind.__name__}: {fields!r:.200}")
    return value


def _optional_float(fields: Mapping[str, object], key: str) -> float | None:
    return None if fields.get(key) is None else _get(fields, key, float)


def _problem_text(status: int, problem: Mapping[str, object]) -> str:
    """Put the status, the detail and the named fields of a problem document in one line."""
    text = f"{status} {problem.get('detail') or problem.get('title') or 'without a reason'}"
    errors = problem.get("errors")
    if isinstance(errors, list):
        named = [f"{e.get('field')}: {e.get('message')}" for e in errors if isinstance(e, dict)]
        text += f" ({'; '.join(named)})" if named else ""
    return text


def _seconds(retry_after: str | None) -> float | None:
    try:
        return None if retry_after is None else float(retry_after)
    except ValueError:  # an HTTP date: the caller picks its own pause
        return None
