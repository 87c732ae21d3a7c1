"""Draws the visits: when they happen, and the JSON object that a policy sees of each.

A user has a country, an age, interests and a membership that stay. A visit adds the moment, the
device, where the visitor came from, the basket, and what was searched for. Users come from a fixed
population, some often and most rarely. Nights are quieter than days.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from simulators.environments.shop.values import (
    COMMON_WORDS,
    DEVICES,
    KINDS,
    SOURCES,
    TAG_KIND,
    daypart,
)
from simulators.environments.shop.world import ShopWorld

START = datetime(2026, 3, 2, tzinfo=UTC)
"""A Monday, midnight: second 0 of every world's clock."""

# Seconds between visits, in parts of the day's mean; with them a day has its mean number of visits.
_QUIET = (2.2, 1.0, 0.8, 0.8)
_DEVICE_SHARES = (0.58, 0.34, 0.08)
_SOURCE_SHARES = (0.35, 0.35, 0.18, 0.12)
_ACTIVITY_EXPONENT = 0.7
_AGE_MEAN, _AGE_STD, _AGES = 38.0, 13.0, (16, 85)
_BASKET_MEDIAN, _BASKET_STD = 40.0, 1.0
_MOST_INTERESTS, _MOST_WORDS = 4, 4
_OWN_TAG_WEIGHT = 6.0
_TOPIC_SHARE, _TOPIC_OF_INTERESTS, _SECOND_WORD = 0.75, 0.6, 0.5


class User(TypedDict):
    """The nested object `user`; the age is missing or null in some visits."""

    id: str
    age: NotRequired[int | None]
    member: bool


class Visit(TypedDict):
    """The context of a decision: eight fields of plain JSON values.

    Attributes:
        user: Id, age in years, and membership.
        country: ISO 3166 code of two letters.
        device: One of `values.DEVICES`.
        source: One of `values.SOURCES`, or the name of a campaign.
        basket: What is in the basket, in the shop's currency; not in every visit.
        interests: Up to four tags.
        query: One to four words.
        visited_at: ISO 8601, UTC, to the second.
    """

    user: User
    country: str
    device: str
    source: str
    basket: NotRequired[float]
    interests: list[str]
    query: str
    visited_at: str


class _Campaign(NamedTuple):
    """A source of visitors for one kind of offer, from step `begins` to before `ends`."""

    name: str
    begins: int
    ends: int


class _Person(NamedTuple):
    id: str
    country: str
    age: int
    member: bool
    interests: tuple[str, ...]


