"""The shop against its formula, and what is promised of visits, offers, delays and purchases."""

from __future__ import annotations

import json
import math
from datetime import datetime
from functools import cache

import numpy as np
import pytest

from simulators.environments.shop import (
    MOST_PAID,
    REPORT_SEEDS,
    SHOP,
    TUNING_SEEDS,
    WORLDS,
    ShopStream,
    shop_prior,
    shop_stream,
    shop_world,
)
from simulators.environments.shop.values import REGIONS, SOURCES, TAG_KIND, WORD_KIND

HORIZON = 4000


@cache
def stream(name: str = "shop", *, money: bool = False, horizon: int = HORIZON) -> ShopStream:
    return shop_stream(shop_world(name), seed=3, horizon=horizon, money=money)


def by_hand(visit, offer) -> float:
    """The log-odds of the module `clicks`, number by number."""
    taste, features = SHOP.taste, offer.features
    row = taste.kinds[SHOP.kinds.index(features["kind"])]
    moment = datetime.fromisoformat(visit["visited_at"])
    weekend, member = moment.weekday() in (5, 6), visit["user"]["member"]
    part = 0 if moment.hour < 6 else 1 if moment.hour < 11 else 2 if moment.hour < 17 else 3
    region = next(n for n, codes in enumerate(REGIONS.values()) if visit["country"] in codes)
    total = taste.base + weekend * taste.weekend + member * taste.member
    total += row.daypart[part] + row.region[region]
    total += row.device[("mobile", "desktop", "tablet").index(visit["device"])]
    total += weekend * row.weekend + member * row.member
    of_kind = [word for word in visit["query"].split() if WORD_KIND.get(word) == features["kind"]]
    total += taste.word * min(len(of_kind), 2)
    total += taste.campaign * visit["source"].startswith(features["kind"] + "-")
    total += taste.tag * min(len(set(features["tags"]) & set(visit["interests"])), 2)
    wanted, age, basket = math.log(50.0), visit["user"].get("age"), visit.get("basket")
    if age is not None:
        wanted += taste.price_age * math.tanh((age - 40) / 15)
    if basket is not None:
        wanted += taste.price_basket * math.log((1 + basket) / 41)
    total += taste.price * (math.log(features["price"]) - wanted) ** 2
    if features["min_basket"] is not None:
        total += taste.short * (0.5 if basket is None else float(basket < features["min_basket"]))
    since_s = (moment - datetime.fromisoformat(features["launched"])).total_seconds()
    return float(total + taste.fresh * math.exp(-since_s / 432_000.0) + offer.appeal)


def test_expected_rewards_are_the_formula_of_what_the_json_says() -> None:
    found = stream()
    for t in range(0, HORIZON, 97):
        visit = json.loads(json.dumps(found.contexts[t]))
        odds = [math.exp(by_hand(visit, offer)) for offer in found.on_offer(t)]
        chances = [value / (1.0 + value) for value in odds]
        np.testing.assert_allclose(found.means[t], chances, rtol=1e-9)


@pytest.mark.parametrize("name", WORLDS)
def test_a_stream_is_fixed_by_world_seed_and_horizon(name: str) -> None:
    world = shop_world(name)

    def digest(seed: int = 3, horizon: int = 60, *, money: bool = False) -> str:
        return shop_stream(world, seed=seed, horizon=horizon, money=money).digest()

    assert digest() == digest()
    assert len({digest(), digest(seed=4), digest(horizon=61), digest(money=True)}) == 4


def test_another_world_is_another_stream() -> None:
    assert len({stream(name, horizon=60).digest() for name in WORLDS}) == len(WORLDS)
    assert shop_prior(2) == shop_world("shop-2") != shop_prior(3)
    with pytest.raises(ValueError, match="there is no world 'shop-9'"):
        shop_world("shop-9")


def test_reported_and_tuning_seeds_are_apart() -> None:
    assert list(REPORT_SEEDS) == [700, 701, 702, 703, 704]
    assert not set(REPORT_SEEDS) & set(TUNING_SEEDS)


