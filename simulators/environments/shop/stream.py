"""A stream of a shop: everything that it shows and pays, fixed by world, seed and horizon.

T steps, N offers, L of them live at a step. One uniform number of a step decides for all of its
offers whether they are clicked, and they share the delay and the size of the purchase, so that two
policies which choose alike are paid alike. A click is reported `delay` seconds after the visit; a
visit without a click reports nothing. The window of a decision closes `window_s` seconds after the
visit, and a click that takes longer is not reported. Pure computation; nothing is stored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from simulators.environments.shop.clicks import logits
from simulators.environments.shop.offers import Offer, draw_offers
from simulators.environments.shop.visits import Visit, draw_times, draw_visits
from simulators.environments.shop.world import ShopWorld

MOST_PAID = 350.0
"""The most that a purchase is worth."""

_PAID_STD = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopStream:
    """One shop with one seed.

    Attributes:
        world: The shop.
        seed: The seed.
        money: Whether a click pays the purchase, up to 350; else it pays 1.
        contexts: The visits, T JSON objects; a policy must not change them.
        times_s: Seconds of the world's clock at each visit, ascending, int64 (T,).
        offers: All N offers in the order of their arrivals.
        live: The live offers of each step as ascending indices of `offers`, int64 (T, L).
        means: Expected rewards of the live offers, float64 (T, L).
        rewards: What each of them would pay, float64 (T, L).
        delays_s: Seconds from the visit to its click, should there be one, float64 (T,).
    """

    world: ShopWorld
    seed: int
    money: bool
    contexts: tuple[Visit, ...]
    times_s: NDArray[np.int64]
    offers: tuple[Offer, ...]
    live: NDArray[np.int64]
    means: NDArray[np.float64]
    rewards: NDArray[np.float64]
    delays_s: NDArray[np.float64]

    @property
    def horizon(self) -> int:
        """T, the number of steps."""
        return len(self.contexts)

    def on_offer(self, t: int) -> tuple[Offer, ...]:
        """Return the live offers of step t, in the order of the columns of `means`."""
        return tuple(self.offers[index] for index in self.live[t].tolist())

    def arrivals(self, t: int) -> tuple[Offer, ...]:
        """Return the offers that are live from step t on; at step 0 the first L."""
        return tuple(offer for offer in self.offers if offer.arrives == t)

    def retirements(self, t: int) -> tuple[str, ...]:
        """Return the ids of the offers that are live no longer at step t."""
        return tuple(offer.id for offer in self.offers if offer.retires == t)

    def reported_s(self, t: int) -> float | None:
        """Return when a click of step t is reported, in seconds of the world's clock.

        None: it takes longer than the window, and is not reported.
        """
        delay = float(self.delays_s[t])
        return float(self.times_s[t]) + delay if delay <= self.world.window_s else None

    def closes_s(self, t: int) -> float:
        """Return when the window of step t closes, in seconds of the world's clock."""
        return float(self.times_s[t]) + self.world.window_s

    def known_at(self, moment_s: float) -> int:
        """Return the first step at or after a moment of the clock; T: after the last one."""
        return int(np.searchsorted(self.times_s, moment_s))

    def digest(self) -> str:
        """Return a digest of everything, by which two runs show that they met the same stream."""
        found = blake2b(digest_size=8)
        found.update(repr((self.world, self.seed, self.money, self.offers)).encode())
        found.update(json.dumps(self.contexts).encode())
        for array in (self.times_s, self.live, self.means, self.rewards, self.delays_s):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def shop_stream(world: ShopWorld, *, seed: int, horizon: int, money: bool = False) -> ShopStream:
    """Draw a stream of a shop.

    With `money`, a click pays min(p exp(.8 z), 350) for the offer's price p and a standard normal
    number z of the step, and regret is in expected money.

    Args:
        world: The shop.
        seed: Fixes visits, offers, clicks and delays.
        horizon: T, the number of steps; campaigns and offers come and go over all of it.
        money: See above.

    Raises:
        ValueError: The horizon is below 1.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, not {horizon}")
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)]
    of_times, of_visits, of_offers, of_clicks = streams
    times = draw_times(world, of_times, horizon)
    visits = draw_visits(world, of_visits, times)
    offers = draw_offers(world, of_offers, times)
    live = _live(world, offers, horizon)
    chances = expit(np.take_along_axis(logits(world, visits, offers), live, axis=1))
    clicked = of_clicks.random((horizon, 1)) < chances
    delays = of_clicks.exponential(world.delay_s, horizon)
    worth = np.exp(_PAID_STD * of_clicks.standard_normal((horizon, 1)))
    means, rewards = chances, clicked.astype(np.float64)
    if money:
        prices = np.array([offer.features["price"] for offer in offers])[live]
        means = chances * _mean_paid(prices)
        rewards = np.where(clicked, np.minimum(prices * worth, MOST_PAID), 0.0)
    return ShopStream(
        world=world, seed=seed, money=money, contexts=visits, times_s=times, offers=offers,
        live=live, means=means, rewards=rewards, delays_s=delays,
    )  # fmt: skip


def _live(world: ShopWorld, offers: tuple[Offer, ...], horizon: int) -> NDArray[np.int64]:
    steps = np.arange(horizon)[:, None]
    begins = np.array([offer.arrives for offer in offers])
    ends = np.array([offer.retires for offer in offers])
    return np.nonzero((begins <= steps) & (steps < ends))[1].reshape(horizon, world.num_live)


def _mean_paid(prices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return E min(p exp(s Z), c), which is p exp(s^2 / 2) P(Z < l - s) + c P(Z > l).

    l = log(c / p) / s is the least Z at which the most is paid.
    """
    limits = np.log(MOST_PAID / prices) / _PAID_STD
    whole = prices * np.exp(_PAID_STD**2 / 2.0) * ndtr(limits - _PAID_STD)
    found: NDArray[np.float64] = whole + MOST_PAID * ndtr(-limits)
    return found
