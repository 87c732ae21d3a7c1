"""Malformed arrays, and arrays that do not fit the bandit, are refused and change nothing."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import numpy as np
import pytest

HEADERS = {"content-type": "application/json"}
SPECS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float64": {"context": {"shape": [2], "dtype": "float64"}},
    "uint8": {"context": {"shape": [2], "dtype": "uint8"}},
}


@pytest.fixture(scope="module")
def names(api) -> dict[str, str]:
    """One bandit per context dtype; nothing here may change them."""
    return {dtype: api.two_actions(**spec) for dtype, spec in SPECS.items()}


@pytest.fixture
def unchanged(api, names):
    """Fail the test if a bandit is not what it was before."""
    before = [api.state(name) for name in names.values()]
    yield
    assert [api.state(name) for name in names.values()] == before
    assert api.call("GET", "/readyz")["status"] == "ready"


EVERYWHERE = [
    "NaN", "Infinity", "5", "null", "true", '"ab"', "{}", "[]", "[1]", "[1, 2, 3]", "[[1, 2]]",
    "[[1], [2]]", "[1, [2]]", "[[1], 2]", "[1, NaN]", "[-Infinity, 1]", '["1", "2"]', '["a", 1]',
    "[true, false]", "[null, 1]", "[{}, 1]", '[{"a": 1}, 1]', "[1e400, 1]",
    f"[{10**30}, 1]", f"[{10**400}, 1]", "[" * 9 + "]" * 9, "[" * 31 + "]" * 31,
]  # fmt: skip
FLOATS = ["[1e21, 1]", "[-1e30, 1]", "[1, 3e38]"]
BYTES = ["[256, 0]", "[-1, 0]", "[0.5, 1]", "[1e30, 1]"]
CASES = (
    [(dtype, context) for dtype in SPECS for context in EVERYWHERE]
    + [(dtype, context) for dtype in ("float32", "float64") for context in FLOATS]
    + [("uint8", context) for context in BYTES]
)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("context", "place"),
    [
        ("[1, null]", "([1]: must be a number, not null)"),
        ('["a", 1]', "([0]: must be a number, not a text)"),
        ("[[1, 2], [3, true]]", "([1][1]: must be a number, not true or false)"),
        ("[[1, 2], 3]", "([1]: must be a list, not a number)"),
    ],
)
def test_what_is_no_number_is_named_with_its_place(api, problem, names, context, place) -> None:
    packed = msgpack.packb(json.loads(f'{{"bandit": "{names["float32"]}", "context": {context}}}'))
    text = f'{{"bandit": "{names["float32"]}", "context": {context}}}'
    for content, kind in ((text.encode(), "json"), (packed, "msgpack")):
        headers = {"content-type": f"application/{kind}"}
        response = api.http.post("/select", content=content, headers=headers)
        message = problem(response, 422, "invalid-request", "context")["errors"][0]["message"]
        assert message == f"must be evenly nested lists of numbers {place}"


@pytest.mark.few(32)
@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("dtype", "context"), CASES, ids=[f"{d}-{c[:24]}" for d, c in CASES])
def test_a_context_that_does_not_fit_is_refused_wherever_it_is_sent(
    api, problem, names, dtype: str, context: str
) -> None:
    name, own = names[dtype], api.fresh("d")
    select = f'{{"bandit": "{name}", "decision_id": "{own}", "context": {context}}}'
    response = api.http.post("/select", content=select, headers=HEADERS)
    problem(response, 422, "invalid-request", "context")
    score = f'{{"context": {context}}}'
    response = api.http.post(f"/bandits/{name}/score", content=score, headers=HEADERS)
    problem(response, 422, "invalid-request", "context")
    reward = api.http.post("/reward", json={"decision_id": own, "reward": 1})
    problem(reward, 404, "unknown-decision")


def test_integers_and_other_dtypes_that_fit_are_accepted(api, names, envelope) -> None:
    for name in names.values():
        expected = api.means(name, [1, 200])
        for dtype in ("uint8", "int64", "float32", "float64"):
            assert api.means(name, envelope([1, 200], dtype)) == expected
        assert api.means(name, [1.0, 200.0]) == expected


WRONG_ENVELOPES: list[dict[str, Any]] = [
    {"dtype": "float32", "shape": [2]},
    {"dtype": "float32", "shape": [2], "data": "", "order": "C"},
    {"dtype": "complex64", "shape": [2], "data": ""},
    {"dtype": "object", "shape": [2], "data": ""},
    {"dtype": "<f4", "shape": [2], "data": ""},
    {"dtype": ["float32"], "shape": [2], "data": ""},
    {"dtype": None, "shape": [2], "data": ""},
    {"dtype": "float32", "shape": 2, "data": ""},
    {"dtype": "float32", "shape": "2", "data": ""},
    {"dtype": "float32", "shape": [-2], "data": ""},
    {"dtype": "float32", "shape": [2.0], "data": ""},
    {"dtype": "float32", "shape": [True], "data": ""},
    {"dtype": "float32", "shape": [2], "data": "AAAA"},
    {"dtype": "float32", "shape": [2], "data": "!!!!"},
    {"dtype": "float32", "shape": [2], "data": "\u00e9\u00e9"},
    {"dtype": "float32", "shape": [2], "data": 5},
    {"dtype": "float32", "shape": [2], "data": [0] * 8},
    {"dtype": "float32", "shape": [2], "data": None},
    {"dtype": "float32", "shape": [0, 10**30], "data": ""},
    {"dtype": "float32", "shape": [0, 2**63], "data": ""},
    {"dtype": "float32", "shape": [2**62, 0], "data": ""},
    {"dtype": "float32", "shape": [2**62, 2**62], "data": ""},
    {"dtype": "float32", "shape": [0] * 9, "data": ""},
    {"dtype": "float32", "shape": [0], "data": ""},
    {"dtype": "float32", "shape": [], "data": "AAAAAA=="},
    {"dtype": "uint8", "shape": [3], "data": "AAAA"},
]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("wrong", WRONG_ENVELOPES)
def test_an_envelope_that_contradicts_itself_is_refused(
    api, problem, names, wrong: dict[str, Any]
) -> None:
    name = names["float32"]
    body: dict[str, Any] = {"bandit": name, "context": wrong}
    problem(api.http.post("/select", json=body), 422, "invalid-request", "context")
    response = api.http.post(f"/bandits/{name}/score", json={"context": wrong})
    problem(response, 422, "invalid-request", "context")
    body = {"ids": ["q"], "features": wrong}
    response = api.http.put(f"/bandits/{name}/actions", json=body)
    problem(response, 422, "invalid-request", "features")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300])
def test_numbers_no_model_can_take_are_refused_in_an_envelope_too(
    api, problem, names, envelope, value: float
) -> None:
    for name in (names["float32"], names["float64"]):
        body = {"bandit": name, "context": envelope([1, value], "float64")}
        problem(api.http.post("/select", json=body), 422, "invalid-request", "context")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "context",
    [
        msgpack.ExtType(5, b"xx"),
        msgpack.Timestamp(5),
        b"ab",
        [b"a", b"b"],
        [{b"a": 1, "b": 2}, 3],
        [msgpack.Timestamp(5), 1],
        {"dtype": "float32", "shape": [2], "data": "AAAAAAAAAAA"},
        {b"dtype": "float32", b"shape": [2], b"data": b"\0" * 8},
    ],
    ids=range(8),
)
def test_what_only_msgpack_can_express_is_refused(
    api, packed, problem, names, context: Any
) -> None:
    body = {"bandit": names["float32"], "context": context, "decision_id": api.fresh("d")}
    problem(packed("POST", "/select", body), 422, "invalid-request", "context")


@pytest.mark.usefixtures("unchanged")
def test_nesting_just_below_what_msgpack_takes_is_refused_as_well(api, problem, names) -> None:
    for depth in (900, 1000, 1020, 1023):
        context = b"\x91" * (depth - 1) + b"\x90"
        body = b"\x83\xa6bandit" + msgpack.packb(names["float32"]) + b"\xabdecision_id\xa2n1"
        body += b"\xa7context" + context
        headers = {"content-type": "application/msgpack"}
        response = api.http.post("/select", content=body, headers=headers)
        problem(response, 422, "invalid-request")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("candidates", {"candidates": []}),
        ("candidates", {"candidates": ["x", "x"]}),
        ("candidates", {"candidates": [{"id": "q", "features": [1, 2]}] * 2}),
        ("candidates", {"candidates": "x"}),
        ("candidates.1", {"candidates": ["x", {"id": "q", "features": [1, 2]}]}),
        ("candidates.1", {"candidates": [{"id": "q", "features": [1, 2]}, "x"]}),
        ("candidates.0", {"candidates": ["x y"]}),
        ("candidates.0", {"candidates": [1]}),
        ("candidates.0", {"candidates": [None]}),
        ("candidates.0.id", {"candidates": [{"features": [1, 2]}]}),
        ("candidates.0.colour", {"candidates": [{"id": "q", "features": [1, 2], "colour": 1}]}),
        ("candidates", {"candidates": [{"id": "q"}]}),
        ("candidates.0.features", {"candidates": [{"id": "q", "features": None}]}),
        ("candidates", {"candidates": [{"id": "q", "features": [1]}]}),
        ("candidates", {"candidates": [{"id": "q", "features": [1, 2, 3]}]}),
        ("candidates.0.features", {"candidates": [{"id": "q", "features": [[1, 2]]}]}),
        ("candidates.0.features", {"candidates": [{"id": "q", "features": ["1", "2"]}]}),
        ("candidates.0.features", {"candidates": [{"id": "q", "features": [True, False]}]}),
        ("candidates.0.features", {"candidates": [{"id": "q", "features": [None, 1]}]}),
        ("candidates.0.features", {"candidates": [{"id": "q", "features": [{}, 1]}]}),
        ("candidates.0.features", {"candidates": [{"id": "q", "features": [10**400, 1]}]}),
        ("candidates.0.features", {"candidates": [{"id": "q", "features": [1, float("nan")]}]}),
        ("candidates", {"candidates": [{"id": "q", "features": [1, 1e39]}]}),
        (
            "candidates",
            {"candidates": [{"id": "q", "features": [1]}, {"id": "r", "features": [1, 2]}]},
        ),
        ("candidates.0.features", {"candidates": [{"id": "q", "features": {"dtype": "u1"}}]}),
        ("retrieve", {"retrieve": 0}),
        ("retrieve", {"retrieve": -(10**30)}),
        ("retrieve", {"retrieve": "2"}),
        ("k", {"k": 0}),
        ("k", {"k": 10**30}),
        ("k", {"k": 1.5}),
        ("k", {"k": True}),
        ("k", {"k": None}),
        ("activate", {"activate": "perhaps"}),
        ("decision_id", {"decision_id": ""}),
        ("decision_id", {"decision_id": "a b"}),
        ("decision_id", {"decision_id": "a\n"}),
        ("decision_id", {"decision_id": "a" * 129}),
        ("decision_id", {"decision_id": 10**30}),
        ("decision_id", {"decision_id": "\ud800"}),
        ("bandit", {"bandit": "a b"}),
        ("bandit", {"bandit": None}),
        ("contxt", {"contxt": [1, 2]}),
    ],
)
def test_a_wrong_select_names_the_field(
    api, problem, names, field: str, change: dict[str, Any]
) -> None:
    body = json.dumps({"bandit": names["float32"], "context": [1, 2]} | change)
    response = api.http.post("/select", content=body, headers=HEADERS)
    problem(response, 422, "invalid-request", field)


def test_a_key_that_is_no_text_is_refused(api, problem, packed, names) -> None:
    response = api.http.post("/select", content=b'{"\\ud800": 1}', headers=HEADERS)
    problem(response, 422, "invalid-request")
    response = packed("POST", "/select", {b"\xff": 1, "context": [1, 2]})
    problem(response, 422, "invalid-request")


def test_an_array_of_the_other_byte_order_cannot_be_expressed(api, problem, names) -> None:
    """Envelopes are little endian by definition: they cannot request another order."""
    big = np.array([1, 2], ">f4").tobytes()
    body = {"dtype": ">f4", "shape": [2], "data": big}
    headers = {"content-type": "application/msgpack"}
    content = msgpack.packb({"bandit": names["float32"], "context": body})
    response = api.http.post("/select", content=content, headers=headers)
    problem(response, 422, "invalid-request", "context")