@pytest.mark.parametrize("name", WORLDS)
def test_a_uniform_choice_and_the_best_one_are_clicked_at_realistic_rates(name: str) -> None:
    """8 to 15 % of uniform choices, with a point for what a seed moves; the best 2 to 4 times."""
    means = stream(name).means
    assert 0.07 < means.mean() < 0.16
    assert 2.0 < means.max(axis=1).mean() / means.mean() < 4.2


def test_clicks_come_as_often_as_expected() -> None:
    """One column a step, so that clicks are independent; four standard errors in every fifth."""
    found, steps = stream(), np.arange(HORIZON)
    columns = steps % SHOP.num_live
    means, clicks = found.means[steps, columns], found.rewards[steps, columns]
    assert set(np.unique(found.rewards)) == {0.0, 1.0}
    for part in np.array_split(np.argsort(means), 5):
        error = math.sqrt((means[part] * (1.0 - means[part])).sum())
        assert abs(clicks[part].sum() - means[part].sum()) < 4.0 * error


def test_one_draw_of_a_step_decides_for_all_of_its_offers() -> None:
    """An offer with a greater chance is clicked wherever one with a smaller chance is."""
    found = stream()
    least = np.where(found.rewards > 0.0, found.means, 1.0).min(axis=1)
    most = np.where(found.rewards > 0.0, 0.0, found.means).max(axis=1)
    assert (most <= least).all()


@pytest.mark.parametrize("name", WORLDS)
def test_clicks_are_as_late_as_the_world_says(name: str) -> None:
    """Delays are exponential: mean and standard deviation are equal, errors of 1.6 % and 2.2 %."""
    found = stream(name)
    world = found.world
    assert found.delays_s.mean() == pytest.approx(world.delay_s, rel=0.07)
    assert found.delays_s.std() == pytest.approx(world.delay_s, rel=0.09)
    assert found.times_s[-1] / HORIZON == pytest.approx(world.step_s, rel=0.07)
    steps = [
        found.known_at(float(found.times_s[t] + found.delays_s[t])) - t
        for t in range(HORIZON - 500)
    ]
    # A report waits for the next visit, half a step or more.
    assert world.delay_steps * 0.9 < np.mean(steps) < world.delay_steps * 1.1 + 1.5


def test_a_click_is_reported_after_its_visit_and_only_while_the_window_is_open() -> None:
    found = stream()
    late = 0
    for t in range(HORIZON):
        reported = found.reported_s(t)
        late += reported is None
        assert (reported is None) == (found.delays_s[t] > SHOP.window_s)
        assert reported is None or found.times_s[t] < reported <= found.closes_s(t)
    assert late / HORIZON == pytest.approx(math.exp(-SHOP.window_s / SHOP.delay_s), abs=0.01)


def test_what_is_known_at_a_moment_is_known_at_the_first_visit_from_then_on() -> None:
    found = stream()
    moment = float(found.times_s[7])
    assert found.known_at(moment) == 7
    assert found.known_at(moment + 0.5) == 8
    assert found.known_at(math.inf) == HORIZON


@pytest.mark.parametrize("name", WORLDS)
def test_contexts_and_offers_are_plain_json(name: str) -> None:
    found = stream(name)
    for values in (list(found.contexts), [offer.features for offer in found.offers]):
        assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_a_visit_has_eight_fields_at_most_and_misses_as_many_as_declared() -> None:
    contexts = stream().contexts
    fields = {name for visit in contexts for name in visit}
    assert fields == {
        "user", "country", "device", "source", "basket", "interests", "query", "visited_at",
    }  # fmt: skip
    without = sum("age" not in visit["user"] for visit in contexts) / HORIZON
    null = sum(visit["user"].get("age", 0) is None for visit in contexts) / HORIZON
    assert without == pytest.approx(0.5 * SHOP.age_missing, abs=0.02)
    assert null == pytest.approx(0.5 * SHOP.age_missing, abs=0.02)
    missing = sum("basket" not in visit for visit in contexts) / HORIZON
    assert missing == pytest.approx(SHOP.basket_missing, abs=0.03)
    assert all(1 <= len(visit["query"].split()) <= 4 for visit in contexts)
    assert all(set(visit["interests"]) <= TAG_KIND.keys() for visit in contexts)
    baskets = np.array([visit["basket"] for visit in contexts if "basket" in visit])
    assert np.median(baskets) < 0.75 * baskets.mean()  # a heavy tail
    users = {visit["user"]["id"] for visit in contexts}
    assert HORIZON / 6 < len(users) <= SHOP.num_users


