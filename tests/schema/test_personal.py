"""What a log keeps of personal values: digests or nothing, and what two requests have in common."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bandexa_core.schema import Encoding, Features, accept, check, fit
from bandexa_core.schema.personal import identity

SALT = b"salt"
SECRET = "alice@example.com"
FIELDS = Features.from_json(
    {
        "mail": {"type": "category", "log": "hash"},
        "user.id": {"type": "hash", "log": "hash"},
        "age": {"type": "number", "log": "hash"},
        "member": {"type": "bool", "log": "hash"},
        "tags": {"type": "categories", "log": "hash"},
        "taste": {"type": "vector", "size": 2, "log": "hash"},
        "note": {"type": "text", "log": "drop"},
        "user.home": {"type": "ignore", "log": "drop"},
        "*": "auto",
    }
)


def _logged(value: dict[str, Any], salt: bytes = SALT) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(accept(FIELDS, value, "context", salt))
    return found


def test_hashed_values_are_digests_and_dropped_ones_are_not_there():
    value = {
        "mail": SECRET, "note": SECRET, "age": 31, "member": True, "tags": ["a", SECRET],
        "user": {"id": SECRET, "home": {"street": SECRET}, "land": "DE"}, "taste": [1, 2], "x": 1,
    }  # fmt: skip
    found = _logged(value)
    assert SECRET not in json.dumps(found)
    assert sorted(found) == ["age", "mail", "member", "tags", "taste", "user", "x"]
    assert found["user"].keys() == {"id", "land"}
    assert len(found["mail"]) == len(found["age"]) == len(found["tags"][0]) == 24
    assert found["x"] == 1
    assert value["note"] == SECRET, "the request's object is not changed"


@pytest.mark.parametrize(
    "place",
    [{"user": {"home": {"a": SECRET}}}, {"user.home": {"a": SECRET}}, {"user.home.a": SECRET},
     {"user": {"home.a": SECRET}}, {"user": {"home": [SECRET]}}, {"note": None}],
)  # fmt: skip
def test_a_dropped_value_is_dropped_however_it_is_nested(place):
    assert SECRET not in json.dumps(_logged(place))


def test_equal_values_have_equal_digests_in_whatever_form_they_come():
    """7, 7.0 and "7" are one number; another salt, or another field, is another digest."""
    sevens = [_logged({"age": each})["age"] for each in (7, 7.0, "7")]
    assert len(set(sevens)) == 1
    assert _logged({"age": 7}, b"other")["age"] != sevens[0]
    assert _logged({"user.id": "7"})["user.id"] != _logged({"mail": "7"})["mail"]
    truths = [_logged({"member": each})["member"] for each in (True, 1, "true")]
    assert len(set(truths)) == 1
    assert _logged({"taste": [1, 2.5]}) == _logged({"taste": [1.0, 2.5]})
    assert _logged({"mail": None}) == {"mail": None}


WRONG: list[dict[str, Any]] = [
    {"age": SECRET}, {"taste": [SECRET, 1]}, {"member": [SECRET]}, {"mail": SECRET * 99},
    {"user": {"home": {SECRET: SECRET * 99}}}, {"user": {"home": {SECRET * 99: 1}}},
    {"tags": [{SECRET: 1}]}, {"note": [SECRET]}, {"user": {"id": [SECRET]}},
]  # fmt: skip


@pytest.mark.parametrize("value", WRONG)
def test_no_message_has_a_value_that_is_not_to_be_logged(value):
    with pytest.raises(ValueError, match=r"^context\.") as caught:
        check(FIELDS, value, "context")
    assert SECRET[:12] not in str(caught.value)


def test_digests_are_learned_as_categories_and_dropped_fields_are_no_input():
    rows = [
        _logged({"mail": f"m{number % 3}", "age": number % 2, "note": f"n{number % 2}"})
        for number in range(12)
    ]
    encoding = fit(FIELDS, rows)
    assert {encoding.fields[path].type for path in ("mail", "age", "member")} == {"category"}
    assert encoding.fields["note"].type == encoding.fields["user.home"].type == "ignore"
    assert [name for name in encoding.columns if name.startswith("note")] == []
    assert len([name for name in encoding.columns if name.startswith("age=")]) == 2
    assert Encoding.from_bytes(encoding.to_bytes()).to_bytes() == encoding.to_bytes()
    first = Encoding.initial(FIELDS)
    assert not first.encode([{"note": "x"}]).any(), "not even where it was logged once"


def test_values_cannot_be_declared_where_the_model_sees_digests():
    declared = {"mail": {"type": "category", "values": ["a"], "log": "hash"}}
    with pytest.raises(ValueError, match=r"mail\.values: are learned where log is hash"):
        Features.from_json(declared)


def test_requests_that_say_the_same_have_one_identity():
    one = {"a": 1, "b": {"c": [1, 2.5], "d": None}, "e": 10**18, "f": -0.0}
    other = {"f": 0, "e": 1e18, "b.c": [1.0, 2.5], "a": 1.0, "g": {}}
    assert identity(one) == identity(other)
    for wrong in ({"a": "1"}, {"a": True}, {"e": 10**18 + 1}, {"b": {"c": [2.5, 1]}}):
        assert identity(one | wrong) != identity(one)
