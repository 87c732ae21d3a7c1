"""What may be declared: round trips through JSON, limits, and messages that name the place."""

from __future__ import annotations

import dataclasses
import json
import re

import pydantic
import pytest

from bandexa_core.schema import (
    BoolField,
    CategoriesField,
    CategoryField,
    Features,
    HashField,
    IgnoredField,
    NumberField,
    TextField,
    TimeField,
    VectorField,
)

ALL = Features(
    fields={
        "user.age": NumberField(scale="quantile", bins=8),
        "basket": NumberField(scale="log", log="hash"),
        "member": BoolField(log="drop"),
        "country": CategoryField(values=("DE", "FR"), buckets=2),
        "interests": CategoriesField(max_values=500),
        "query": TextField(width=32),
        "at": TimeField(),
        "taste": VectorField(size=3),
        "user.id": HashField(width=128),
        "session": IgnoredField(),
    }
)


def test_a_declaration_round_trips_through_json():
    value = json.loads(json.dumps(ALL.to_json()))
    assert Features.from_json(value) == ALL
    assert value["country"] == {
        "type": "category",
        "values": ["DE", "FR"],
        "max_values": 200,
        "buckets": 2,
        "log": "keep",
    }


def test_auto_and_pinned_fields_round_trip():
    assert Features.from_json("auto") == Features(auto=True)
    assert Features(auto=True).to_json() == "auto"
    pinned = Features.from_json({"*": "auto", "zip": "category"})
    assert pinned == Features(fields={"zip": CategoryField()}, auto=True)
    assert Features.from_json(pinned.to_json()) == pinned


def test_the_name_of_a_type_is_a_field_with_its_defaults():
    assert Features.from_json({"age": "number"}).fields["age"] == NumberField()


def test_declared_values_may_be_numbers():
    found = Features.from_json({"level": {"type": "category", "values": [1, 2.0, "x", 0]}})
    assert found.fields["level"] == CategoryField(values=("1", "2", "x", "0"))


def test_pydantic_builds_the_same_declaration():
    value = {"fields": ALL.to_json(), "unknown": "refuse"}
    built = pydantic.TypeAdapter(Features).validate_python(value)
    assert built == dataclasses.replace(ALL, unknown="refuse")


def test_the_default_values_are_those_of_the_docs():
    assert CategoryField() == CategoryField(values=None, max_values=200, buckets=4, log="keep")
    assert (TextField().width, HashField().width) == (64, 64)
    assert NumberField() == NumberField(scale="auto", bins=None)


TYPES = (
    "age.type: must be one of bool, number, category, categories, text, time, vector, image, hash,"
    " ignore"
)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, 'features: must be "auto" or an object of fields'),
        ({}, 'features: at least one field is needed, or "auto"'),
        ({"*": True}, '*: must be "auto"'),
        ({"age": 3}, "age: must be an object with a type, or the name of a type"),
        ({"age": {}}, "age.type: must be one of bool, number"),
        ({"age": "numbr"}, f"{TYPES}, not 'numbr'; did you mean 'number'?"),
        ({"age": "Integer"}, f"{TYPES}, not 'Integer'; did you mean 'number'?"),
        ({"age": "string"}, f"{TYPES}, not 'string'; did you mean 'category'?"),
        ({"age": "datetime"}, f"{TYPES}, not 'datetime'; did you mean 'time'?"),
        ({"age": "qqq"}, f"{TYPES}, not 'qqq'"),
        ({"age": "auto"}, 'age.type: "auto" is for all keys that are not declared: {"*": "auto"}'),
        ({"age": {"bins": 8}}, "age.type: is needed; one of bool, number"),
        (
            {"user": {"age": "number"}},
            "user: has no type; a name in another is declared as 'user.age'",
        ),
        (
            {"age": {"type": "number", "bin": 9}},
            "age.bin: number has no such option; did you mean 'bins'?",
        ),
        (
            {"age": {"type": "number", "values": ["a"]}},
            "age.values: number has no such option; it has log, scale, bins",
        ),
        ({"age": {"type": "number", "bins": "8"}}, "age.bins: must be a whole number, not a text"),
        ({"age": {"type": "number", "bins": 65}}, "age.bins: must be 0 to 64"),
        (
            {"age": {"type": "number", "scale": "cubic"}},
            "age.scale: must be auto, linear, log or quantile, not 'cubic'",
        ),
        ({"age": {"type": "number", "log": "no"}}, "age.log: must be keep, hash or drop, not 'no'"),
        ({"c": {"type": "category", "buckets": 257}}, "c.buckets: must be 0 to 256"),
        ({"c": {"type": "category", "max_values": 0}}, "c.max_values: must be 1 to 5000"),
        (
            {"c": {"type": "category", "values": []}},
            "c.values: must have 1 to 5000 entries, and has 0",
        ),
        ({"c": {"type": "category", "values": ["a", "a"]}}, "c.values: each may be given once"),
        (
            {"c": {"type": "category", "values": ["a", None]}},
            "c.values[1]: must be a text, not null",
        ),
        ({"c": {"type": "category", "values": ["é" * 513]}}, "c.values[0]: must be valid text"),
        ({"q": {"type": "text", "width": 4097}}, "q.width: must be 1 to 4096"),
        ({"v": {"type": "vector", "size": 10_000}}, "v.size: must be 1 to 9999"),
        ({"v": "vector"}, "v.size: is needed"),
        ({"": "bool"}, "'': a path needs a name"),
        ({"a..b": "bool"}, "'a..b': a path needs a name"),
        ({"a": "bool", "a.b.c": "bool"}, "a: is a field, and a.b.c would be a part of it"),
        ({"\ud800": "bool"}, "features: a path must be valid text of at most 256 bytes"),
        ({"k" * 257: "bool"}, "features: a path must be valid text of at most 256 bytes"),
        ({f"f{n}": "bool" for n in range(257)}, "features: at most 256 fields"),
        (
            {f"f{n}": "category" for n in range(49)},
            "features: up to 10045 inputs, 205 of them of f0; at most 10000 are possible",
        ),
    ],
)
def test_messages_name_path_and_option(value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Features.from_json(value)


def test_python_callers_get_the_same_checks():
    with pytest.raises(ValueError, match=r"^scale: must be auto, linear, log or quantile$"):
        NumberField(scale="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^log: must be keep, hash or drop$"):
        BoolField(log="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^values\[0\]: must be valid text"):
        CategoryField(values=("\ud800",))


def test_messages_are_short_and_valid_text():
    for declared in (
        {"type": "number", "scale": "\ud800" * 9999},
        {"type": "bool", "\ud800" * 999: 1},
    ):
        with pytest.raises(ValueError, match=r"^a[.:]") as caught:
            Features.from_json({"a": declared})
        assert len(str(caught.value).encode()) < 2000


def test_the_mark_of_all_other_fields_is_no_field():
    with pytest.raises(ValueError, match=r"^\*: stands for all other fields"):
        Features(fields={"*": BoolField()})


def test_no_key_is_unknown_where_features_are_auto():
    with pytest.raises(ValueError, match=r"^unknown: no key is unknown where features are auto"):
        Features(auto=True, unknown="refuse")
    with pytest.raises(ValueError, match=r"^unknown: must be ignore or refuse"):
        Features.from_json({"a": "bool"}, unknown="maybe")  # type: ignore[arg-type]
