"""Ids of events and actions: Personalizer takes any text, the service a few characters.

An event's id becomes the id of a decision that is the bandit's own: `pz:BANDIT:EVENT` where that is
one, else `pz-` and a digest. Slots of one event are decisions of their own. The id of an action
stays what it is where it can. What was replaced is stored beside the decision: the event's in its
context, the action's in its features, and callers only ever see their own.
"""

from __future__ import annotations

import secrets
from hashlib import sha256

from bandexa_core.ids import DecisionId
from service.tools.importing.names import DIGEST, action_of, digest, is_id

__all__ = ["action_of", "decision_of", "event_of", "is_digest", "new_event", "reward_of"]
MOST = 256  # characters of an id of Personalizer's


def decision_of(bandit: str, event: str, slot: str | None = None) -> DecisionId:
    """Return the id of the decision of an event, or of one of its slots."""
    parts = [bandit, event] if slot is None else [bandit, event, slot]
    head = "pz" if slot is None else "ps"
    readable = ":".join([head, *parts])
    # The last part may have colons: where all others have none, there is one way to read it.
    if is_id(readable) and not any(":" in part for part in parts[:-1]):
        return DecisionId(readable)
    return DecisionId(digest(head, *parts))


def reward_of(bandit: str, decision: DecisionId, request: str) -> str:
    """Return the id of a reward that a client's request reports, however often it is sent."""
    return digest("reward", bandit, decision, request)


def is_digest(decision: DecisionId) -> bool:
    """Whether an id says nothing of the event's own, so that it has to be stored."""
    return decision.startswith(DIGEST)


def event_of(bandit: str, request: str, body: bytes) -> str:
    """Return the id of an event whose client sent none, the same for each try of one request.

    It has the form of Personalizer's own: 32 hexadecimal digits, a dash and five more.
    """
    digest = sha256(b"\0".join([bandit.encode(), request.encode(), body])).hexdigest()
    return f"{digest[:32]}-{digest[32:37]}"


def new_event() -> str:
    """Return a new id of that form."""
    return f"{secrets.token_hex(16)}-{secrets.token_hex(3)[:5]}"
