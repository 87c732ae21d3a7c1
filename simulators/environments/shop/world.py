"""What differs between shops, the hand-set shop, and the seeds of reported and of tuning runs.

The constants of `SHOP` and of the prior (`prior.py`) were set with the tuning seeds alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from simulators.environments.shop.values import COUNTRIES

REPORT_SEEDS = range(700, 705)
"""The seeds of reported figures.

No model, encoding, default or constant of a world may be tuned on them, or be chosen because of
what they show. They are played once a change is final.
"""

TUNING_SEEDS = range(100)
"""The seeds that may be played at any time while something is changed."""


class KindTaste(NamedTuple):
    """What the visitors of a shop think of one kind of offer, in log-odds.

    Attributes:
        daypart: At night, in the morning, at midday, in the evening.
        device: On mobile, desktop, tablet.
        region: In the west, east, south, north, overseas.
        weekend: On Saturdays and Sundays.
        member: For members.
    """

    daypart: tuple[float, ...]
    device: tuple[float, ...]
    region: tuple[float, ...]
    weekend: float
    member: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """The weights of a click's log-odds; `clicks.py` has the formula.

    Attributes:
        base: The log-odds to which everything else is added.
        kinds: One row for each kind of the world.
        weekend: Added on Saturdays and Sundays, whatever the offer.
        member: Added for members, whatever the offer.
        word: Of a word of the query that belongs to the offer's kind; two count at most.
        campaign: Of a campaign for the offer's kind.
        tag: Of a tag that is an interest as well; two count at most.
        price: Of the squared distance between log price and the visitor's log price, negative.
        price_age: How far the age moves the visitor's log price, at most.
        price_basket: How far the logarithm of the basket moves it.
        short: Where the basket is below the offer's least basket; half of it without a basket.
        fresh: Of an offer that is launched at this moment; it fades within days.
        appeal_std: Standard deviation of the offers' own appeals, the only hidden state.
    """

    base: float
    kinds: tuple[KindTaste, ...]
    weekend: float
    member: float
    word: float
    campaign: float
    tag: float
    price: float
    price_age: float
    price_basket: float
    short: float
    fresh: float
    appeal_std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopWorld:
    """One shop: who comes, what is offered, what is clicked, and how late that is known.

    Attributes:
        name: The name of the workload.
        kinds: The kinds of its offers, keys of `values.KINDS`.
        countries: Of its visitors, the most frequent first.
        country_exponent: The n-th country has a share proportional to n to the power of minus this.
        num_users: Users who may come; some come often.
        member_share: Share of members among the users.
        num_campaigns: Campaigns that begin within the horizon.
        campaign_share: Share of visits through a campaign while one runs.
        age_missing: Share of visits without the age; half of them have null, half have no field.
        basket_missing: Share of visits without the field `basket`.
        step_s: Mean seconds from one visit to the next.
        delay_s: Mean seconds from a decision to its click; delays are exponential.
        window_s: Seconds after which a decision is closed: later clicks are not reported.
        num_live: Offers that are live at a time.
        num_offers: Offers within the horizon.
        taste: What is clicked.
    """

    name: str
    kinds: tuple[str, ...]
    countries: tuple[str, ...]
    country_exponent: float
    num_users: int
    member_share: float
    num_campaigns: int
    campaign_share: float
    age_missing: float
    basket_missing: float
    step_s: float
    delay_s: float
    window_s: float
    num_live: int
    num_offers: int
    taste: Taste

    @property
    def delay_steps(self) -> float:
        """The mean delay of a click in steps."""
        return self.delay_s / self.step_s


# A row for each kind of the hand-set shop, in their order.
_TASTES = (
    KindTaste((0.1, -0.6, 0.1, 0.7), (0.5, -0.4, 0.1), (0.3, 0.1, 0.6, -0.4, -0.2), 0.3, 0.2),
    KindTaste((-0.5, 0.8, -0.1, -0.2), (0.3, -0.2, -0.3), (-0.2, 0.1, -0.3, 0.6, 0.3), 0.5, -0.2),
    KindTaste((-0.4, -0.1, 0.2, 0.5), (-0.5, 0.4, 0.5), (0.4, -0.3, -0.1, 0.4, -0.5), 0.2, 0.3),
    KindTaste((0.8, -0.2, 0.3, -0.3), (-0.4, 0.7, -0.1), (-0.1, 0.5, -0.4, 0.0, 0.5), -0.5, 0.0),
    KindTaste((0.2, 0.4, -0.5, 0.3), (0.6, -0.6, 0.0), (-0.4, 0.4, 0.5, -0.3, 0.2), -0.2, 0.4),
    KindTaste((-0.7, 0.3, 0.6, -0.4), (-0.3, 0.2, 0.4), (0.5, -0.2, 0.1, -0.1, -0.6), 0.7, -0.3),
)

SHOP = ShopWorld(
    name="shop",
    kinds=("fashion", "sport", "home", "electronics", "beauty", "garden"),
    countries=COUNTRIES,
    country_exponent=1.1,
    num_users=1500,
    member_share=0.35,
    num_campaigns=12,
    campaign_share=0.35,
    age_missing=0.2,
    basket_missing=0.25,
    step_s=600.0,
    delay_s=7200.0,
    window_s=28_800.0,
    num_live=20,
    num_offers=60,
    taste=Taste(
        base=-2.6,
        kinds=_TASTES,
        weekend=0.15,
        member=0.25,
        word=0.7,
        campaign=0.6,
        tag=0.5,
        price=-0.35,
        price_age=0.5,
        price_basket=0.3,
        short=-0.8,
        fresh=0.3,
        appeal_std=0.2,
    ),
)
"""The shop whose constants were set by hand."""
