"""The types of identifiers, so that no signature takes a bare str or int for one of them."""

from __future__ import annotations

import os
import time
from typing import NewType

BanditUid = NewType("BanditUid", str)
"""Identifies a bandit for good: a bandit that is deleted and recreated gets a new uid."""

DecisionId = NewType("DecisionId", str)
"""Identifies one answered select; unique within a server."""

ActionId = NewType("ActionId", str)
"""Identifies an action of a bandit's catalogue, or an inline candidate."""

ActionSlot = NewType("ActionSlot", int)
"""The row of an action in the catalogue, in order of first upsert; never reused. -1 is inline."""

LogPosition = NewType("LogPosition", int)
"""A row of a bandit's log. The first row has position 1; 0 stands for the empty log."""

SnapshotVersion = NewType("SnapshotVersion", int)
"""A published snapshot of a bandit. Version 0 is written when the bandit is created."""

INLINE_SLOT = ActionSlot(-1)


def new_decision_id() -> DecisionId:
    """Return an id that cannot be guessed: 48 bits of milliseconds and 80 random bits, in hex.

    The time comes first, as in UUID version 7 (RFC 9562, section 6.1), so that consecutive ids are
    neighbours in an index. Storing decisions then writes few pages of it instead of one for each.
    """
    return DecisionId(f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}")
