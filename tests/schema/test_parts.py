"""What each type of field becomes, by hand."""

from __future__ import annotations

import math
from array import array
from typing import Any

import pytest

from bandexa_core.schema.hashing import bucket, place
from bandexa_core.schema.observed import CONVERTED, EXTREME, OK, UNSEEN, WRONG
from bandexa_core.schema.parts import (
    BoolPart,
    CategoriesPart,
    CategoryPart,
    ConstantPart,
    HashPart,
    NumberPart,
    Part,
    TextPart,
    TimePart,
    VectorPart,
    part_from_json,
    part_to_json,
)
from bandexa_core.schema.parts.numeric import pieces
from bandexa_core.schema.parts.timed import SIDES
from bandexa_core.schema.values import as_time

NEVER = 1e300
FRIDAY = "2026-05-01T06:00:00Z"


def number(**changes: Any) -> NumberPart:
    """Return a number that is taken as it is."""
    known: dict[str, Any] = {
        "path": "x",
        "missing": False,
        "curve": "linear",
        "unit": 1.0,
        "knots": (),
        "shares": (),
        "mean": 0.0,
        "std": 1.0,
        "far": NEVER,
        "edges": (),
        "middle": 0.0,
    }
    return NumberPart(**known | changes)


def written(part: Part, value: Any) -> list[float]:
    """Return the row of a value, at an offset of 3 in a longer one that must stay as it is."""
    out = array("f", [9.0] * 3 + part.fill() + [9.0])
    part.writer(2)(value, out, 1)
    assert out[:3] == array("f", [9.0] * 3)
    assert out[-1] == 9.0
    return out.tolist()[3:-1]


def seen(part: Part, value: Any) -> int:
    return part.writer(0)(value, array("f", part.fill()), 0)


# -- truth values and constants -------------------------------------------------------------------


def test_bool():
    part = BoolPart("member", True)
    assert part.columns == ("member", "member?missing")
    assert part.fill() == [0.0, 1.0]
    for value, row, code in [
        (True, [1.0, 0.0], OK),
        (False, [0.0, 0.0], OK),
        ("TRUE", [1.0, 0.0], CONVERTED),
        (0, [0.0, 0.0], CONVERTED),
        (2, [0.0, 1.0], WRONG),
        ("yes", [0.0, 1.0], WRONG),
    ]:
        assert (written(part, value), seen(part, value)) == (row, code)
    assert BoolPart("member", False).columns == ("member",)


def test_a_constant_says_at_most_that_it_is_missing():
    assert ConstantPart("x", False).columns == ()
    part = ConstantPart("x", True)
    assert part.columns == ("x?missing",)
    assert part.fill() == [1.0]
    assert written(part, [1, 2]) == [0.0]


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (-5.0, [-1.0, 0.0, 0.0]),
        (-0.5, [-0.5, 0.0, 0.0]),
        (0.0, [0.0, 0.0, 0.0]),
        (0.25, [0.25, 0.0, 0.0]),
        (1.0, [1.0, 0.0, 0.0]),
        (2.0, [1.0, 0.5, 0.0]),
        (5.0, [1.0, 1.0, 0.5]),
        (7.0, [1.0, 1.0, 1.0]),
        (9.0, [1.0, 1.0, 1.5]),
        (1e9, [1.0, 1.0, 2.0]),
    ],
)
def test_pieces_of_a_number(x, expected):
    edges = (0.0, 1.0, 3.0, 7.0)
    assert pieces(x, edges) == expected
    part = number(edges=edges, middle=2.0, missing=True)
    assert part.columns == ("x", "x[0]", "x[1]", "x[2]", "x?missing")
    assert written(part, x) == [min(max(x, -10.0), 10.0), *expected, 0.0]


def test_a_missing_number_has_the_pieces_of_a_usual_one():
    """0 everywhere would be the lowest value."""
    assert number(edges=(0.0, 1.0, 3.0), middle=2.0, missing=True).fill() == [0.0, 1.0, 0.5, 1.0]


def test_one_piece_goes_from_minus_1_to_2():
    assert [pieces(x, (0.0, 2.0)) for x in (-9.0, 1.0, 9.0)] == [[-1.0], [0.5], [2.0]]


def test_linear_numbers_are_centred_scaled_and_bounded():
    part = number(mean=40.0, std=5.0, far=30.0, missing=True)
    for value, row, code in [
        (50.0, [2.0, 0.0], OK),
        (30, [-2.0, 0.0], OK),
        ("50", [2.0, 0.0], CONVERTED),
        (True, [pytest.approx(-7.8), 0.0], CONVERTED),
        (140.0, [10.0, 0.0], OK),
        (-60.0, [-10.0, 0.0], OK),
        (1e12, [0.0, 1.0], EXTREME),
        (1e308, [0.0, 1.0], EXTREME),
        (float("nan"), [0.0, 1.0], WRONG),
        (float("inf"), [0.0, 1.0], WRONG),
        (10**400, [0.0, 1.0], WRONG),
        ("x12", [0.0, 1.0], WRONG),
        ([1], [0.0, 1.0], WRONG),
    ]:
        assert (written(part, value), seen(part, value)) == (row, code)


