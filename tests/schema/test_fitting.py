"""Fitted constants: scales, edges, vocabularies, what has no column, and the sample behind them."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from bandexa_core.schema import Encoding, Features, fit
from bandexa_core.schema.parts import NumberPart, TimePart, VectorPart
from bandexa_core.schema.sampling import sample_rows
from tests.schema.tables import rows

AUTO = Features(auto=True)


def _number(values: list[Any], declared: Any = "number", **options: Any) -> NumberPart:
    features = Features.from_json({"x": declared})
    (part,) = fit(features, [{"x": value} for value in values], **options).parts
    assert isinstance(part, NumberPart)
    return part


def _columns(values: list[Any], declared: Any, **options: Any) -> tuple[str, ...]:
    features = Features.from_json({"x": declared})
    return fit(features, [{"x": value} for value in values], **options).columns


NORMAL = np.random.default_rng(0).normal(40.0, 12.0, 1000).tolist()
HEAVY = np.random.default_rng(1).lognormal(3.0, 1.2, 1000).tolist()


# -- numbers --------------------------------------------------------------------------------------


def test_an_ordinary_number_has_its_mean_its_deviation_and_eight_pieces():
    part = _number(NORMAL)
    assert part.curve == "linear"
    assert (part.mean, part.std) == pytest.approx((np.mean(NORMAL), np.std(NORMAL)))
    expected = np.quantile(NORMAL, np.linspace(0.0, 1.0, 9), method="inverted_cdf")
    assert part.edges == pytest.approx(tuple(expected))
    assert part.middle == pytest.approx(expected[4])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_only_heavy_tails_of_positive_numbers_get_a_logarithm(sign):
    part = _number([sign * value for value in HEAVY])
    assert part.curve == ("log" if sign > 0.0 else "linear")
    for values in (NORMAL, [abs(value) for value in NORMAL]):
        assert _number(values).curve == "linear"


def test_declared_scales_hold():
    assert _number(NORMAL, {"type": "number", "scale": "log"}).curve == "log"
    assert _number(HEAVY, {"type": "number", "scale": "linear"}).curve == "linear"
    part = _number(HEAVY, {"type": "number", "scale": "quantile", "bins": 4})
    bend = part.bent()
    shares = np.array([bend(value) for value in HEAVY])
    assert part.edges == pytest.approx(
        tuple(math.sqrt(12.0) * (n / 4 - 0.5) for n in range(5)), abs=0.1
    )
    assert abs(shares.mean()) < 0.05
    assert shares.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("num", "pieces"), [(49, 0), (50, 2), (120, 4), (200, 8), (1000, 8)])
def test_pieces_have_25_rows_at_least(num, pieces):
    part = _number(NORMAL[:num])
    assert max(len(part.edges) - 1, 0) == pieces


@pytest.mark.parametrize(("bins", "pieces"), [(0, 0), (1, 1), (16, 16)])
def test_declared_pieces_hold(bins, pieces):
    part = _number(NORMAL, {"type": "number", "bins": bins})
    assert max(len(part.edges) - 1, 0) == pieces


def test_a_number_of_few_values_has_each_as_an_edge():
    """A linear model can then give each its own effect; a value seen once has no edge."""
    assert _number([1, 2, 3, 5, 8] * 4 + [6]).edges == (1.0, 2.0, 3.0, 5.0, 8.0)
    assert _number([1, 2, 3] * 3).edges == ()
    assert _number([3.5, 9.0] * 50).edges == ()  # one piece says no more than the value


@pytest.mark.parametrize("wrong", [-999.0, 1e12, 1e308])
def test_wrong_numbers_do_not_own_a_scale(wrong):
    plain, spoilt = _number(NORMAL), _number([*NORMAL[:-20], *[wrong] * 20])
    assert spoilt.mean == pytest.approx(plain.mean, abs=1.0)
    assert spoilt.std == pytest.approx(plain.std, rel=0.05)
    assert spoilt.edges == pytest.approx(plain.edges, abs=12.0)


@pytest.mark.parametrize("rare", [0.002, 0.02, 0.1])
def test_rare_values_of_a_number_are_not_blown_up(rare):
    """Plainly standardised, 1 in 500 of value 5 would be 22 deviations away."""
    num = int(2000 * rare)
    values = [5.0] * num + [0.0] * (2000 - num)
    features = Features.from_json({"x": {"type": "number", "scale": "linear"}})
    objects = [{"x": value} for value in values]
    found = fit(features, objects).encode(objects)
    assert found[0, 0] - found[-1, 0] == pytest.approx(2.5)
    assert abs(found.mean()) < 1e-5


def test_weights_move_scales_and_edges():
    values = [float(n % 100) for n in range(1000)]
    weights = [3.0 if value < 50 else 1.0 for value in values]
    part = _number(values, weights=weights)
    assert part.middle == pytest.approx(33.0, abs=1.0)
    assert part.mean == pytest.approx(37.0, abs=0.5)


def test_numbers_a_rounding_apart_are_no_edges():
    near = [5e-324 * n for n in range(4)] * 20 + NORMAL[:80]
    assert min(np.diff(_number(near).edges)) > 1e-8


# -- times, vectors -------------------------------------------------------------------------------


def test_a_time_leaves_out_what_never_varies():
    dates = [f"2026-05-{4 + n % 5:02d}" for n in range(100)]  # workdays, at midnight
    (part,) = fit(Features.from_json({"x": "time"}), [{"x": date} for date in dates]).parts
    assert isinstance(part, TimePart)
    assert part.sides == ("week_sin", "week_cos", "age")
    assert part.newest == 1_778_198_400.0  # 8 May


def test_a_time_in_a_thousand_years_is_not_the_newest():
    times: list[Any] = [1.7e9 + 3600.0 * n for n in range(100)]
    (part,) = fit(Features.from_json({"x": "time"}), [{"x": time} for time in [*times, 3e10]]).parts
    assert isinstance(part, TimePart)
    assert part.newest == times[-1]


def test_a_vector_leaves_out_what_never_varies():
    vectors = [[float(n % 7), 3.0, float(n % 5)] for n in range(70)]
    features = Features.from_json({"x": {"type": "vector", "size": 3}})
    encoding = fit(features, [{"x": vector} for vector in vectors])
    assert encoding.columns == ("x[0]", "x[2]")
    (part,) = encoding.parts
    assert isinstance(part, VectorPart)
    assert part.mean == pytest.approx((3.0, 2.0))
    rows_NW = encoding.encode([{"x": vector} for vector in vectors])
    np.testing.assert_allclose(rows_NW.std(axis=0), 1.0, rtol=1e-5)


# -- vocabularies ---------------------------------------------------------------------------------


def test_values_seen_twice_have_a_column_in_the_order_of_names():
    values = ["b", "a", "b", "once", "a", "c", "c", "c"]
    expected = ("x=a", "x=b", "x=c", "x#0", "x#1", "x#2", "x#3")
    assert _columns(values, "category") == expected
    assert _columns(values[::-1], "category") == expected
    assert _columns(values, "category", least_rows=3) == ("x=c", *expected[3:])
    assert "x=once" in _columns(values, "category", least_rows=1)


def test_of_too_many_values_the_most_frequent_stay_and_ties_go_by_name():
    declared = {"type": "category", "max_values": 2, "buckets": 0}
    values = ["d", "c", "b", "a"] * 3 + ["d"]
    assert _columns(values, declared) == ("x=a", "x=d")
    assert _columns(sorted(values), declared) == ("x=a", "x=d")


def test_declared_values_are_all_there_is():
    declared = {"type": "category", "values": ["n", "m", "never"], "buckets": 1}
    assert _columns(["m", "n", "other", "other"], declared) == ("x=n", "x=m", "x=never", "x#0")


def test_entries_of_a_row_count_once():
    declared = {"type": "categories", "buckets": 0}
    assert _columns([["a", "b"], ["b", "c", "c"], ["d", "b"]], declared) == ("x=b",)


# -- what has no column ---------------------------------------------------------------------------


def test_what_never_varies_has_no_column():
    objects = [{"a": 3, "b": "x", "c": True, "d": "same text", "e": [1.0, 2.0]} for _ in range(50)]
    encoding = fit(AUTO, objects)
    assert encoding.columns == ()
    assert set(encoding.fields) == {"a", "b", "c", "d", "e"}
    assert encoding.encode(objects).shape == (50, 0)


def test_missingness_has_a_column_where_it_occurred_twice():
    for num, expected in [(0, ()), (1, ()), (2, ("x?missing",))]:
        values = [True, False] * 20 + [None] * num
        assert _columns(values, "bool")[1:] == expected
    assert _columns([3] * 20 + [None] * 5, "number") == ("x?missing",)
    assert _columns([None] * 20 + [3], "number") == ()


def test_wrong_types_count_as_missing():
    features = Features.from_json({"x": "number"})
    encoding = fit(features, [{"x": n if n % 5 else "n/a"} for n in range(200)])
    row = encoding.encode([{"x": "n/a"}, {}])
    assert np.array_equal(row[0], row[1])
    assert row[0, -1] == 1.0


# -- the whole ------------------------------------------------------------------------------------


def test_no_rows_give_the_first_encoding():
    assert fit(AUTO, []).to_bytes() == Encoding.initial(AUTO).to_bytes()
    assert fit(AUTO, [{"a": 1}], [0.0]).is_first


def test_columns_stay_when_more_rows_are_seen():
    """Names mean the same from fit to fit, in the same order, so that a model can move them."""
    objects = rows(3000)
    before, after = fit(AUTO, objects[:1000]), fit(AUTO, objects)
    assert set(before.columns) <= set(after.columns)
    places = after.places_in(before)
    assert [before.columns[at] for at in places if at >= 0] == list(before.columns)


def test_a_new_value_is_a_new_column_and_the_others_stay():
    objects = rows(400)
    before = fit(AUTO, objects)
    after = fit(AUTO, [*objects, *({**row, "country": "CZ"} for row in objects[:20])])
    new = [name for name, at in zip(after.columns, after.places_in(before), strict=True) if at < 0]
    assert new == ["country=CZ"]


def test_columns_that_stay_exactly_have_the_same_values():
    objects = rows(800)
    before, after = (
        fit(AUTO, objects[:400]),
        fit(AUTO, [*objects, {"country": "CZ"}, {"country": "CZ"}]),
    )
    exact = after.places_in(before, exact=True)
    kept = [name for name, at in zip(after.columns, exact, strict=True) if at >= 0]
    assert {"country=DE", "member", "interests#0", "query#7"} <= set(kept)
    assert not any(name.startswith(("age", "basket", "country#")) for name in kept)
    one, other = before.encode(objects), after.encode(objects)
    assert np.array_equal(other[:, exact >= 0], one[:, exact[exact >= 0]])
    assert (before.places_in(before, exact=True) == np.arange(before.width)).all()


def test_fitting_is_a_function_of_the_rows():
    objects = rows(500)
    same = fit(AUTO, iter(objects))
    assert same.to_bytes() == fit(AUTO, objects).to_bytes()
    assert same.to_bytes() == fit(AUTO, objects, [1.0] * 500).to_bytes()
    turned = [dict(reversed(row.items())) for row in objects]
    assert same.to_bytes() == fit(AUTO, turned).to_bytes()


def test_a_wide_table_stays_within_the_limit_of_columns():
    rng = random.Random(0)
    objects = [{f"c{n}": f"v{rng.randrange(60)}" for n in range(200)} for _ in range(200)]
    encoding = fit(AUTO, objects, least_rows=1)
    assert 9000 < encoding.width <= 10_000
    vectors = [{f"v{n}": [rng.random()] * 4000 for n in range(3)} for _ in range(3)]
    assert fit(AUTO, vectors).width == 8000


def test_bad_weights_are_refused():
    for weights in ([1.0], [1.0, -1.0], [1.0, math.nan], [1.0, 1.0, 1.0]):
        with pytest.raises(ValueError, match=r"weights|zip"):
            fit(AUTO, [{"a": 1}, {"a": 2}], weights)


# -- the sample -----------------------------------------------------------------------------------


def test_a_sample_is_even_and_a_function_of_the_places():
    found = sample_rows(({"n": n} for n in range(20_000)), most_rows=2000)
    numbers = np.array([row["n"] for row in found.rows])
    assert (len(numbers), found.num_rows) == (2000, 20_000)
    assert (np.diff(numbers) > 0).all()
    tenths = np.bincount(numbers // 2000, minlength=10)
    assert np.abs(tenths - 200).max() < 5.0 * math.sqrt(200 * 0.9)
    even = (numbers % 2 == 0).sum()
    assert abs(even - 1000) < 5.0 * math.sqrt(500)
    again = sample_rows([{"n": n} for n in range(20_000)], most_rows=2000)
    assert again.rows == found.rows


def test_a_sample_of_large_rows_is_smaller():
    large = [{"t": "x" * 1000, "n": n} for n in range(1000)]
    found = sample_rows(large, most_bytes=1_000_000)
    assert 200 < len(found.rows) < 250
    assert found.num_rows == 1000
    assert len(sample_rows(large, most_bytes=1).rows) == 1


@pytest.mark.parametrize(
    "numbers", [[5e-324, 1.7e9], [1.7e12, 1e30, 1e30, -0.0, 5e-324, 1e30, 1.7e12, 1.7e12, 0, -0.0]]
)
def test_numbers_from_both_ends_of_what_a_float_holds_are_fitted(numbers):
    """None is seen twice, or the ratio of two overflows; such rows stopped every round."""
    rows = [{"a": number} for number in numbers]
    for scale in ("auto", "linear", "log", "quantile"):
        features = Features.from_json({"a": {"type": "number", "scale": scale}})
        assert np.isfinite(fit(features, rows).encode(rows)).all()
