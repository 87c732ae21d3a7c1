"""Whatever JSON or msgpack value stands where an object belongs: answers are 2xx or 4xx."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.matrices import examples

JSON, MSGPACK = "application/json", "application/msgpack"
KEYS = st.sampled_from(["age", "device", "at", "tags", "v", "a.b", "", "..", "\ud800", "x" * 300])
WORDS = st.sampled_from(["phone", "7", "1e999", "2024-02-30T25:61", "NaN", "\x00", "\ud800", "ä"])
NUMBERS = st.one_of(
    st.integers(-(1 << 70), 1 << 70), st.floats(), st.sampled_from([1e308, -0.0, 5e-324])
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=20))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.dictionaries(st.one_of(KEYS, st.text(max_size=8)), inner, max_size=6),
    ),
    max_leaves=30,
)
BINARY = st.one_of(
    VALUES, st.binary(max_size=40), st.dictionaries(st.integers(), VALUES, max_size=3),
    st.dictionaries(KEYS, st.one_of(VALUES, st.binary(max_size=9)), max_size=5),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9)),
)  # fmt: skip
FIELDS = {
    "age": "number", "device": "category", "at": "time", "tags": "categories", "x": "text",
    "v": {"type": "vector", "size": 2}, "on": "bool", "id": "hash",
}  # fmt: skip
SPECS: list[dict[str, Any]] = [
    {"context": {"features": "auto"}, "actions": {"features": "auto"}},
    {
        "context": {"features": FIELDS, "unknown": "refuse", "max_bytes": 300},
        "actions": {"features": {"*": "auto"} | FIELDS, "strict": True},
    },
    {"context": {"shape": [2]}, "action_dim": 1},
]
TRIED = settings(
    max_examples=examples(25, 150), deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.fixture(scope="module")
def names(api) -> list[str]:
    """One bandit per kind of inputs."""
    found = [api.fresh("hostile") for _ in SPECS]
    for name, spec in zip(found, SPECS, strict=True):
        api.call("PUT", f"/bandits/{name}", spec, 201)
        features: Any = [0.5] if "action_dim" in spec else {"device": "pc"}
        api.call(
            "PUT", f"/bandits/{name}/actions", {"actions": [{"id": "a", "features": features}]}
        )
    return found


def sent(http, body: Any, path: str, kind: str, method: str = "POST") -> int:
    """Send a body as it is, valid or not, and return the status."""
    try:
        content = (
            json.dumps(body).encode() if kind == JSON
            else msgpack.packb(body, unicode_errors="surrogatepass")
        )  # fmt: skip
    except (OverflowError, ValueError):  # msgpack has no such number
        return 0
    response = http.request(method, path, content=content, headers={"content-type": kind})
    assert response.status_code < 500, (response.text, body)
    assert response.headers["content-type"].startswith("application/")
    return int(response.status_code)


@TRIED
@given(value=VALUES, number=st.integers(0, 2))
def test_any_json_value_as_context_and_features(http, names, value, number) -> None:
    candidates = [{"id": "x", "features": value}, {"id": "y"}]
    sent(http, {"bandit": names[number], "context": value}, "/select", JSON)
    sent(http, {"context": {}, "candidates": candidates}, f"/bandits/{names[number]}/score", JSON)


@TRIED
@given(value=BINARY, number=st.integers(0, 2))
def test_any_msgpack_value_as_context_and_features(http, names, value, number) -> None:
    name = names[number]
    sent(http, {"bandit": name, "context": value}, "/select", MSGPACK)
    candidates = [{"id": "x", "features": value}]
    body = {"bandit": name, "context": {"age": 1}, "candidates": candidates}
    sent(http, {"items": [body]}, "/select/batch", MSGPACK)


@TRIED
@given(value=VALUES, number=st.integers(0, 2))
def test_any_json_value_as_features_of_the_catalogue(http, names, value, number) -> None:
    path = f"/bandits/{names[number]}/actions"
    sent(http, {"actions": [{"id": "b", "features": value}]}, path, JSON, "PUT")
    sent(http, {"ids": ["c"], "features": [value]}, path, JSON, "PUT")


def test_they_learn_from_what_was_accepted(api, names) -> None:
    """Values of another type in every row: a round fits an encoding to them, too."""
    values: list[Any] = [
        7, "7", "x y z", [1, 2], {"deep": 1}, None, True, "2024-01-01", 1e30,
    ]  # fmt: skip
    for number in range(45):
        value = values[number % len(values)]
        made = api.select(names[0], {"a": value, "b": number, "c": {"d": value}})
        api.reward(made["decision_id"], number % 2)
    assert api.train(names[0])["status"] == "served"
    for value in values:
        assert api.select(names[0], {"a": value, "c": {"d": value}})["propensity"] > 0
    assert api.call("GET", "/readyz")["status"] == "ready"
