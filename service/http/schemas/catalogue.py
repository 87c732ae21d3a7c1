"""The body that changes a catalogue, decoded by type: it may hold a million actions."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from service.http.arrays import ActionFeatures
from service.http.schemas.decide import MAX_CANDIDATES, Array, Body, ListedId

_MANY = Meta(min_length=1, max_length=MAX_CANDIDATES)


class ActionBody(Body, frozen=True, kw_only=True):
    """An action of the catalogue."""

    id: ListedId
    features: ActionFeatures | None = None
    enabled: bool = True


class ActionsRequest(Body, frozen=True, kw_only=True):
    """Actions to add or overwrite: a list, or in columns for many at once."""

    actions: Annotated[list[ActionBody], _MANY] | None = None
    ids: Annotated[list[ListedId], _MANY] | None = None
    features: Array = msgspec.field(default_factory=Raw)  # empty where not given
