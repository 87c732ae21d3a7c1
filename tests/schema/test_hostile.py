"""Nothing but a ValueError comes out, and work grows as the object does."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandexa_core.schema import Encoding, Features, Observed, accept, fit, from_bytes, to_bytes
from tests.fixtures.matrices import examples
from tests.schema.tables import rows

AUTO = Features(auto=True)
DECLARED = Features.from_json(
    {
        "a": "number", "b": "bool", "c": "category", "d": "categories", "e": "text", "f": "time",
        "g": {"type": "vector", "size": 2}, "h": "hash", "i.a": {"type": "number", "bins": 3},
        "i.b": {"type": "number", "scale": "quantile"}, "j": "ignore",
    }
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**63, 2**64, -(2**63) - 1, 10**400, 1_700_000_000])
    | st.floats()
    | st.sampled_from([1e308, -1e308, 5e-324, 1e30, -1e31, 1.7e12])
    | st.text(max_size=8)
    | st.text(st.characters(categories=["Cs", "Lu", "Cc"]), max_size=4)
    | st.sampled_from(
        ["nan", "1e999", "-", "2026-05-01T06:00Z", "0000-00-00", "9" * 70, "x" * 1025]
    )
)
KEYS = st.sampled_from([*"abcdefghij", "i.a", "i.b", "", ".", "a.b", "k" * 300, "\ud800", "*"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=8)
FITTED = [
    Encoding.initial(AUTO),
    Encoding.initial(DECLARED),
    fit(AUTO, rows(200)),
    fit(
        DECLARED,
        [
            {
                "a": n, "b": n % 2 == 0, "c": str(n % 4), "d": [str(n % 3)], "e": f"word {n}",
                "f": 1.7e9 + n, "g": [n % 5, n % 7], "h": f"u-{n}", "i": {"a": n * n, "b": -n},
            }
            for n in range(200)
        ],
    ),
]  # fmt: skip
QUICK = settings(
    max_examples=examples(30, 80), deadline=None, suppress_health_check=list(HealthCheck)
)
STORED = FITTED[3].to_json()


@QUICK
@given(OBJECTS)
def test_any_object_is_accepted_or_a_value_error(value):
    for features in (AUTO, DECLARED):
        problem, data = "context", b""
        try:
            data = accept(features, value, "context")
        except ValueError as error:
            problem = str(error)
        else:
            assert to_bytes(from_bytes(data)) == data
            assert json.loads(data) == value
        assert problem.startswith("context")
        assert len(problem.encode()) < 1000  # valid text, so that an answer can carry it


@QUICK
@given(st.lists(OBJECTS, max_size=4))
def test_any_object_is_encoded(objects):
    for encoding in FITTED:
        found = encoding.encode(objects, Observed())
        assert np.isfinite(found).all()
        assert np.abs(found).max(initial=0.0) <= 10.0


@QUICK
@given(st.lists(OBJECTS, max_size=6))
def test_any_rows_are_fitted(objects):
    for features in (AUTO, DECLARED):
        encoding = fit(features, objects * 3, least_rows=1)
        found = encoding.encode(objects)
        assert np.isfinite(found).all()
        again = Encoding.from_bytes(encoding.to_bytes())
        assert np.array_equal(again.encode(objects), found)


@QUICK
@given(VALUES)
def test_any_declaration_is_read_or_a_value_error(value):
    for declaration in (value, {"a": value}, {"a": {"type": "number", "bins": value}}):
        try:
            features = Features.from_json(declaration)
        except ValueError as error:
            str(error).encode()
        else:
            assert Features.from_json(features.to_json()) == features


@QUICK
@given(VALUES | st.binary(max_size=20))
def test_any_stored_encoding_is_read_or_a_value_error(value):
    for key in STORED:
        with suppress(ValueError):
            Encoding.from_json(STORED | {key: value})


def _deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value, "b": [value] if levels < 20 else []}
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"a": "x" * 1_000_000},
        lambda: {"k" * 1_000_000: 1},
        lambda: {f"k{number}": number for number in range(100_000)},
        lambda: {"a": ["x"] * 1_000_000},
        lambda: {"g": [1.5] * 1_000_000},
        lambda: _deep(100_000),
        lambda: {"e": "a b " * 250_000},
    ],
    ids=["text", "key", "keys", "words", "numbers", "depth", "spaces"],
)
def test_huge_objects_take_little_time(make):
    """Each has a million characters or so; 2 s is 20 times what they take."""
    value = make()
    start = time.process_time()
    for encoding in FITTED:
        assert np.isfinite(encoding.encode([value], Observed())).all()
    for features in (AUTO, DECLARED):
        with pytest.raises(ValueError, match=r"^context"):
            accept(features, value, "context")
        fit(features, [value] * 3)
    assert time.process_time() - start < 2.0
