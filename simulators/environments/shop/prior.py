"""A prior over shops: `shop_prior` draws one from a seed. The worlds that are played, by name.

The prior is centred on the hand-set shop. It moves the numbers of values, the shares of missing
ones, the pace, the delays, the number of offers, and the weight of each interaction; the tastes of
the kinds are drawn anew. The base is set so that a uniform choice is clicked at the rate that was
drawn, as measured on one stream of a tuning seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from simulators.environments.shop.stream import shop_stream
from simulators.environments.shop.values import COUNTRIES, DAYPARTS, DEVICES, KINDS, REGIONS
from simulators.environments.shop.world import SHOP, KindTaste, ShopWorld, Taste

WORLDS = ("shop", "shop-2", "shop-3")
"""The names of the worlds that are played; the number is the seed of the prior."""

_CLICK_RATES = (0.08, 0.15)
_DAYPART_STD, _DEVICE_STD, _REGION_STD = 0.5, 0.45, 0.4
_WEEKEND_STD, _MEMBER_STD = 0.4, 0.3
_SPREAD = 0.3  # standard deviation of the logarithm of a weight's factor
_WINDOW_DELAYS = 4.0
_CALIBRATION_SEED, _CALIBRATION_STEPS = 0, 2000


@cache
def shop_world(name: str) -> ShopWorld:
    """Return a world of `WORLDS`.

    Raises:
        ValueError: There is no such world.
    """
    if name not in WORLDS:
        raise ValueError(f"there is no world {name!r}: {', '.join(WORLDS)}")
    return SHOP if name == "shop" else shop_prior(int(name.removeprefix("shop-")))


def shop_prior(seed: int) -> ShopWorld:
    """Draw a shop, whose name is shop-SEED."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    num_kinds = int(rng.integers(5, len(KINDS) + 1))
    kinds = tuple(str(kind) for kind in rng.permutation(list(KINDS))[:num_kinds])
    countries = tuple(str(code) for code in rng.permutation(COUNTRIES))
    num_live = int(rng.integers(12, 29))
    delay_s = float(np.exp(rng.uniform(np.log(1800.0), np.log(21_600.0))))
    world = ShopWorld(
        name=f"shop-{seed}",
        kinds=kinds,
        countries=countries[: int(rng.integers(30, len(COUNTRIES) + 1))],
        country_exponent=float(rng.uniform(0.8, 1.4)),
        num_users=int(rng.integers(600, 3000)),
        member_share=float(rng.uniform(0.15, 0.6)),
        num_campaigns=int(rng.integers(6, 21)),
        campaign_share=float(rng.uniform(0.15, 0.5)),
        age_missing=float(rng.uniform(0.05, 0.4)),
        basket_missing=float(rng.uniform(0.1, 0.5)),
        step_s=float(rng.uniform(300.0, 900.0)),
        delay_s=delay_s,
        window_s=_WINDOW_DELAYS * delay_s,
        num_live=num_live,
        num_offers=int(num_live * rng.uniform(2.0, 4.0)),
        taste=_draw_taste(rng, num_kinds),
    )
    return _clicked_at(world, float(rng.uniform(*_CLICK_RATES)))


def _draw_taste(rng: np.random.Generator, num_kinds: int) -> Taste:
    def factor() -> float:
        return float(np.exp(_SPREAD * rng.standard_normal()))

    def row(std: float, num: int) -> Callable[[], tuple[float, ...]]:
        std *= factor()
        return lambda: tuple(float(value) for value in std * rng.standard_normal(num))

    dayparts, devices = row(_DAYPART_STD, len(DAYPARTS)), row(_DEVICE_STD, len(DEVICES))
    regions = row(_REGION_STD, len(REGIONS))
    weekend, member = row(_WEEKEND_STD, 1), row(_MEMBER_STD, 1)
    kinds = tuple(
        KindTaste(dayparts(), devices(), regions(), *weekend(), *member()) for _ in range(num_kinds)
    )
    moved = {
        name: getattr(SHOP.taste, name) * factor()
        for name in (
            "weekend", "member", "word", "campaign", "tag", "price", "price_age", "price_basket",
            "short", "fresh", "appeal_std",
        )
    }  # fmt: skip
    return replace(SHOP.taste, base=0.0, kinds=kinds, **moved)


def _clicked_at(world: ShopWorld, rate: float) -> ShopWorld:
    """Return the world with the base at which a uniform choice is clicked at this rate."""
    stream = shop_stream(world, seed=_CALIBRATION_SEED, horizon=_CALIBRATION_STEPS)
    found = logit(stream.means)
    base = float(brentq(lambda base: float(expit(found + base).mean()) - rate, -20.0, 20.0))
    return replace(world, taste=replace(world.taste, base=base))
