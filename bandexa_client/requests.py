"""Requests as frozen values, and the ids that make repeating them safe."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bandexa_client.answers import Action, Selection
from bandexa_client.arrays import Array, sendable

Candidates = Sequence[str] | Sequence[Mapping[str, object]]
"""Actions of a request: ids of the catalogue, or `{id, features}` each."""

_FALLBACK_PREFIX = "fallback:"


@dataclass(frozen=True, slots=True)
class SelectRequest:
    """One select; see `BanditClient.select` for the fields."""

    bandit: str
    context: Array
    candidates: Candidates | None = None
    retrieve: int | None = None
    decision_id: str | None = None
    k: int = 1
    activate: bool = True

    def body(self) -> dict[str, object]:
        """Return the JSON body, without fields at their default."""
        body: dict[str, object] = {"bandit": self.bandit, "context": sendable(self.context)}
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
        """Return the JSON body, without fields at their default."""
        body: dict[str, object] = {"decision_id": self.decision_id, "reward": self.reward}
        optional = {"reward_id": self.reward_id, "action": self.action}
        body.update({key: value for key, value in optional.items() if value is not None})
        return body


def new_id() -> str:
    """Return a unique id."""
    return uuid.uuid4().hex


def fallback_selection(action: str) -> Selection:
    """Return the selection of the caller's own action, for a select without an answer."""
    chosen = Action(action, -1)
    return Selection(
        _FALLBACK_PREFIX + new_id(), chosen, (chosen,), None, None, -1, -1, fallback=True
    )


def is_fallback(decision_id: str) -> bool:
    """Return whether a decision was the caller's own."""
    return decision_id.startswith(_FALLBACK_PREFIX)
