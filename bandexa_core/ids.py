"""The kinds of identity in the system, so that no signature takes a bare str or int."""

from __future__ import annotations

import os
import time
from typing import NewType

BanditUid = NewType("BanditUid", str)
"""Names one life of a bandit: a name that is deleted and created again gets a new uid."""

DecisionId = NewType("DecisionId", str)
"""One answered select; unique within a server."""

ActionId = NewType("ActionId", str)
"""One action of a bandit's catalogue (or an inline candidate)."""

ActionSlot = NewType("ActionSlot", int)
"""An action's row in the catalogue, in order of its first upsert; never reused. -1: inline."""

LogPosition = NewType("LogPosition", int)
"""A row of a bandit's log; 0 is the empty log, the first row is 1."""

SnapshotVersion = NewType("SnapshotVersion", int)
"""One published snapshot of a bandit; 0 is the one written when it was created."""

INLINE_SLOT = ActionSlot(-1)


def new_decision_id() -> DecisionId:
    """Return an id that nobody can guess: 48 bits of milliseconds, then 80 random ones, in hex.

    Ids made one after the other lie side by side in an index, as those of UUID version 7 do (RFC
    9562, 6.1): keeping a decision then writes one page of it, not a page for each.
    """
    return DecisionId(f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}")
