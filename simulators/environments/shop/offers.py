"""Draws the offers: what each is, and from which step to which it is live.

The number of live offers does not change: an offer comes when another goes. Those of the first step
were launched before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from simulators.environments.shop.values import KINDS, TAG_KIND
from simulators.environments.shop.visits import timestamp
from simulators.environments.shop.world import ShopWorld

_PRICE_STD = 0.45
_LEAST_BASKETS = (20.0, 30.0, 50.0, 80.0, 120.0)
_CONDITIONED = 0.5
_MOST_TAGS, _OWN_TAG = 3, 0.75
_OLDER_S = 7 * 86_400.0


class OfferFeatures(TypedDict):
    """The features of an action: five fields of plain JSON values.

    Attributes:
        kind: One of the world's kinds.
        price: In the shop's currency.
        min_basket: The basket from which the offer holds, null for any.
        tags: One to three tags.
        launched: ISO 8601, UTC, to the second.
    """

    kind: str
    price: float
    min_basket: float | None
    tags: list[str]
    launched: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An action.

    Attributes:
        id: Its id.
        features: What a policy sees of it.
        appeal: Its own part of the log-odds, which no policy sees.
        arrives: The first step at which it is live.
        retires: The first step at which it is live no longer; the horizon if it stays.
    """

    id: str
    features: OfferFeatures
    appeal: float
    arrives: int
    retires: int


def draw_offers(
    world: ShopWorld, rng: np.random.Generator, times: NDArray[np.int64]
) -> tuple[Offer, ...]:
    """Return the offers in the order of their arrivals, for visits at these seconds."""
    horizon, num_later = len(times), world.num_offers - world.num_live
    first, last = min(1, horizon - 1), max(horizon - 1, 0)
    arrives = [0] * world.num_live
    retires = [horizon] * world.num_live
    for number in range(num_later if horizon > 1 else 0):
        step = int(np.clip(int(horizon * (number + rng.random()) / num_later), first, last))
        live = [n for n, end in enumerate(retires) if end == horizon and arrives[n] < step]
        if live:  # a horizon of few steps has room for few offers
            retires[live[int(rng.integers(len(live)))]] = step
            arrives.append(step)
            retires.append(horizon)
    out = []
    for number, (begin, end) in enumerate(zip(arrives, retires, strict=True)):
        older = rng.exponential(_OLDER_S) if begin == 0 else 0.0
        launched = timestamp(float(times[begin]) - older)
        out.append(
            Offer(
                id=f"offer-{number + 1:03d}",
                features=_features(world, rng, launched),
                appeal=world.taste.appeal_std * float(rng.standard_normal()),
                arrives=begin,
                retires=end,
            )
        )
    return tuple(out)


def _features(world: ShopWorld, rng: np.random.Generator, launched: str) -> OfferFeatures:
    kind = world.kinds[int(rng.integers(len(world.kinds)))]
    price = KINDS[kind].price * float(np.exp(_PRICE_STD * rng.standard_normal()))
    conditioned = rng.random() < _CONDITIONED
    least = _LEAST_BASKETS[int(rng.integers(len(_LEAST_BASKETS)))]
    every_tag = [tag for tag, of in TAG_KIND.items() if of in world.kinds]
    tags = [
        str(rng.choice(KINDS[kind].tags if rng.random() < _OWN_TAG else every_tag))
        for _ in range(int(rng.integers(1, _MOST_TAGS + 1)))
    ]
    return OfferFeatures(
        kind=kind,
        price=round(price, 2),
        min_basket=least if conditioned else None,
        tags=list(dict.fromkeys(tags)),
        launched=launched,
    )