def timestamp(seconds: float) -> str:
    """Return a moment of the world's clock, seconds since `START`, as ISO 8601 in UTC."""
    return (START + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def draw_times(world: ShopWorld, rng: np.random.Generator, horizon: int) -> NDArray[np.int64]:
    """Return the seconds of the world's clock at each visit, ascending, (T,)."""
    now, times = 0.0, np.empty(horizon, np.int64)
    for t, gap in enumerate(rng.exponential(world.step_s, horizon).tolist()):
        now += gap * _QUIET[daypart(int(now // 3600) % 24)]
        times[t] = int(now)
    return times


def _draw_campaigns(
    world: ShopWorld, rng: np.random.Generator, horizon: int
) -> tuple[_Campaign, ...]:
    """Return the campaigns in the order of their beginnings, which are spread over the horizon."""
    out = []
    for number in range(world.num_campaigns):
        kind = world.kinds[int(rng.integers(len(world.kinds)))]
        begins = int(horizon * (number + rng.random()) / world.num_campaigns)
        lasts = max(1, int(horizon * rng.uniform(0.1, 0.3)))
        out.append(_Campaign(f"{kind}-{number + 1:02d}", begins, begins + lasts))
    return tuple(out)


def draw_visits(
    world: ShopWorld, rng: np.random.Generator, times: NDArray[np.int64]
) -> tuple[Visit, ...]:
    """Return the visits at these seconds of the world's clock."""
    horizon = len(times)
    campaigns = _draw_campaigns(world, rng, horizon)
    people = _draw_people(world, rng)
    users = rng.choice(len(people), horizon, p=_shares(len(people), _ACTIVITY_EXPONENT))
    devices = rng.choice(len(DEVICES), horizon, p=_DEVICE_SHARES)
    sources = rng.choice(len(SOURCES), horizon, p=_SOURCE_SHARES)
    baskets = _BASKET_MEDIAN * np.exp(_BASKET_STD * rng.standard_normal(horizon))
    missing, words = rng.random((horizon, 2)), rng.random((horizon, 10))
    paths = rng.random((horizon, 2))
    out = []
    for t in range(horizon):
        person = people[users[t]]
        visit = Visit(
            user={"id": person.id, "member": person.member},
            country=person.country,
            device=DEVICES[devices[t]],
            source=_campaign(world, campaigns, t, paths[t]) or SOURCES[sources[t]],
            interests=list(person.interests),
            query=_query(world, person, words[t].tolist()),
            visited_at=timestamp(int(times[t])),
        )
        if missing[t, 0] >= world.age_missing:
            visit["user"]["age"] = person.age
        elif missing[t, 0] < 0.5 * world.age_missing:
            visit["user"]["age"] = None
        if missing[t, 1] >= world.basket_missing:
            visit["basket"] = round(float(baskets[t]), 2)
        out.append(visit)
    return tuple(out)


def _draw_people(world: ShopWorld, rng: np.random.Generator) -> list[_Person]:
    num, tags = world.num_users, [tag for tag, kind in TAG_KIND.items() if kind in world.kinds]
    shares = _shares(len(world.countries), world.country_exponent)
    countries = rng.choice(len(world.countries), num, p=shares)
    ages = np.clip(np.rint(rng.normal(_AGE_MEAN, _AGE_STD, num)), *_AGES).astype(int).tolist()
    members = (rng.random(num) < world.member_share).tolist()
    favourites = rng.integers(len(world.kinds), size=(num, 2))
    of_tags = np.array([world.kinds.index(TAG_KIND[tag]) for tag in tags])
    own = (of_tags == favourites[:, :1]) | (of_tags == favourites[:, 1:])
    weights = np.where(own, _OWN_TAG_WEIGHT, 1.0)
    # The order of E / w with exponential E is that of draws without replacement by weight.
    order = np.argsort(rng.exponential(size=weights.shape) / weights, axis=1).tolist()
    sizes = rng.integers(_MOST_INTERESTS + 1, size=num).tolist()
    return [
        _Person(
            id=f"u{row:05d}",
            country=world.countries[countries[row]],
            age=ages[row],
            member=members[row],
            interests=tuple(tags[tag] for tag in order[row][: sizes[row]]),
        )
        for row in range(num)
    ]


def _shares(num: int, exponent: float) -> NDArray[np.float64]:
    weights = np.arange(1, num + 1, dtype=np.float64) ** -exponent
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _campaign(
    world: ShopWorld, campaigns: tuple[_Campaign, ...], t: int, path: NDArray[np.float64]
) -> str | None:
    running = [row.name for row in campaigns if row.begins <= t < row.ends]
    if not running or path[0] >= world.campaign_share:
        return None
    return running[int(path[1] * len(running))]


def _query(world: ShopWorld, person: _Person, u: list[float]) -> str:
    """Return a query from ten uniform numbers: one or two words of a topic, and common ones."""
    num = 1 + int(_MOST_WORDS * u[0])
    words: list[str] = []
    if u[1] < _TOPIC_SHARE:
        if person.interests and u[2] < _TOPIC_OF_INTERESTS:
            topic = TAG_KIND[person.interests[int(u[3] * len(person.interests))]]
        else:
            topic = world.kinds[int(u[3] * len(world.kinds))]
        of_topic = KINDS[topic].words
        # A squared uniform number makes the first words frequent and the last ones rare.
        words = [of_topic[int(u[4] ** 2 * len(of_topic))]]
        if u[5] < _SECOND_WORD:
            words.append(of_topic[int(u[6] ** 2 * len(of_topic))])
    words += [COMMON_WORDS[int(value**2 * len(COMMON_WORDS))] for value in u[6:10]]
    words = list(dict.fromkeys(words))[:num]
    return " ".join(words[::-1] if u[9] < 0.5 else words)