def test_a_user_stays_the_same() -> None:
    known: dict[str, tuple[str, bool, list[str]]] = {}
    for visit in stream().contexts:
        user = visit["user"]
        mine = visit["country"], user["member"], visit["interests"]
        assert known.setdefault(user["id"], mine) == mine


@pytest.mark.parametrize("name", WORLDS)
def test_new_values_appear_late_and_rare_ones_exist(name: str) -> None:
    contexts = stream(name).contexts
    early, late = contexts[: HORIZON // 2], contexts[HORIZON // 2 :]
    new = {visit["source"] for visit in late} - {visit["source"] for visit in early}
    assert len(new) >= 2
    assert not new & set(SOURCES)
    countries = [visit["country"] for visit in contexts]
    counts = np.array([countries.count(code) for code in set(countries)])
    assert counts.min() < 0.01 * HORIZON < 0.1 * HORIZON < counts.max()


def test_visits_cover_weeks_and_nights_are_quiet() -> None:
    moments = [datetime.fromisoformat(visit["visited_at"]) for visit in stream().contexts]
    assert (moments[-1] - moments[0]).days > 21
    assert moments == sorted(moments)
    assert {moment.weekday() for moment in moments} == set(range(7))
    nightly = np.mean([moment.hour < 6 for moment in moments])
    assert 0.05 < nightly < 0.2


@pytest.mark.parametrize("name", WORLDS)
def test_offers_come_and_go_while_their_number_stays(name: str) -> None:
    found = stream(name)
    live: set[str] = set()
    for t in range(HORIZON):
        live -= set(found.retirements(t))
        live |= {offer.id for offer in found.arrivals(t)}
        assert live == {offer.id for offer in found.on_offer(t)}
        assert len(live) == found.world.num_live
    assert len(found.offers) == found.world.num_offers
    assert len({offer.id for offer in found.offers}) == len(found.offers)
    first = {offer.id for offer in found.on_offer(0)}
    assert len(live & first) < 0.75 * len(first)


def test_an_offer_is_launched_before_anyone_can_click_it() -> None:
    found = stream()
    for offer in found.offers:
        assert offer.features["launched"] <= found.contexts[offer.arrives]["visited_at"]
    assert any(offer.features["min_basket"] is None for offer in found.offers)
    assert any(offer.features["min_basket"] is not None for offer in found.offers)


@pytest.mark.parametrize("horizon", [1, 2, 7])
def test_a_short_horizon_has_fewer_offers(horizon: int) -> None:
    found = shop_stream(SHOP, seed=3, horizon=horizon)
    assert found.means.shape == (horizon, SHOP.num_live)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        shop_stream(SHOP, seed=3, horizon=0)


def test_money_is_paid_as_expected_and_capped() -> None:
    """One column a step; the mean of 4,000 payments less their expectation is 0 within 4 errors."""
    found, steps = stream(money=True), np.arange(HORIZON)
    columns = steps % SHOP.num_live
    gap = found.rewards[steps, columns] - found.means[steps, columns]
    assert abs(gap.mean()) < 4.0 * gap.std() / math.sqrt(HORIZON)
    assert found.rewards.max() == MOST_PAID
    assert np.array_equal(found.rewards > 0.0, stream().rewards > 0.0)


def test_the_expected_size_of_a_purchase_is_the_mean_of_its_draws() -> None:
    """A hundred thousand purchases at the price of each of five offers."""
    found, plain = stream(money=True), stream()
    z = np.random.default_rng(1).standard_normal(100_000)
    for column, offer in enumerate(found.on_offer(0)[:5]):
        paid = np.minimum(offer.features["price"] * np.exp(0.8 * z), MOST_PAID)
        expected = found.means[0, column] / plain.means[0, column]
        assert paid.mean() == pytest.approx(expected, rel=0.02)
