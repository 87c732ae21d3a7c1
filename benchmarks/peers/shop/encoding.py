"""A hand-written encoding of the shop's JSON objects as vectors: what a user has to write today.

It is frozen: its columns are those of the first 200 visits and of the offers that were live in
them, as if from a log of the days before. A value that comes later has no column, so it is all
zeros, or the column "other" where a field has one. Missing numbers are 0 with a flag. The user's id
is left out: with so many values a column for each is of no use. The service scales columns itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from simulators.environments.shop import OfferFeatures, Visit
from simulators.environments.shop.visits import START

Vector = NDArray[np.float32]

_SATURDAY = 5
_DAY_H, _DAY_S = 24.0, 86_400.0


class HandEncoding:
    """The columns of contexts and of actions.

    Args:
        visits: Visits whose values get columns.
        offers: Features of offers whose values get columns.
    """

    def __init__(self, visits: Sequence[Visit], offers: Sequence[OfferFeatures]) -> None:
        self._countries = _seen(visit["country"] for visit in visits)
        self._devices = _seen(visit["device"] for visit in visits)
        self._sources = _seen(visit["source"] for visit in visits)
        self._interests = _seen(tag for visit in visits for tag in visit["interests"])
        self._words = _seen(word for visit in visits for word in visit["query"].split())
        self._kinds = _seen(offer["kind"] for offer in offers)
        self._tags = _seen(tag for offer in offers for tag in offer["tags"])
        self.num_context = len(self.context(visits[0]))
        self.num_action = len(self.action(offers[0]))

    def context(self, visit: Visit) -> Vector:
        """Return a visit as float32 (d,)."""
        moment = datetime.fromisoformat(visit["visited_at"])
        turn = 2.0 * math.pi * (moment.hour + moment.minute / 60.0) / _DAY_H
        age, basket = visit["user"].get("age"), visit.get("basket")
        values = [
            float(visit["user"]["member"]),
            0.0 if age is None else age / 10.0,
            float(age is None),
            0.0 if basket is None else math.log1p(basket),
            float(basket is None),
            math.sin(turn),
            math.cos(turn),
            float(moment.weekday() >= _SATURDAY),
            *_one_hot(self._countries, visit["country"]),
            *_one_hot(self._devices, visit["device"]),
            *_one_hot(self._sources, visit["source"]),
            *_several(self._interests, visit["interests"]),
            *_several(self._words, visit["query"].split()),
        ]
        return np.array(values, np.float32)

    def action(self, offer: OfferFeatures) -> Vector:
        """Return an offer as float32 (A,)."""
        least = offer["min_basket"]
        launched = datetime.fromisoformat(offer["launched"]) - START
        values = [
            math.log(offer["price"]),
            0.0 if least is None else math.log(least),
            float(least is None),
            launched.total_seconds() / _DAY_S,
            *_several(self._kinds, [offer["kind"]]),
            *_several(self._tags, offer["tags"]),
        ]
        return np.array(values, np.float32)


def _seen(values: Iterable[str]) -> list[str]:
    return sorted(set(values))


def _one_hot(known: Sequence[str], value: str) -> list[float]:
    return [*_several(known, [value]), float(value not in known)]


def _several(known: Sequence[str], values: Iterable[str]) -> list[float]:
    found = set(values)
    return [float(value in found) for value in known]
