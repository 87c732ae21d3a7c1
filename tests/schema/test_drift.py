"""The bins of fields, and the index by which recent objects differ from those of an encoding."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from bandexa_core.schema import Encoding, Features, fit
from bandexa_core.schema.drift import Bins, RecentBins

DAY = 86_400


def _visits(num: int, seed: int, *, older: int = 0, phone: float = 0.5) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "age": rng.randint(18, 60) + older, "device": "phone" if rng.random() < phone else "pc",
            "member": rng.random() < 0.3, "tags": rng.sample("abcd", 2),
            "query": rng.choice(["red shoes", "blue shirt", "green tea"]),
            "at": 1.7e9 + rng.randrange(DAY), "id": f"u{rng.randrange(900)}",
            "taste": [1, rng.random()], "rare": 1 if rng.random() < 0.1 else None,
        }
        for _ in range(num)
    ]  # fmt: skip


FEATURES = Features.from_json(
    {"id": "hash", "query": "text", "at": "time", "member": "bool", "*": "auto"}
)
FITTED = fit(FEATURES, _visits(1000, 1))


def _drift(encoding: Encoding, objects: list[dict[str, Any]]) -> dict[str, float]:
    recent = RecentBins(encoding.bins, encoding.num_rows)
    for value in objects:
        recent.add(value)
    return recent.drift()


def test_the_index_by_hand():
    """Half and half became 150 and 50 of 200; half a count in each bin keeps logarithms finite."""
    bins = Bins("x", "category", (), ("a",), (0.5, 0.5, 0.0))
    recent = RecentBins([bins], 200)
    for number in range(200):
        recent.add({"x": "a" if number % 4 else "b"})
    p = [150.5 / 201.5, 50.5 / 201.5, 0.5 / 201.5]
    q = [100.5 / 201.5, 100.5 / 201.5, 0.5 / 201.5]
    whole = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert recent.drift()["x"] == pytest.approx(whole - 2 * (1 / 200 + 1 / 200))


def test_objects_of_the_same_kind_do_not_drift():
    found = _drift(FITTED, _visits(500, 2))
    assert found.keys() == FITTED.fields.keys()
    assert max(found.values()) < 0.1


def test_a_field_that_changed_stands_out():
    changed = _visits(500, 3, older=25, phone=0.1)
    for number, row in enumerate(changed):
        row["at"] = 1.7e9 - 1.7e9 % DAY + number % 3600  # all in one hour
        row["member"] = None
        row["tags"] = ["x"]
        row["query"] = "something else entirely"
        row["id"] = "u1"
        row["taste"] = "no vector"
    found = _drift(FITTED, changed)
    assert {path for path, index in found.items() if index > 0.25} == FITTED.fields.keys() - {
        "rare"
    }


def test_what_is_recent_replaces_what_was():
    old = _visits(2000, 4, older=40)
    assert _drift(FITTED, old)["age"] > 0.25
    assert _drift(FITTED, old + _visits(3000, 5))["age"] < 0.1


def test_there_is_none_without_rows_or_with_few_objects():
    assert _drift(FITTED, _visits(99, 6)) == {}
    assert _drift(Encoding.initial(FEATURES), _visits(300, 7)) == {}


def test_bins_are_stored_with_the_encoding():
    again = Encoding.from_bytes(FITTED.to_bytes())
    assert again.bins == FITTED.bins
    older = {key: value for key, value in FITTED.to_json().items() if key != "bins"}
    assert Encoding.from_json(older).bins == ()
    for wrong in (
        [{"path": "x"}],
        [{"path": "x", "type": "bool", "cuts": [], "values": [], "shares": []}],
    ):
        with pytest.raises(ValueError, match="encoding"):
            Encoding.from_json(FITTED.to_json() | {"bins": wrong})
