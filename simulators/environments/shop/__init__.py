"""A web shop that chooses offers for its visitors: contexts and actions are JSON objects.

`world.py` holds what differs between shops, and the seeds; `stream.py` draws everything that a
policy meets. A shop is no `Environment`: its contexts are no arrays, its actions come and go, and
its rewards are late.
"""

from simulators.environments.shop.offers import Offer, OfferFeatures
from simulators.environments.shop.prior import WORLDS, shop_prior, shop_world
from simulators.environments.shop.stream import MOST_PAID, ShopStream, shop_stream
from simulators.environments.shop.visits import Visit
from simulators.environments.shop.world import REPORT_SEEDS, SHOP, TUNING_SEEDS, ShopWorld

__all__ = [
    "MOST_PAID",
    "REPORT_SEEDS",
    "SHOP",
    "TUNING_SEEDS",
    "WORLDS",
    "Offer",
    "OfferFeatures",
    "ShopStream",
    "ShopWorld",
    "Visit",
    "shop_prior",
    "shop_stream",
    "shop_world",
]
