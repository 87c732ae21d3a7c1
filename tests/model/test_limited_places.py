"""Limits of several picks: the law of each place, lists drawn with exact probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bandexa_core.arms import Asked
from bandexa_core.ids import DecisionId
from bandexa_core.limiting import LIMITED_PLACES
from bandexa_core.limits import Bounds, LimitSpec, projected, projected_places
from bandexa_core.rounding import drawn_list
from bandexa_core.spec import SelectionSpec
from bandexa_core.spec.arms import ArmSpec
from tests.fixtures.matrices import examples, spread

IDS = ["a", "b", "c", "d", "e"]
PLACES = 3
NUM = examples(250, 600)
LIMITS = {"a": LimitSpec(floor=0.15), "b": LimitSpec(max_share=0.1), "d": LimitSpec(max_share=0.2)}


def place(name: str) -> int | None:
    return IDS.index(name) if name in IDS else None


def of_lists(rng, num_places: int, num: int, lists: int = 6):
    """Return the probabilities at each place of a random mixture of lists."""
    weights = rng.dirichlet(np.ones(lists))
    found = np.zeros((num_places, num))
    for weight in weights:
        found[np.arange(num_places), rng.permutation(num)[:num_places]] += weight
    return found


# -- projection -----------------------------------------------------------------------------------


def test_each_place_is_within_the_bounds_and_keeps_what_it_may_choose():
    rng = np.random.default_rng(2)
    for _ in range(200):
        num = int(rng.integers(3, 9))
        places = 0.9 * of_lists(rng, min(3, num - 1), num) + 0.1 / num
        low = np.where(rng.random(num) < 0.3, 0.1 / num, 0.0)
        high = np.where(rng.random(num) < 0.3, 0.6, 1.0)
        found = projected_places(places, Bounds(low, high))
        assert (found > 0.0).all()
        assert found.sum(axis=1) == pytest.approx(np.ones(len(places)))
        assert (found.sum(axis=0) <= 1.0 + 1e-9).all()
        before, behind = np.cumsum(found, axis=0) - found, np.arange(len(places))[::-1, None]
        room = 1.0 - before - behind * places.min(axis=0)
        assert (found >= np.minimum(low, room) - 1e-9).all()
        if np.minimum(high, room).sum(axis=1).min() > 1.0:
            assert (found <= high + 1e-9).all()
        alone = projected(places[0], Bounds(low, high))
        if (alone <= room[0]).all():
            assert found[0] == pytest.approx(alone)


def test_lists_within_the_bounds_stay_as_they_are():
    places = of_lists(np.random.default_rng(3), 2, 4) * 0.9 + 0.025
    assert projected_places(places, Bounds(np.full(4, 0.02), np.ones(4))) is places


def test_a_floor_that_no_list_has_room_for_puts_the_action_on_every_list():
    places = np.array([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1]])
    found = projected_places(places, Bounds(np.array([0, 0, 0.7]), np.ones(3)))
    assert found[:, 2] == pytest.approx([0.7, 0.3])


def test_caps_that_cannot_hold_give_way_without_an_action_twice():
    places = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    found = projected_places(places, Bounds(np.zeros(3), np.array([0.0, 0.4, 0.4])))
    assert found == pytest.approx(np.array([[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]))


# -- lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_places", "num"), [(2, 2), (2, 3), (3, 5), (5, 12)])
def test_lists_are_drawn_with_the_probabilities_of_each_place(num_places, num):
    rng = np.random.default_rng(num)
    wanted = 0.8 * of_lists(rng, num_places, num) + 0.2 / num
    runs, seen = examples(700, 2000), np.zeros((num_places, num))
    for _ in range(runs):
        drawn = drawn_list(wanted, rng)
        assert len(set(drawn.tolist())) == num_places
        seen[np.arange(num_places), drawn] += 1
    errors = np.sqrt(wanted * (1 - wanted) / runs)
    assert (np.abs(seen / runs - wanted) < 4.5 * errors + 1e-9).all()


def test_what_has_no_probability_is_never_drawn_and_what_is_certain_always():
    wanted = np.array([[0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.5]])
    rng = np.random.default_rng(4)
    seen = {tuple(drawn_list(wanted, rng).tolist()) for _ in range(100)}
    assert seen == {(1, 0), (1, 3)}


def test_twenty_places_among_thousands_of_candidates():
    rng = np.random.default_rng(5)
    wanted = 0.9 * of_lists(rng, LIMITED_PLACES, 3000, lists=64) + 0.1 / 3000
    for _ in range(3):
        assert len(set(drawn_list(wanted, rng).tolist())) == LIMITED_PLACES


# -- decisions ------------------------------------------------------------------------------------


@pytest.fixture
def grown(specs, log_writer, new_model, apply_all):
    """Return a function that makes a model with five actions and some rows, and limits."""

    def build(kind: str = "concat", ids=IDS, **changes):
        spec = dataclasses.replace(specs[kind], **changes)
        log = log_writer(spec)
        log.actions(ids)
        for _ in range(12):
            log.learn()
        return apply_all(new_model(spec), log.rows)

    return build


def chosen(model, number: int, num: int = PLACES, *, asked=None, limited: bool = True):
    candidates = model.enabled_candidates()
    ids = [model.catalogue.ids[slot] for slot in candidates.slots]
    bounds = model.limits.bounds(
        lambda name: ids.index(name) if name in ids else None, len(candidates)
    )
    x = np.ones(model.spec.context.shape, np.float32)
    return model.select(
        DecisionId(f"d{number}"), x, candidates, num=num, asked=asked,
        bounds=bounds if limited else None,
    )  # fmt: skip


@pytest.mark.few(5)  # every encoder, every method, with an arm and without
@pytest.mark.parametrize(
    ("kind", "method", "arms"),
    spread(
        ["concat", "per_action", "mlp"],
        ["thompson", "squarecb", "greedy", "uniform"],
        [(), (ArmSpec(name="control", share=0.3, action="b"),)],
    ),
)
def test_every_action_stands_at_each_place_once_per_propensity_and_within_its_limits(
    grown, kind, method, arms
):
    """Weighted by 1/p each action is at each place once a decision on average."""
    selection = SelectionSpec(method=method, epsilon=0.2)
    model = grown(kind, limits=LIMITS, arms=arms, selection=selection)
    asked = Asked(None, None, place) if arms else None
    weights, counts = np.zeros((NUM, PLACES, 5)), np.zeros((PLACES, 5))
    at = np.arange(PLACES)
    for number in range(NUM):
        choice = chosen(model, number, asked=asked)
        assert len(set(choice.chosen.tolist())) == PLACES
        assert choice.propensities is not None
        assert choice.propensities[0] == pytest.approx(choice.propensity)
        weights[number, at, choice.chosen] = 1.0 / np.array(choice.propensities)
        counts[at, choice.chosen] += 1
    means, errors = weights.mean(axis=0), weights.std(axis=0) / NUM**0.5
    assert (np.abs(means - 1.0) < 4.5 * errors + 1e-9).all()
    if not arms:
        shares, chance = counts / NUM, 4.5 * (0.15 / NUM) ** 0.5
        assert (shares[:, 1] < 0.1 + chance).all()
        assert (shares[:, 3] < 0.2 + chance).all()
        assert shares[0, 0] > 0.15 - chance
        assert shares[:, 0].sum() > PLACES * 0.15 - chance


@pytest.mark.parametrize("kind", ["concat", "per_action"])
def test_the_probabilities_of_all_candidates_agree_with_those_of_single_picks(grown, kind):
    for method in ("thompson", "squarecb", "greedy", "uniform"):
        model = grown(kind, selection=SelectionSpec(method=method, epsilon=0.1))
        for number in range(20):
            choice = chosen(model, number, limited=False)
            places = choice.all_places(PLACES)
            assert places.sum(axis=1) == pytest.approx(np.ones(PLACES))
            assert places[np.arange(PLACES), choice.chosen] == pytest.approx(choice.propensities)
            assert places[0] == pytest.approx(choice.all_propensities())


def test_lists_that_limits_do_not_touch_change_no_bit(grown):
    plain, limited = grown(), grown(limits={"a": LimitSpec(max_share=0.9999)})
    for number in range(50):
        own, mine = chosen(plain, number), chosen(limited, number)
        assert mine.chosen.tolist() == own.chosen.tolist()
        assert mine.scores.tolist() == own.scores.tolist()
        assert mine.propensities == own.propensities


def test_a_list_repeats_and_what_is_capped_at_zero_is_never_on_it(grown):
    model = grown(limits={"a": LimitSpec(max_share=0.0)}, selection=SelectionSpec(epsilon=0.3))
    for number in range(200):
        choice = chosen(model, number)
        assert 0 not in choice.chosen
        again = chosen(model, number)
        assert (again.chosen.tolist(), again.propensities) == (
            choice.chosen.tolist(), choice.propensities,
        )  # fmt: skip


def test_behind_twenty_places_nothing_is_twice_and_no_probability_is_claimed(grown):
    ids = [f"n{number}" for number in range(30)]
    limits = {"n3": LimitSpec(max_share=0.0), "n4": LimitSpec(floor=0.04)}
    model = grown(ids=ids, limits=limits)
    choice = chosen(model, 1, num=25)
    assert len(set(choice.chosen.tolist())) == 25
    assert 3 not in choice.chosen
    assert choice.propensities is None
    assert choice.propensity is not None
