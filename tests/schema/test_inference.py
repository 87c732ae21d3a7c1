"""Types that fields give themselves."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bandexa_core.schema import CategoryField, Field, IgnoredField, NumberField, VectorField
from bandexa_core.schema.inference import field_type, field_types

RNG = random.Random(0)
NUM = 200
CITIES = ("New York", "Paris", "Rome", "Oslo")


def _ids(kind: str) -> list[str]:
    return [f"{kind}-{RNG.randrange(10**9)}" for _ in range(NUM)]


VALUES: dict[str, tuple[str, list[Any]]] = {
    "flags": ("bool", [True, False] * 100),
    "flags as text": ("bool", ["true", "False"] * 100),
    "flags as numbers": ("bool", [0, 1] * 100),
    "flags, some as numbers": ("bool", [True, False, 0, 1.0] * 50),
    "counts, mostly 0 or 1": ("number", [0, 1] * 95 + [2] * 10),
    "measures": ("number", [RNG.gauss(0.0, 1.0) for _ in range(NUM)]),
    "measures as text": ("number", [f"{RNG.gauss(0.0, 1.0):.4f}" for _ in range(NUM)]),
    "measures with a few codes": ("number", [RNG.random() for _ in range(NUM)] + ["n/a"] * 9),
    "few whole numbers": ("number", [1, 2, 3, 4, 5] * 40),
    "two prices": ("number", [9.99, 19.99] * 100),
    "codes as text": ("category", ["1", "2", "3"] * 66),
    "zip codes": ("category", [f"0{RNG.randrange(1000, 1040)}" for _ in range(NUM)]),
    "categories": ("category", [RNG.choice(CITIES) for _ in range(NUM)]),
    "categories with a tail": ("category", [RNG.choice(CITIES) for _ in range(NUM)] + _ids("x")),
    "text and numbers": ("category", ["a", 1] * 100),
    "ids": ("hash", [f"u-{RNG.randrange(300)}" for _ in range(NUM)] + _ids("u")[:60]),
    "ids that never come again": ("ignore", _ids("request")),
    "long ids": ("hash", [f"{name}{'0' * 80}" for name in _ids("u")[:20]] * 10),
    "texts": ("text", [f"look for {name} please" for name in _ids("u")]),
    "long texts that repeat": ("text", [f"{city} is a city. " * 8 for city in CITIES] * 50),
    "dates": ("time", [f"2026-05-{RNG.randint(1, 28):02d}" for _ in range(NUM)]),
    "times": ("time", [f"2026-05-01T{RNG.randint(0, 23):02d}:00:00+02:00" for _ in range(NUM)]),
    "unix seconds": ("time", [1.7e9 + RNG.random() * 1e6 for _ in range(NUM)]),
    "unix milliseconds": ("time", [1_700_000_000_000 + n for n in range(NUM)]),
    "vectors": ("vector", [[RNG.random() for _ in range(3)] for _ in range(NUM)]),
    "tags": ("categories", [RNG.sample(CITIES, RNG.randint(0, 3)) for _ in range(NUM)]),
    "whole numbers of many lengths": ("categories", [[1, 2], [3], [1, 2, 3]] * 60),
}


@pytest.mark.parametrize("name", VALUES)
def test_types_of_values(name):
    kind, values = VALUES[name]
    found = field_type(values)
    assert found is not None
    assert found.type == kind
    shuffled = list(values)
    random.Random(1).shuffle(shuffled)
    assert field_type(shuffled) == found


@pytest.mark.parametrize("values", [[[]], [[0.5], [1, 2]], [{}], [[[1]]], [[{}]]])
def test_values_that_no_type_fits(values):
    assert field_type(values * 20) is None


def test_a_vector_has_the_size_of_most():
    assert field_type([[1.0, 2.0]] * 95 + [[1.0]] * 5) == VectorField(size=2)
    assert field_type([[0.5, 2.0]] * 80 + [[0.5]] * 20) is None


def test_a_type_may_change_with_more_rows():
    assert field_type(["a", "b", "c"]) == IgnoredField()
    assert field_type(["a", "b", "c"] * 4) == CategoryField()


def test_pinned_fields_stay_and_their_parts_are_no_fields():
    rows = [{"zip": 10115, "user.name": "x", "user.age": n, "n": n} for n in range(30)]
    pinned: dict[str, Field] = {
        "zip": CategoryField(),
        "user": IgnoredField(),
        "unseen": NumberField(bins=4),
    }
    assert field_types(rows, pinned) == pinned | {"n": NumberField()}


def test_of_too_many_paths_those_stay_that_most_rows_have():
    rows = [{f"k{n:03d}": 1 for n in range(300)}] + [{"z": 2, "k299": 3}] * 3
    found = field_types(rows, {})
    assert len(found) == 256
    assert {"z", "k299", "k000", "k253"} <= set(found)
    assert "k254" not in found
