"""Bodies of Personalizer's calls, decoded by type; keys that are not known are passed over."""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from service.http.limits import BodyBounds
from service.http.personalizer.ids import MOST
from service.store.errors import InvalidRequest

MOST_ACTIONS = 50
Text = Annotated[str, Meta(min_length=1, max_length=MOST)]
Objects = list[dict[str, Any]]


class Body(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """Base of the bodies: a key that may be left out may be null, too."""


class Action(Body, frozen=True, kw_only=True):
    """An action that may be chosen."""

    id: Text
    features: Annotated[Objects, Meta(min_length=1)]


Actions = Annotated[list[Action], Meta(min_length=1, max_length=MOST_ACTIONS)]


class RankRequest(Body, frozen=True, kw_only=True):
    """Which of these actions for this context?"""

    context_features: Objects | None = None
    actions: Actions
    excluded_actions: list[str] | None = None
    event_id: Text | None = None
    defer_activation: bool | None = None


class RewardRequest(Body, frozen=True, kw_only=True):
    """How it went."""

    value: float


class Ranked(Body, frozen=True, kw_only=True):
    """An action, and the probability with which it was to be chosen."""

    id: str
    probability: float


class RankAnswer(Body, frozen=True, kw_only=True):
    """The actions in the learner's order, and the one to show."""

    ranking: list[Ranked]
    event_id: str
    reward_action_id: str


class ServiceConfiguration(Body, frozen=True, kw_only=True):
    """How a bandit takes rewards, explores, and whether it decides."""

    reward_wait_time: str
    default_reward: float
    reward_aggregation: str
    exploration_percentage: float
    model_export_frequency: str
    log_retention_days: int
    log_mirror_enabled: bool | None = None
    learning_mode: str | None = None
    is_auto_optimization_enabled: bool | None = None
    model_retrain_days: int | None = None
    is_inference_explainability_enabled: bool | None = None


class Slot(Body, frozen=True, kw_only=True):
    """A place that takes one of the actions."""

    id: Text
    features: Objects | None = None
    excluded_actions: list[str] | None = None
    baseline_action: str


Slots = Annotated[list[Slot], Meta(min_length=1, max_length=MOST_ACTIONS)]


class MultiSlotRankRequest(Body, frozen=True, kw_only=True):
    """Which of these actions for each of these slots?"""

    context_features: Objects | None = None
    actions: Actions
    slots: Slots
    event_id: Text | None = None
    defer_activation: bool | None = None


class SlotAnswer(Body, frozen=True, kw_only=True):
    """The action of a slot."""

    id: str
    reward_action_id: str


class MultiSlotRankAnswer(Body, frozen=True, kw_only=True):
    """The action of each slot."""

    slots: list[SlotAnswer]
    event_id: str


class SlotReward(Body, frozen=True, kw_only=True):
    """How a slot went."""

    slot_id: Text
    value: float


class MultiSlotRewardRequest(Body, frozen=True, kw_only=True):
    """How slots went."""

    reward: Annotated[list[SlotReward], Meta(min_length=1, max_length=MOST_ACTIONS)]


T = TypeVar("T", bound=Body)


class Decoder(Generic[T]):
    """Decodes the JSON of one kind of body."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)

    def decode(self, raw: bytes, bounds: BodyBounds) -> T:
        """Return the decoded body.

        Raises:
            InvalidRequest: It is none; names what is wrong first.
            HTTPException: 413: it has too many elements.
        """
        bounds.check_json(raw)
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            message, _, place = str(error).partition(" - at `$")
            path = place.rstrip("`").replace("[", ".").replace("]", "").strip(".")
            raise InvalidRequest(path or "body", message) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest("body", f"is no JSON: {error}") from error
