"""The types of identifiers, so that no signature takes a bare str or int for one of them."""

from __future__ import annotations

from typing import NewType

BanditUid = NewType("BanditUid", str)
"""Identifies a bandit for good: a bandit that is deleted and recreated gets a new uid."""

DecisionId = NewType("DecisionId", str)
"""Identifies one answered select; unique within a server."""

DecisionKey = NewType("DecisionKey", int)
"""Identifies one answered select inside a store; those of a bandit are ordered by time."""

ActionId = NewType("ActionId", str)
"""Identifies an action of a bandit's catalogue, or an inline candidate."""

ActionSlot = NewType("ActionSlot", int)
"""The row of an action in the catalogue, in order of first upsert; never reused. -1 is inline."""

LogPosition = NewType("LogPosition", int)
"""A row of a bandit's log. The first row has position 1; 0 stands for the empty log."""

UNPLACED = LogPosition(-1)
"""The position of an imported snapshot until the log row that names it is committed."""

SnapshotVersion = NewType("SnapshotVersion", int)
"""A published snapshot of a bandit. Version 0 is written when the bandit is created."""

INLINE_SLOT = ActionSlot(-1)
