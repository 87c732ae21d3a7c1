"""Limits of actions: projected probabilities, the law of what is served, dates."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from bandexa_core.arms import Asked
from bandexa_core.ids import DecisionId
from bandexa_core.limits import Bounds, Limits, LimitSpec, kept_or_drawn, projected
from bandexa_core.spec import BanditSpec, SelectionSpec
from bandexa_core.spec.arms import ArmSpec
from bandexa_core.spec.changes import completed_spec
from tests.fixtures.matrices import examples, spread

IDS = ["a", "b", "c", "d", "e"]
NUM = examples(1000, 2000)


def bounds(low, high) -> Bounds:
    return Bounds(np.array(low, float), np.array(high, float))


def place(name: str) -> int | None:
    return IDS.index(name) if name in IDS else None


# -- projection -----------------------------------------------------------------------------------


def test_probabilities_within_the_bounds_stay_as_they_are():
    shares = np.array([0.7, 0.2, 0.1])
    assert projected(shares, bounds([0.05] * 3, [0.8] * 3)) is shares


def test_what_a_cap_leaves_goes_to_the_others_in_proportion():
    found = projected(np.array([0.8, 0.15, 0.05]), bounds([0, 0, 0], [0.4, 1, 1]))
    assert found == pytest.approx([0.4, 0.45, 0.15])


def test_what_a_floor_takes_comes_from_the_others_in_proportion():
    found = projected(np.array([0.8, 0.2, 0.0]), bounds([0, 0, 0.1], [1, 1, 1]))
    assert found == pytest.approx([0.72, 0.18, 0.1])


def test_a_greedy_choice_beyond_its_cap_is_shared_by_those_it_never_takes():
    found = projected(np.array([1.0, 0.0, 0.0, 0.0]), bounds([0, 0, 0, 0], [0.4, 1, 1, 0.2]))
    assert found == pytest.approx([0.4, 0.6 / 2.2, 0.6 / 2.2, 0.12 / 2.2])


def test_caps_that_cannot_hold_give_way():
    assert projected(np.array([1.0]), bounds([0], [0.3])) == pytest.approx([1.0])
    found = projected(np.array([0.9, 0.1]), bounds([0, 0], [0.2, 0.6]))
    assert found == pytest.approx([0.25, 0.75])
    shares = np.array([0.4, 0.6])
    assert projected(shares, bounds([0, 0], [0, 0])) is shares


def test_it_is_the_closest_law_within_the_bounds():
    """No feasible law that random search finds is closer; sums and bounds hold to rounding."""
    rng = np.random.default_rng(5)
    for _ in range(300):
        num = int(rng.integers(2, 7))
        shares = rng.dirichlet(np.full(num, 0.5))
        low = rng.uniform(0, 1 / num, num) * (rng.random(num) < 0.5)
        high = np.maximum(low, np.where(rng.random(num) < 0.5, rng.random(num), 1.0))
        if high.sum() <= 1.0:
            continue
        found = projected(shares, Bounds(low, high))
        assert found.sum() == pytest.approx(1.0)
        assert (found >= low - 1e-12).all()
        assert (found <= high + 1e-12).all()

        def distance(q, p=shares):
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(q > 0, q * np.log(q / p), 0.0).sum()

        for _ in range(30):
            one, other = rng.choice(num, 2, replace=False)
            moved = found.copy()
            step = min(1e-3, high[one] - moved[one], moved[other] - low[other])
            moved[one] += step
            moved[other] -= step
            assert distance(moved) >= distance(found) - 1e-9


def test_what_is_kept_or_drawn_has_the_wanted_law():
    rng = np.random.default_rng(6)
    shares, wanted = np.array([0.7, 0.2, 0.1, 0.0]), np.array([0.3, 0.2, 0.3, 0.2])
    num = 40_000
    counts = Counter(
        kept_or_drawn(int(own), shares, wanted, *rng.random(2))
        for own in rng.choice(4, num, p=shares)
    )
    for index, chance in enumerate(wanted):
        assert counts[index] / num == pytest.approx(chance, abs=4 * (chance / num) ** 0.5)


# -- decisions ------------------------------------------------------------------------------------


@pytest.fixture
def grown(specs, log_writer, new_model, apply_all):
    """Return a function that makes a model with five actions and some rows, and limits."""

    def build(kind: str = "concat", **changes):
        spec = dataclasses.replace(specs[kind], **changes)
        log = log_writer(spec)
        log.actions(IDS)
        for _ in range(12):
            log.learn()
        return apply_all(new_model(spec), log.rows)

    return build


LIMITS = {"a": LimitSpec(floor=0.15), "b": LimitSpec(max_share=0.1), "d": LimitSpec(max_share=0.2)}


def test_limits_that_do_not_bind_change_no_bit(grown):
    plain, limited = grown(), grown(limits={"a": LimitSpec(max_share=0.999)})
    x = np.ones(4, np.float32)
    candidates = plain.enabled_candidates()
    span = limited.limits.bounds(place, len(IDS))
    for number in range(50):
        name = DecisionId(f"d{number}")
        own = plain.select(name, x, candidates)
        mine = limited.select(name, x, limited.enabled_candidates(), bounds=span)
        assert mine.chosen[0] == own.chosen[0]
        assert (mine.scores[0], mine.propensity) == (own.scores[0], own.propensity)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("kind", "arms"),
    spread(
        ["concat", "per_action", "mlp"], [(), (ArmSpec(name="control", share=0.3, action="b"),)]
    ),
)
def test_every_action_is_served_once_per_propensity_and_within_its_limits(grown, kind, arms):
    """Weighted by 1/p each action is served once a decision on average: p is what was used."""
    model = grown(kind, limits=LIMITS, arms=arms)
    x, candidates = np.ones(model.spec.context.shape, np.float32), model.enabled_candidates()
    span = model.limits.bounds(place, len(IDS))
    asked = Asked(None, None, place) if arms else None
    weights, counts = np.zeros((NUM, 5)), Counter[str]()
    for number in range(NUM):
        choice = model.select(DecisionId(f"d{number}"), x, candidates, asked=asked, bounds=span)
        chances = choice.all_propensities()
        assert chances.sum() == pytest.approx(1.0)
        assert choice.propensity == pytest.approx(chances[choice.chosen[0]], abs=1e-12)
        own = 0.7 if arms else 1.0
        assert chances[0] >= own * 0.15 - 1e-9
        assert chances[1] <= own * 0.1 + (1.0 - own) + 1e-9
        assert chances[3] <= own * 0.2 + 1e-9
        weights[number, choice.chosen[0]] = 1.0 / choice.propensity
        counts[IDS[choice.chosen[0]]] += 1
    means, errors = weights.mean(axis=0), weights.std(axis=0) / NUM**0.5
    assert (np.abs(means - 1.0) < 4.0 * errors + 1e-9).all()
    if not arms:
        assert counts["b"] / NUM < 0.1 + 4 * (0.1 / NUM) ** 0.5


def test_several_picks_are_different_and_begin_within_the_limits(grown):
    model = grown(limits={"a": LimitSpec(max_share=0.0)}, selection=SelectionSpec(epsilon=0.3))
    span = model.limits.bounds(place, len(IDS))
    for number in range(200):
        choice = model.select(
            DecisionId(f"k{number}"), np.ones(4, np.float32), model.enabled_candidates(), num=3,
            bounds=span,
        )  # fmt: skip
        assert len(set(choice.chosen.tolist())) == 3
        assert choice.chosen[0] != 0


def test_many_are_drawn_as_one(grown):
    model = grown(limits=LIMITS)
    span = model.limits.bounds(place, len(IDS))
    names = [DecisionId(f"m{number}") for number in range(20)]
    contexts = [np.full(4, number / 20, np.float32) for number in range(20)]
    candidates = model.enabled_candidates()
    for name, x, found in zip(
        names, contexts, model.select_many(names, contexts, candidates, bounds=span), strict=True
    ):
        one = model.select(name, x, candidates, bounds=span)
        assert (one.chosen[0], one.propensity) == (found.chosen[0], found.propensity)


# -- dates ----------------------------------------------------------------------------------------


def test_dates_are_half_open_and_in_utc():
    spec = LimitSpec(starts_at="2026-12-24T01:00:00+01:00", ends_at="2026-12-26T00:00:00Z")
    assert spec.starts_at == "2026-12-24T00:00:00Z"
    begin, end = spec.span
    limits = Limits({"a": spec, "b": LimitSpec(ends_at="2026-12-25T00:00:00Z")})
    assert limits.absent(begin - 0.001) == {"a"}
    assert limits.absent(begin) == set()
    assert limits.absent(begin + 86_400) == {"b"}
    assert limits.absent(end) == {"a", "b"}


def test_only_what_is_within_its_dates_is_offered(grown):
    model = grown(limits={"b": LimitSpec(ends_at="2026-12-25T00:00:00Z")})
    end = LimitSpec(ends_at="2026-12-25T00:00:00Z").span[1]
    assert model.enabled_candidates(end - 1).slots.tolist() == [0, 1, 2, 3, 4]
    after = model.enabled_candidates(end)
    assert after.slots.tolist() == [0, 2, 3, 4]
    assert model.enabled_candidates(end + 5) is after
    assert len(model.enabled_candidates()) == 5


@pytest.mark.parametrize(
    ("limit", "field"),
    [
        ({"starts_at": "tomorrow"}, "starts_at"),
        ({"starts_at": "2026-12-24T00:00:00"}, "starts_at"),
        ({"starts_at": "0001-01-01T00:00:00+14:00"}, "starts_at"),
        ({"starts_at": "2026-12-24T00:00:00Z", "ends_at": "2026-12-24T00:00:00Z"}, "ends_at"),
        ({"floor": -0.1}, "floor"),
        ({"floor": 0.3, "max_share": 0.2}, "max_share"),
        ({"max_share": 1.1}, "max_share"),
    ],
)
def test_bad_limits_are_refused_by_name(limit, field):
    with pytest.raises(ValueError, match=f"^{field}"):
        LimitSpec(**limit)


def test_floors_may_not_add_up_to_more_than_one(specs):
    with pytest.raises(ValueError, match=r"^limits: the sum of floors"):
        dataclasses.replace(specs["concat"], limits={n: LimitSpec(floor=0.4) for n in "abc"})


def test_limits_stay_where_a_change_leaves_them_out(specs):
    spec = dataclasses.replace(specs["concat"], limits=LIMITS)
    left_out = dataclasses.replace(specs["concat"], limits=None)
    assert completed_spec(left_out, 0, spec).limits == LIMITS
    assert completed_spec(dataclasses.replace(left_out, limits={}), 0, spec).limits == {}
    again = BanditSpec.from_json(dataclasses.asdict(spec))
    assert again.limits == LIMITS
