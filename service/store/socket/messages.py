"""What the processes of a server say to each other about the store, as msgpack.

Records are sent as they are, arrays as (dtype, shape, bytes). A bandit is named by its key: both
ends read its record from the store. A message is (number, kind, content): an operation with the
number of its answer, an answer, or, with the number 0, an announcement. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bandexa_core.errors import BandexaError
from bandexa_core.ids import ActionId, BanditUid, DecisionId, DecisionKey, SnapshotVersion
from bandexa_core.log.contract import Change, DecisionState, Outcome, Reported
from bandexa_core.spec import RewardSpec
from service.store.errors import (
    Conflict,
    Erased,
    InvalidRequest,
    LogTrimmed,
    StoreDamaged,
    StoreError,
    StoreUnreadable,
    Unavailable,
    UnknownDecision,
)
from service.store.protocol import FoundDecision, Logged, Reportable, Step
from service.store.records import BanditRecord, DecisionRecord, StoredAnswer

Message = tuple[int, int, msgspec.Raw]

# Operations; each has an answer, but for the last two.
DECISION, PROPENSITY, FIND, REPEATS, STEP, CONFIRM, HELLO, SETTLED, COUNTED, SHOWN = range(10)
# Answers and announcements.
RESULT, ERROR, HEADS, BANDITS, SERVED, SETTLE, CLOCK, SHOW = range(8)


class Hello(NamedTuple):
    """What a process receives as it begins to follow.

    Attributes:
        epoch: The epoch of the store's opening.
        clock: The state of the service's clock, packed.
    """

    epoch: int
    clock: str


class FilledIn(NamedTuple):
    """A propensity that was computed after the answer."""

    key: DecisionKey
    propensity: float


class Repeats(NamedTuple):
    """See `EventStore.find_repeats`."""

    key: DecisionKey
    item: int
    reward_id: str | None
    reward: Outcome


class SentDecision(NamedTuple):
    """A `Reportable` whose bandit is named by its key."""

    key: DecisionKey
    id: DecisionId
    bandit: int
    actions: tuple[ActionId, ...]
    state: DecisionState
    changed: RewardSpec | None

    @classmethod
    def of(cls, decision: Reportable) -> SentDecision:
        """Return what is sent of a decision."""
        return cls(
            decision.key, decision.id, decision.bandit.key, decision.actions, decision.state,
            decision.changed,
        )  # fmt: skip

    def received(self, bandit: BanditRecord) -> Reportable:
        """Return the decision."""
        return Reportable(self.key, self.id, bandit, self.actions, self.state, self.changed)


class SentStep(NamedTuple):
    """A `Step` of a report: what others do is the keeper's alone."""

    decision: SentDecision
    change: Change
    time: float
    reported: Reported | None

    @classmethod
    def of(cls, step: Step) -> SentStep:
        """Return what is sent of a step."""
        reported = step.reported
        if reported is not None and reported.repeats:
            reported = replace(reported, repeats=())  # the contract alone reads them
        return cls(SentDecision.of(step.decision), step.change, step.time, reported)

    def received(self, bandit: BanditRecord) -> Step:
        """Return the step."""
        return Step(self.decision.received(bandit), self.change, self.time, self.reported)


class SentFound(NamedTuple):
    """A `FoundDecision`: its rewards in a list."""

    decision: SentDecision
    rewards: list[tuple[int, str, list[Outcome]]] | None

    @classmethod
    def of(cls, found: FoundDecision) -> SentFound:
        """Return what is sent of a decision that was looked up."""
        rewards = found.rewards
        listed = None if rewards is None else [(*key, each) for key, each in rewards.items()]
        return cls(SentDecision.of(found.decision), listed)

    def received(self, bandit: BanditRecord) -> FoundDecision:
        """Return what was looked up."""
        rewards = self.rewards
        by_id = None if rewards is None else {(item, name): each for item, name, each in rewards}
        return FoundDecision(self.decision.received(bandit), by_id)


class Counted(NamedTuple):
    """What a process has answered since it said so last, of one bandit.

    Attributes:
        bandit: Its key.
        selects: Answered selects.
        rewards: Answered rewards, by status.
    """

    bandit: int
    selects: int
    rewards: dict[str, int]


class SentError(NamedTuple):
    """An error of the service: the name of its class, and what it is made of."""

    name: str
    parts: list[str | int | bool]

    @classmethod
    def of(cls, error: Exception) -> SentError:
        """Return what is sent of an error; one of no known class is a StoreError."""
        if isinstance(error, InvalidRequest):
            return cls("InvalidRequest", [error.field, error.message, error.quotes])
        if isinstance(error, Unavailable):
            return cls("Unavailable", [str(error), error.retry_after_s])
        for known in (UnknownDecision, Erased):
            if isinstance(error, known):
                return cls(known.__name__, [str(error)])
        name = type(error).__name__
        return cls(name if name in _PLAIN else "StoreError", [str(error)])

    def received(self) -> BandexaError:
        """Return the error."""
        if self.name == "InvalidRequest":
            field, message, quotes = self.parts
            return InvalidRequest(str(field), str(message), quotes=bool(quotes))
        if self.name == "Unavailable":
            return Unavailable(str(self.parts[0]), int(self.parts[1]))
        if self.name in ("UnknownDecision", "Erased"):
            known = UnknownDecision if self.name == "UnknownDecision" else Erased
            error = known("")
            error.args = (self.parts[0],)
            return error
        return _PLAIN[self.name](str(self.parts[0]))


_PLAIN: dict[str, Callable[[str], BandexaError]] = {
    error.__name__: error
    for error in (Conflict, StoreError, LogTrimmed, StoreUnreadable, StoreDamaged)
}


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} is not sent")


def _unpacked(kind: type, value: Any) -> NDArray[Any]:
    dtype, shape, content = value
    return np.frombuffer(content, dtype).reshape(shape)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_packed)
encode = _ENCODER.encode
messages = msgspec.msgpack.Decoder(list[Message]).decode


def _reads(kind: Any) -> Callable[[msgspec.Raw], Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=_unpacked).decode


OPERATIONS: dict[int, Callable[[msgspec.Raw], Any]] = {
    DECISION: _reads(DecisionRecord),
    PROPENSITY: _reads(FilledIn),
    FIND: _reads(DecisionId),
    REPEATS: _reads(Repeats),
    STEP: _reads(SentStep),
    CONFIRM: _reads(None),
    HELLO: _reads(int),
    SETTLED: _reads(int),
    COUNTED: _reads(list[Counted]),
    SHOWN: _reads(tuple[int, bytes]),
}
RESULTS: dict[int, Callable[[msgspec.Raw], Any]] = {
    DECISION: _reads(StoredAnswer | None),
    PROPENSITY: _reads(None),
    FIND: _reads(SentFound),
    REPEATS: _reads(list[Outcome]),
    STEP: _reads(tuple[Logged, ...] | None),
    CONFIRM: _reads(None),
    HELLO: _reads(Hello),
}
ANNOUNCEMENTS: dict[int, Callable[[msgspec.Raw], Any]] = {
    HEADS: _reads(dict[int, int]),
    BANDITS: _reads(None),
    SERVED: _reads(dict[BanditUid, SnapshotVersion]),
    SETTLE: _reads(int),
    CLOCK: _reads(str),
    SHOW: _reads(int),
}
read_error: Callable[[msgspec.Raw], SentError] = _reads(SentError)
