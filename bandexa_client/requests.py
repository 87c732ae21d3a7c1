"""Requests as frozen values, and the ids that make repeating them safe."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bandexa_client.answers.decisions import Action, Selection
from bandexa_client.arrays import Array, Features, rows, sendable

Actions = Sequence[str | Mapping[str, object]]
"""Actions in a request: ids of the catalogue, or a dict with `id` and `features` each."""

_FALLBACK_PREFIX = "fallback:"
_FALLBACK = re.compile(_FALLBACK_PREFIX + "[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class SelectRequest:
    """One select; see `BanditClient.select` for the fields."""

    bandit: str
    context: Features
    candidates: Actions | None = None
    retrieve: int | None = None
    decision_id: str | None = None
    k: int = 1
    activate: bool = True
    unit: str | None = None
    all_propensities: bool = False
    served: str | None = None

    def body(self) -> dict[str, object]:
        """Return the JSON body, without fields at their default."""
        body: dict[str, object] = {"bandit": self.bandit, "context": sendable(self.context)}
        optional = {
            "candidates": self.candidates,
            "retrieve": self.retrieve,
            "decision_id": self.decision_id,
            "unit": self.unit,
            "served": self.served,
        }
        body.update({key: value for key, value in optional.items() if value is not None})
        if self.k != 1:
            body["k"] = self.k
        if not self.activate:
            body["activate"] = False
        if self.all_propensities:
            body["all_propensities"] = True
        return body


@dataclass(frozen=True, slots=True)
class RewardReport:
    """One outcome of a decision; see `BanditClient.reward` for the fields."""

    decision_id: str
    reward: float | None = None
    reward_id: str | None = None
    action: str | None = None
    bandit: str | None = None
    metrics: Mapping[str, float] | None = None

    def body(self) -> dict[str, object]:
        """Return the JSON body, without fields at their default."""
        body: dict[str, object] = {"decision_id": self.decision_id}
        optional = {
            "reward": self.reward, "metrics": self.metrics, "reward_id": self.reward_id,
            "action": self.action, "bandit": self.bandit,
        }  # fmt: skip
        body.update({key: value for key, value in optional.items() if value is not None})
        return body


def catalogue_body(
    actions: Actions,
    features: Array | Sequence[Mapping[str, object]] | None,
    enabled: Sequence[bool] | None,
) -> dict[str, object]:
    """Return the JSON body that puts actions: in columns where it can, otherwise in rows.

    Raises:
        ValueError: `features` or `enabled` do not have a row for each action.
    """
    ids = [action for action in actions if isinstance(action, str)]
    if len(ids) < len(actions):
        if features is not None or enabled is not None:
            raise ValueError("features and enabled belong to ids; these actions have their own")
        return {"actions": [{"id": one} if isinstance(one, str) else one for one in actions]}
    if features is not None and enabled is None:
        return {"ids": ids, "features": sendable(features)}
    listed: list[dict[str, object]] = [{"id": action} for action in ids]
    if features is not None:
        for row, values in zip(listed, rows(features, len(ids)), strict=True):
            row["features"] = values
    if enabled is not None:
        if len(enabled) != len(ids):
            raise ValueError(f"enabled: {len(enabled)} values for {len(ids)} actions")
        for row, offered in zip(listed, enabled, strict=True):
            row["enabled"] = bool(offered)
    return {"actions": listed}


def new_id() -> str:
    """Return a unique id: 48 bits of milliseconds and 80 random bits, in hex.

    The time comes first, as in UUID version 7 (RFC 9562, section 6.1), so that consecutive ids are
    neighbours in the service's index. Storing decisions then writes few pages of it.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def fallback_selection(action: str) -> Selection:
    """Return the selection of the caller's own action, for a select without an answer."""
    chosen = Action(action, -1)
    return Selection(
        _FALLBACK_PREFIX + new_id(), chosen, (chosen,), None, None, -1, -1, fallback=True
    )


def is_fallback(decision_id: str) -> bool:
    """Return whether a decision is one that `fallback_selection` made."""
    return _FALLBACK.fullmatch(decision_id) is not None
