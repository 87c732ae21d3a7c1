"""The log-odds of a click: a function of the two JSON objects, and of the offer's own appeal.

    l = base + weekend [Sa, Su] + member [member]
      + daypart_k[d] + device_k[v] + region_k[r] + weekend_k [Sa, Su] + member_k [member]
      + word min(n_k, 2) + campaign [source is a campaign for k] + tag min(m, 2)
      + price (log p - q)^2 + short s + fresh exp(-h / 5) + appeal
    q = log 50 + price_age tanh((age - 40) / 15) + price_basket (log(1 + basket) - log 41)

k, p: the offer's kind and price; d, v, r: part of the day, device, region of the country; n_k:
words of the query that belong to k; m: tags that are interests; h: days since the launch, 0 before
it; s: 1 if the basket is below the least one, .5 if there is a least one and no basket is known,
else 0. The age and basket terms of q are 0 where age or basket are not known: nothing is computed
from what a policy cannot see. The law is this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from simulators.environments.shop.offers import Offer
from simulators.environments.shop.values import (
    DEVICES,
    REGION_OF,
    TAG_KIND,
    WORD_KIND,
    campaign_kind,
    daypart,
)
from simulators.environments.shop.visits import Visit
from simulators.environments.shop.world import ShopWorld

Logits = NDArray[np.float64]

_USUAL_PRICE, _USUAL_BASKET = 50.0, 40.0
_USUAL_AGE, _AGE_SPAN = 40.0, 15.0
_MOST_COUNTED = 2
_FADES_S = 5 * 86_400.0
_SATURDAY = 5


def logits(world: ShopWorld, visits: Sequence[Visit], offers: Sequence[Offer]) -> Logits:
    """Return l for every visit and offer, live or not, (T, N)."""
    taste = world.taste
    kinds = np.array([world.kinds.index(offer.features["kind"]) for offer in offers])
    tags = [offer.features["tags"] for offer in offers]
    shared = _tag_sets([visit["interests"] for visit in visits]) @ _tag_sets(tags).T
    found: Logits = np.array([_of_kinds(world, visit) for visit in visits])[:, kinds]
    found += taste.tag * np.minimum(shared, _MOST_COUNTED)
    found += _of_prices(world, visits, offers)
    found += taste.fresh * _freshness(visits, offers)
    found += np.array([offer.appeal for offer in offers])
    return found


def _of_kinds(world: ShopWorld, visit: Visit) -> list[float]:
    """Return the part of the log-odds that depends on the kind of the offer alone."""
    taste, moment = world.taste, datetime.fromisoformat(visit["visited_at"])
    part, device = daypart(moment.hour), DEVICES.index(visit["device"])
    region, weekend = REGION_OF[visit["country"]], float(moment.weekday() >= _SATURDAY)
    member = float(visit["user"]["member"])
    asked = [WORD_KIND.get(word) for word in visit["query"].split()]
    advertised = campaign_kind(visit["source"])
    common = taste.base + taste.weekend * weekend + taste.member * member
    return [
        common
        + row.daypart[part]
        + row.device[device]
        + row.region[region]
        + row.weekend * weekend
        + row.member * member
        + taste.word * min(asked.count(kind), _MOST_COUNTED)
        + taste.campaign * float(kind == advertised)
        for kind, row in zip(world.kinds, taste.kinds, strict=True)
    ]


def _tag_sets(rows: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    index = {tag: number for number, tag in enumerate(TAG_KIND)}
    out = np.zeros((len(rows), len(index)))
    for number, tags in enumerate(rows):
        out[number, [index[tag] for tag in tags]] = 1.0
    return out


def _of_prices(world: ShopWorld, visits: Sequence[Visit], offers: Sequence[Offer]) -> Logits:
    taste, wanted = world.taste, np.full(len(visits), np.log(_USUAL_PRICE))
    baskets = np.array([visit.get("basket", np.nan) for visit in visits])
    for row, visit in enumerate(visits):
        age, basket = visit["user"].get("age"), visit.get("basket")
        if age is not None:
            wanted[row] += taste.price_age * np.tanh((age - _USUAL_AGE) / _AGE_SPAN)
        if basket is not None:
            wanted[row] += taste.price_basket * (np.log1p(basket) - np.log1p(_USUAL_BASKET))
    prices = np.log([offer.features["price"] for offer in offers])
    least = np.array([offer.features["min_basket"] or 0.0 for offer in offers])
    short = np.where(np.isnan(baskets)[:, None], 0.5 * (least > 0.0), baskets[:, None] < least)
    found: Logits = taste.price * (prices - wanted[:, None]) ** 2 + taste.short * short
    return found


def _freshness(visits: Sequence[Visit], offers: Sequence[Offer]) -> NDArray[np.float64]:
    now = np.array([_seconds(visit["visited_at"]) for visit in visits])
    launched = np.array([_seconds(offer.features["launched"]) for offer in offers])
    fresh: NDArray[np.float64] = np.exp(-np.maximum(now[:, None] - launched, 0.0) / _FADES_S)
    return fresh


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