def test_log_numbers_are_asinh_of_units():
    part = number(curve="log", unit=2.0, mean=1.0, std=0.5)
    for x in (-7.0, 0.0, 3.0, 1e6):
        expected = min((math.asinh(x / 2.0) - 1.0) / 0.5, 10.0)
        assert written(part, x) == [pytest.approx(expected, rel=1e-6)]


@pytest.mark.parametrize(
    ("x", "share"), [(-9.0, 0.0), (0.0, 0.0), (1.0, 0.25), (2.0, 0.5), (6.0, 0.75), (99.0, 1.0)]
)
def test_quantile_numbers_are_shares_of_deviation_1(x, share):
    part = number(curve="quantile", knots=(0.0, 2.0, 10.0), shares=(0.0, 0.5, 1.0))
    assert written(part, x) == [pytest.approx(math.sqrt(12.0) * (share - 0.5), abs=1e-6)]


# -- categories -----------------------------------------------------------------------------------


def test_category():
    part = CategoryPart("country", True, ("DE", "FR"), 3)
    assert part.columns == (
        "country=DE",
        "country=FR",
        "country#0",
        "country#1",
        "country#2",
        "country?missing",
    )
    assert written(part, "FR") == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    unseen = [0.0] * 6
    unseen[2 + bucket("country", "XX", 3)] = 1.0
    assert (written(part, "XX"), seen(part, "XX")) == (unseen, UNSEEN)
    assert (written(part, ["FR"]), seen(part, ["FR"])) == ([0.0] * 5 + [1.0], WRONG)
    assert seen(part, "x" * 1025) == seen(part, "\ud800") == WRONG


def test_numbers_are_the_same_category_as_their_text():
    part = CategoryPart("level", False, ("0.5", "7", "true"), 0)
    for value, row in [
        (7, [0.0, 1.0, 0.0]),
        (7.0, [0.0, 1.0, 0.0]),
        ("7", [0.0, 1.0, 0.0]),
        (0.5, [1.0, 0.0, 0.0]),
        (True, [0.0, 0.0, 1.0]),
    ]:
        assert written(part, value) == row
    assert (seen(part, "7"), seen(part, 7)) == (OK, CONVERTED)
    assert (written(part, 8), seen(part, 8)) == ([0.0, 0.0, 0.0], UNSEEN)  # no bucket for it


def test_categories_share_a_length_of_1():
    part = CategoriesPart("tags", True, ("a", "b", "c"), 1)
    half = pytest.approx(math.sqrt(0.5))
    assert written(part, ["a", "c"]) == [half, 0.0, half, 0.0, 0.0]
    assert written(part, ["a", "c", "a"]) == [half, 0.0, half, 0.0, 0.0]
    assert (written(part, ["a", "x"]), seen(part, ["a", "x"])) == ([half, 0, 0, half, 0], UNSEEN)
    assert (written(part, "b"), seen(part, "b")) == ([0.0, 1.0, 0.0, 0.0, 0.0], CONVERTED)
    assert written(part, []) == [0.0] * 5  # known to have none, which is not missing
    assert seen(part, ["a", None]) == seen(part, ["a"] * 101) == seen(part, {"a": 1}) == WRONG


# -- hashes, texts --------------------------------------------------------------------------------


def test_hash():
    part = HashPart("user", True, 16)
    at, sign = place("user", "u-7", 16)
    expected = [0.0] * 17
    expected[at] = sign
    assert written(part, "u-7") == expected
    assert written(part, 7) == written(part, "7") == written(part, 7.0)
    assert (seen(part, "7"), seen(part, 7), seen(part, [7])) == (OK, CONVERTED, WRONG)
    assert part.columns[:2] == ("user#0", "user#1")


def test_text():
    part = TextPart("query", True, 16)
    one, other = (written(part, text) for text in ("Red Shoes", "red, shoes"))
    assert one == other
    assert math.hypot(*one) == pytest.approx(1.0)
    assert written(part, "?!") == [0.0] * 17  # a text without words is not missing
    assert seen(part, ["red"]) == WRONG


# -- times ----------------------------------------------------------------------------------------


