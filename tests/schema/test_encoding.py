"""Encodings as values: rows, counters, JSON, and the first one before anything was fitted."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from bandexa_core.schema import Encoding, Features, Observed, fit
from bandexa_core.schema.hashing import place
from tests.schema.tables import rows

AUTO = Features(auto=True)
ROWS = rows(600)
FITTED = fit(AUTO, ROWS)
BOTH = pytest.mark.parametrize("encoding", [FITTED, Encoding.initial(AUTO)])


def _row(encoding: Encoding, value: dict[str, Any]) -> dict[str, float]:
    """Return the columns of an object that are not 0."""
    (row,) = encoding.encode([value]).tolist()
    return {name: value for name, value in zip(encoding.columns, row, strict=True) if value}


@BOTH
def test_rows_are_float32_and_bounded(encoding):
    found = encoding.encode(ROWS)
    assert found.dtype == np.float32
    assert found.shape == (600, encoding.width)
    assert np.abs(found).max() <= 10.0
    assert encoding.encode([]).shape == (0, encoding.width)


@BOTH
def test_a_row_depends_on_its_object_alone(encoding):
    found = encoding.encode(ROWS[:50])
    for number, row in enumerate(ROWS[:50]):
        assert np.array_equal(encoding.encode([row])[0], found[number])
        assert np.array_equal(encoding.encode([dict(reversed(row.items()))])[0], found[number])


@BOTH
def test_nested_keys_are_paths_and_null_is_absent(encoding):
    nested = {"user": {"id": "u-7"}, "age": None}
    assert np.array_equal(encoding.encode([nested]), encoding.encode([{"user.id": "u-7"}]))


@BOTH
def test_encodings_round_trip_to_the_same_bytes(encoding):
    data = encoding.to_bytes()
    again = Encoding.from_bytes(data)
    assert again.to_bytes() == data
    assert again.columns == encoding.columns
    assert again.fields == encoding.fields
    assert np.array_equal(again.encode(ROWS), encoding.encode(ROWS))
    assert Encoding.from_json(json.loads(json.dumps(encoding.to_json()))).to_bytes() == data


def test_many_learned_fields_round_trip():
    """Their types could take more columns than the limit allows; those that they have do not."""
    objects = [{f"c{n}": f"v{row % 3}" for n in range(100)} for row in range(30)]
    encoding = fit(AUTO, objects)
    assert Encoding.from_bytes(encoding.to_bytes()).columns == encoding.columns


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"num_rows": -1},
        {"num_rows": True},
        {"width": 0},
        {"parts": {}},
        {"parts": [{"kind": "other"}]},
        {"parts": [{"kind": "bool", "path": "a", "missing": False}] * 2},
        {"fields": []},
        {"fields": {"a": "what"}},
        {"features": 3},
        {"unknown": "maybe"},
        {"more": 1},
    ],
)
def test_broken_encodings_are_refused(change):
    with pytest.raises(ValueError, match=r"encoding|features|unknown|a\.type"):
        Encoding.from_json(FITTED.to_json() | change)
    with pytest.raises(ValueError, match=r"^no JSON object"):
        Encoding.from_bytes(FITTED.to_bytes()[:-1])


def test_what_is_no_object_is_refused():
    with pytest.raises(ValueError, match=r"^encode: must be given objects"):
        FITTED.encode([{}, [1]])  # type: ignore[list-item]


def test_an_object_has_the_columns_of_its_values():
    row = _row(FITTED, {"country": "FR", "member": True, "interests": ["art", "unheard of"]})
    for name, value in [("country=FR", 1.0), ("member", 1.0), ("age?missing", 1.0)]:
        assert row.pop(name) == value
    for name in ("age", "basket"):  # without a value, pieces as of the median
        assert [row.pop(f"{name}[{piece}]") for piece in range(4)] == pytest.approx([1.0] * 4)
        assert name not in row
    assert row.pop("interests=art") == pytest.approx(math.sqrt(0.5))
    assert list(row.values()) == pytest.approx([math.sqrt(0.5)])
    assert next(iter(row)).startswith("interests#")


def test_observed_counts_what_encoding_met():
    observed = Observed()
    objects: list[dict[str, Any]] = [
        {"country": "DE", "age": 30, "user": {"id": "a"}},
        {"country": "XX", "age": "31", "member": "x", "new": 1, "group": {"key": 2, "none": None}},
        {"country": ["DE"], "age": 1e12, "interests": ["art"], "query": "tea"},
    ]
    found = FITTED.encode(objects, observed)
    assert np.array_equal(found, FITTED.encode(objects))
    assert (observed.rows, observed.unknown) == (3, 2)
    assert observed.unknown_names == {"new": 1, "group.key": 1}
    country, age = observed.fields["country"], observed.fields["age"]
    assert (country.present, country.unseen, country.wrong) == (3, 1, 1)
    assert (age.present, age.converted, age.extreme) == (3, 1, 1)
    assert (observed.fields["member"].wrong, observed.missing("member")) == (1, 2)
    assert observed.missing("never heard of") == 3
    assert (observed.fields["user.id"].hashed, observed.fields["user.id"].collided) == (1, 0)
    value = json.loads(json.dumps(observed.to_json()))
    assert value["fields"]["country"]["missing"] == 0


def test_counters_add_up():
    whole, parts = Observed(), [Observed(), Observed()]
    objects = [*ROWS[:40], {"new": 1}, {"country": "XX", "age": "x"}]
    FITTED.encode(objects, whole)
    FITTED.encode(objects[:20], parts[0])
    FITTED.encode(objects[20:], parts[1])
    parts[0].merge(parts[1])
    one, other = parts[0].to_json(), whole.to_json()
    for value in (one, other):  # which value came first on a place is known to each part alone
        for counts in value["fields"].values():
            del counts["collided"]
    assert one == other


def test_collisions_of_a_hash_are_counted():
    """n ids on 64 places: all but the first id of each place collide."""
    features = Features.from_json({"user": "hash"})
    ids = [f"u-{number}" for number in range(500)]
    encoding, observed = fit(features, [{"user": name} for name in ids]), Observed()
    encoding.encode([{"user": name} for name in ids], observed)
    counts = observed.fields["user"]
    places = {place("user", name, 64)[0] for name in ids}
    assert (counts.hashed, counts.collided) == (500, 500 - len(places))
    encoding.encode([{"user": name} for name in ids[:10]], observed)
    assert counts.hashed == 510


def test_names_of_unknown_keys_are_bounded():
    observed = Observed()
    FITTED.encode([{f"k{number}": 1} for number in range(100)], observed)
    assert (observed.unknown, len(observed.unknown_names)) == (100, 32)


# -- before anything was fitted -------------------------------------------------------------------


def _first(value: dict[str, Any], features: Features = AUTO) -> np.ndarray[Any, Any]:
    row: np.ndarray[Any, Any] = Encoding.initial(features).encode([value])[0]
    return row


def _expected(*entries: tuple[str, str, float]) -> np.ndarray[Any, Any]:
    row = np.zeros(64)
    for path, text, amount in entries:
        at, sign = place(path, text, 64)
        row[at] += sign * amount
    return row.astype(np.float32)


def test_the_first_encoding_hashes_path_and_value():
    expected = _expected(
        ("country", "DE", 1.0),
        ("member", "true", 1.0),
        ("age", "", math.asinh(40.0)),
        ("far", "", 10.0),
        ("tags", "a", math.sqrt(0.5)),
        ("tags", "b", math.sqrt(0.5)),
        ("v[0]", "", math.asinh(0.5)),
        ("v[1]", "", math.asinh(-2.0)),
        ("user.id", "u-7", 1.0),
    )
    value = {
        "country": "DE", "member": True, "age": 40, "far": 1e15, "tags": ["b", "a", "b"],
        "v": [0.5, -2], "user": {"id": "u-7"}, "none": None,
    }  # fmt: skip
    np.testing.assert_allclose(_first(value), expected, rtol=1e-6)


def test_the_first_encoding_knows_times_and_words():
    friday = _first({"at": "2026-05-01T06:00Z"})
    assert np.array_equal(friday, _first({"at": "2026-05-08T06:00Z"}))
    assert not np.array_equal(friday, _first({"at": "2026-05-08T18:00Z"}))
    assert np.allclose(friday, _first({"at": 1_777_615_200}))
    one, other = _first({"q": "red running shoes"}), _first({"q": "red running hats"})
    assert np.linalg.norm(one) == pytest.approx(1.0)
    assert one @ other > 0.3


def test_the_first_encoding_follows_declared_types():
    features = Features.from_json({"age": "number", "zip": "category", "s": "ignore"})
    value = {"age": "40", "zip": 10115, "other": "x", "s": {"key": "y"}}
    expected = _expected(("age", "", math.asinh(40.0)), ("zip", "10115", 1.0))
    np.testing.assert_allclose(_first(value, features), expected, rtol=1e-6)
    observed = Observed()
    encoding = Encoding.initial(features)
    encoding.encode([value, {"age": [1], "zip": "x"}], observed)
    assert (observed.unknown_names, observed.fields["age"].wrong) == ({"other": 1}, 1)
    assert observed.missing("zip") == 0


def test_the_first_width_may_be_another():
    encoding = Encoding.initial(AUTO, 256)
    assert encoding.encode(ROWS[:3]).shape == (3, 256)
    assert encoding.columns[-1] == "#255"
    assert Encoding.from_bytes(encoding.to_bytes()).width == 256


def test_before_the_first_fit_values_are_counted_as_after_it():
    declared = {"age": "number", "size": {"type": "category", "values": ["s", "m"]}, "note": "text"}
    features = Features.from_json(declared | {"*": "auto"})
    objects: list[dict[str, Any]] = [
        {"age": "7", "size": "m", "note": "a", "new": 1},
        {"age": 7, "size": "xl", "note": 3},
        {"age": "none", "size": "s", "new": "1"},
    ]
    first, fitted = Observed(), Observed()
    Encoding.initial(features).encode(objects, first)
    fit(features, [{"age": n, "size": "sm"[n % 2], "note": str(n)} for n in range(20)]).encode(
        objects, fitted
    )
    for path, converted, unseen, wrong in (("age", 1, 0, 1), ("size", 0, 1, 0), ("note", 1, 0, 0)):
        for counts in (first.fields[path], fitted.fields[path]):
            assert (counts.converted, counts.unseen, counts.wrong) == (converted, unseen, wrong)
    assert first.fields["new"].converted == 0
