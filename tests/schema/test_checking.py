"""Objects of requests: what is refused, with which words, and the bytes that a log keeps."""

from __future__ import annotations

from typing import Any

import pytest

from bandexa_core.schema import Features, accept, check, from_bytes, to_bytes

AUTO = Features(auto=True)
DECLARED = Features.from_json(
    {
        "age": "number",
        "member": "bool",
        "tags": "categories",
        "taste": {"type": "vector", "size": 2},
        "at": "time",
        "country": "category",
        "user.id": "hash",
        "session": "ignore",
    }
)


def _problem(features: Features, value: Any) -> str:
    with pytest.raises(ValueError, match=r"^context") as caught:
        check(features, value, "context")
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"age": "x12"}, "context.age: 'x12' is no number"),
        ({"age": "nan"}, "context.age: 'nan' is no number"),
        ({"age": "1_0"}, "context.age: '1_0' is no number"),
        ({"age": [3]}, "context.age: a list is no number"),
        ({"age": {"years": 3}}, "context.age: an object is no number"),
        ({"member": "maybe"}, "context.member: 'maybe' is neither true nor false"),
        ({"member": 2}, "context.member: 2 is neither true nor false"),
        ({"tags": ["a", {}]}, "context.tags[1]: an object is no text"),
        ({"tags": ["a", None]}, "context.tags[1]: null is no text"),
        ({"tags": ["a"] * 101}, "context.tags: 101 entries, at most 100"),
        ({"taste": 3}, "context.taste: 3 is no list of 2 numbers"),
        ({"taste": [1, 2, 3]}, "context.taste: 3 numbers, but 2 are declared"),
        ({"taste": [1, "x"]}, "context.taste[1]: 'x' is no number"),
        ({"at": "now"}, "context.at: 'now' is no time, which is ISO 8601 text or Unix seconds"),
        ({"at": "2026-13-01"}, "context.at: '2026-13-01' is no time, which"),
        ({"at": 1e300}, "context.at: 1e+300 is no time, which"),
        ({"country": ["DE"]}, "context.country: a list is no text"),
        ({"tags": {"a": {"b": 1}}}, "context.tags: an object is no list"),
        ({"user": {"id": []}}, "context.user.id: a list is no text"),
        ({"user.id": []}, "context.user.id: a list is no text"),
    ],
)
def test_a_wrong_type_of_a_declared_field_is_refused(value, message):
    assert _problem(DECLARED, value).startswith(message)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"age": None, "user": {"id": None}, "user.id": 3},
        {"age": " 12.5 ", "member": "True", "tags": "one", "taste": ["1", 2], "at": "1700000000"},
        {"age": True, "member": 1, "tags": [1, 2.5, True], "country": 49, "user": {"id": 7}},
        {"at": 1_700_000_000_000, "session": {"any": {"key": [1]}}},
        {"at": "2026-05-01T10:00:00+02:00"},
        {"other": {"key": [1, {}]}},
    ],
)
def test_what_can_be_converted_and_unknown_keys_are_accepted(value):
    check(DECLARED, value, "context")


def test_strict_refuses_what_would_be_converted():
    strict = Features(fields=DECLARED.fields, strict=True)
    check(strict, {"age": 12, "member": True, "tags": ["a"], "taste": [1, 2.5]}, "context")
    check(strict, {"country": "DE", "at": "2026-05-01", "unheard": 3}, "context")
    check(strict, {"at": 1.7e9}, "context")
    for value, message in [
        ({"age": "12"}, "context.age: '12' is no number"),
        ({"age": True}, "context.age: true is no number"),
        ({"member": 1}, "context.member: 1 is neither true nor false"),
        ({"tags": "one"}, "context.tags: 'one' is no list of texts"),
        ({"tags": [1]}, "context.tags[0]: 1 is no text"),
        ({"taste": ["1", 2]}, "context.taste[0]: '1' is no number"),
        ({"country": 49}, "context.country: 49 is no text"),
    ]:
        assert _problem(strict, value) == message


def test_unknown_keys_are_refused_where_that_was_asked_for():
    refusing = Features(fields=DECLARED.fields, unknown="refuse")
    assert _problem(refusing, {"agee": 3}) == "context.agee: is no declared field"
    assert _problem(refusing, {"user": {"name": "x"}}) == "context.user.name: is no declared field"
    check(refusing, {"age": 3, "agee": None}, "context")


@pytest.mark.parametrize("value", [{"age": "x"}, {"age": [{}]}, {"age": {"years": 3}}])
def test_no_type_is_wrong_where_fields_type_themselves(value):
    check(AUTO, value, "context")
    check(Features.from_json({"*": "auto", "zip": "category"}), value, "context")


@pytest.mark.parametrize("features", [AUTO, DECLARED])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "context: a list is no object"),
        (None, "context: null is no object"),
        ({"x": float("nan")}, "context.x: must be a finite number, not NaN"),
        ({"x": [1, float("-inf")]}, "context.x[1]: must be a finite number, not infinity"),
        ({"x": 1 << 64}, "context.x: a whole number beyond 64 bits; send it as text"),
        ({"x": 10**5000}, "context.x: a whole number beyond 64 bits; send it as text"),
        ({"x": "\ud800"}, "context.x: '\\ud800' is no valid text of at most 1024 bytes"),
        ({"x": "é" * 513}, f"context.x: '{'é' * 40}'... is no valid text of at most 1024 bytes"),
        ({"\udfff": 1}, "context: the key '\\udfff' must be valid text of at most 256 bytes"),
        ({"k" * 257: 1}, f"context: the key '{'k' * 40}'... must be valid text"),
        ({"": 1}, "context: a key is empty"),
        ({7: 1}, "context: 7 is no key, which is a text"),
        ({"a": {"b": {"c": {}}}}, "context.a.b.c: objects nest deeper than 3 names"),
        ({"x": [[[[1]]]]}, "context.x[0][0][0]: nested deeper than 4 levels"),
        ({"x": [{"\ud800": 1}]}, "context.x[0]: '\\ud800' is no key, which is a text"),
        ({"x": [0] * 10_001}, "context.x: 10001 entries, at most 10000"),
        ({"a.b": 1, "a": {"b": 2}}, "context.a.b: given twice"),
        ({f"k{n}": None for n in range(257)}, "context: more than 256 fields"),
        ({"x": b"1"}, "context.x: a bytes is no JSON value"),
    ],
)
def test_what_is_beyond_the_limits_is_refused_always(features, value, message):
    assert _problem(features, value).startswith(message)


def test_the_bytes_of_an_object_are_compact_in_the_order_of_keys_and_read_back():
    value = {"b": {"z": 1, "a": [True, None, "é"]}, "a": 7.0, "c": None}
    data = to_bytes(value)
    assert data == '{"a":7.0,"b":{"a":[true,null,"é"],"z":1},"c":null}'.encode()
    assert from_bytes(data) == value
    assert to_bytes(dict(reversed(value.items()))) == data
    assert accept(AUTO, value, "context") == data


def test_accept_refuses_what_check_refuses():
    with pytest.raises(ValueError, match=r"^actions\[3\].features.age: 'x' is no number$"):
        accept(DECLARED, {"age": "x"}, "actions[3].features")
    with pytest.raises(ValueError, match=r"^object.x: must be a finite number"):
        to_bytes({"x": float("inf")})


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b'{"a":1}x', b"\xff", b'{"a":"\xff"}'])
def test_bytes_that_are_no_object_are_refused(data):
    with pytest.raises(ValueError, match=r"^no JSON object: "):
        from_bytes(data)