def test_time():
    """Friday, 6 o'clock: a quarter of the day, and (4 * 24 + 6) / 168 of the week."""
    instant = as_time(FRIDAY)[0]  # type: ignore[index]
    part = TimePart("at", True, SIDES, instant + 3600.0, 0.0, 1.0)
    week = 2.0 * math.pi * (4 * 24 + 6) / 168
    expected = [1.0, 0.0, math.sin(week), math.cos(week), 0.0, math.log(2.0), 0.0]
    for value in (FRIDAY, instant, "2026-05-01T06:00:00", "2026-05-01 06:00"):
        assert written(part, value) == pytest.approx(expected, abs=1e-6)
        assert seen(part, value) == OK
    assert written(part, str(int(instant))) == pytest.approx(expected, abs=1e-6)
    assert seen(part, str(instant)) == CONVERTED
    assert written(part, instant * 1000.0) == pytest.approx(expected, abs=1e-6)  # milliseconds
    assert part.columns[:2] == ("at@day_sin", "at@day_cos")
    assert part.fill() == [0.0] * 6 + [1.0]
    for value in ("yesterday", "2026-99-01", True, 1e300, "9" * 60, [1]):
        assert seen(part, value) == WRONG


def test_a_time_has_the_hours_of_its_own_clock_and_the_age_of_its_instant():
    instant = as_time(FRIDAY)[0]  # type: ignore[index]
    part = TimePart("at", False, SIDES, instant, 0.0, 1.0)
    there = written(part, "2026-05-01T06:00:00+05:00")
    assert there[:5] == written(part, FRIDAY)[:5]
    assert there[5] == pytest.approx(math.log1p(5.0))
    assert written(part, "2026-05-09T00:00Z")[4:] == [1.0, 0.0]  # a Saturday after the newest time


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_the_first_and_the_last_day_are_times(text):
    assert as_time(text) is not None


# -- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 40])
def test_vector(size):
    rest = [0.0] * (size - 3)
    part = VectorPart("v", True, size, (0, 2), (1.0, 0.0), (2.0, 1.0), (30.0, 30.0))
    assert part.columns == ("v[0]", "v[2]", "v?missing")
    cases: list[tuple[list[Any], list[float], int]] = [
        ([3, 7, 0.5], [1.0, 0.5, 0.0], OK),
        (["3", 7, True], [1.0, 1.0, 0.0], CONVERTED),
        ([3.0, 7.0, -25.0], [1.0, -10.0, 0.0], OK),
        ([1e12, 7.0, 1.0], [0.0, 1.0, 0.0], EXTREME),
        ([1.0, 7.0, float("nan")], [0.0, 0.0, 1.0], WRONG),
        ([1.0, 7.0, 10**400], [0.0, 0.0, 1.0], WRONG),
        ([1.0, 7.0, None], [0.0, 0.0, 1.0], WRONG),
        ([1.0, 7.0, 1.0, 1.0], [0.0, 0.0, 1.0], WRONG),
    ]
    for head, row, code in cases:
        value = head + rest
        assert (written(part, value), seen(part, value)) == (row, code)
    assert seen(part, "3") == WRONG


# -- names, JSON ----------------------------------------------------------------------------------


def test_marks_in_a_path_cannot_make_two_columns_alike():
    one, other = CategoryPart("a", False, ("b",), 0), BoolPart("a=b", False)
    assert one.columns == ("a=b",)
    assert other.columns == ("a\\=b",)


PARTS = [
    BoolPart("a", True),
    ConstantPart("b", False),
    number(curve="quantile", knots=(0.0, 1.0), shares=(0.0, 1.0), edges=(0.0, 0.5)),
    CategoryPart("c", False, ("x", "y"), 4),
    CategoriesPart("d", True, (), 1),
    TextPart("e", True, 64),
    HashPart("f", True, 64),
    TimePart("g", False, ("day_sin", "age"), 1e9, 0.5, 2.0),
    VectorPart("h", True, 3, (0, 2), (0.0, 1.0), (1.0, 1.0), (30.0, NEVER)),
]


@pytest.mark.parametrize("part", PARTS)
def test_parts_round_trip_through_json(part):
    value = part_to_json(part)
    assert part_from_json(value) == part
    less = {key: item for key, item in value.items() if key != "path"}
    for broken in (value | {"more": 1}, less, None):
        with pytest.raises(ValueError, match=r"^encoding: "):
            part_from_json(broken)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (2, {"std": 0.0}),
        (2, {"unit": -1.0}),
        (2, {"edges": [1.0]}),
        (2, {"edges": [1.0, 1.0]}),
        (2, {"knots": [1.0, 0.0]}),
        (2, {"shares": [0.0]}),
        (2, {"shares": [0.0, 1.5]}),
        (2, {"curve": "cubic"}),
        (3, {"values": ["x", "x"]}),
        (3, {"buckets": -1}),
        (5, {"width": 0}),
        (7, {"sides": ["age", "day_sin"]}),
        (7, {"std": 0.0}),
        (8, {"kept": [2, 0]}),
        (8, {"kept": [0, 3]}),
        (8, {"mean": [0.0]}),
        (8, {"std": [0.0, 1.0]}),
    ],
)
def test_unusable_constants_are_refused(part, change):
    with pytest.raises(ValueError, match=r"^encoding: "):
        part_from_json(part_to_json(PARTS[part]) | change)
