"""Personalizer's lists of JSON objects as the features of a request; what is noted beside them."""

from __future__ import annotations

from typing import Any

from bandexa_core.schema import namespaces
from bandexa_core.schema.namespaces import Features, WrongFeature
from service.store.errors import InvalidRequest

EVENT = "_event"  # the id of an event, where that of its decision does not say it; no feature
SLOTS = "_slots"  # on the first slot: what identifies all slots of its event; no feature


def united(objects: Features, field: str, top: str = "") -> dict[str, Any]:
    """Return the features of a list of objects; see `namespaces.united`.

    Raises:
        InvalidRequest: They have what Personalizer refuses; names the place.
    """
    try:
        return namespaces.united(objects, field, top)
    except WrongFeature as error:
        raise InvalidRequest(error.place, error.message, quotes=True) from error
