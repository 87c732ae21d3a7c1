"""Objects whose values are all 1 are sets, where features are namespaces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandexa_core.schema import Encoding, Features, fit
from bandexa_core.schema.observed import Observed
from bandexa_core.schema.parts import CategoriesPart
from bandexa_core.schema.sets import gathered, sets_of
from bandexa_core.schema.shared import shared_columns

NAMESPACES = Features.from_json({"*": "namespaces"})
TAGS: list[dict[str, Any]] = [
    {"tags": {"vegan": 1, "hot": 1}, "dish": {"price": 4.5}},
    {"tags": {"hot": 1}, "dish": {"price": 6}},
    {"tags": {"vegan": True}, "dish": {"price": 7}},
    {"tags": {"hot": 1.0}, "dish": {"price": 1}},
]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"tags.a": 1}, {"tags.b": 1}], ("tags",)),
        ([{"tags.a": 1}, {"tags.a": 1}], ()),  # one name is a field, there or missing
        ([{"tags.a": 1}, {"tags.b": 2}], ()),  # a number
        ([{"tags.a": 1}, {"tags.b": 0}], ()),  # 0 differs from a missing one
        ([{"tags.a": 1}, {"tags.b": "1"}], ()),
        ([{"a": 1}, {"b": 1}], ()),  # nothing around them
        ([{"query.node.js": 1}, {"query.go": 1}], ("query",)),  # the outer object
        ([{"u.tags.a": 1}, {"u.tags.b": 1}, {"u.age": 3}], ("u.tags",)),
        ([{"tags.a": 1, "tags.b": 1}, {"tags": "c"}], ()),
        ([{"tags.a": 1, "tags.b": 1, "tags.c": 1}], ("tags",)),
    ],
)
def test_objects_of_ones_are_sets(rows, expected):
    assert sets_of(rows, ()) == expected


def test_an_object_with_a_declared_field_is_no_set():
    rows = [{"tags.a": 1, "tags.b": 1, "tags.c": 1}]
    assert sets_of(rows, ("tags.a",)) == ()
    assert sets_of(rows, ("tags",)) == ()


def test_names_are_in_their_set_unless_their_value_says_no():
    row = {"tags.a": 1, "tags.b": 0, "tags.c": 2.5, "tags.d": "text", "tags.e": False, "x": 1}
    assert gathered(row, {"tags"}) == {"tags": ["a", "c"], "x": 1}
    assert gathered({"tags": ["z"], "tags.a": 1}, {"tags"}) == {"tags": ["z", "a"]}


def test_a_set_is_encoded_as_the_list_of_its_names_is():
    encoding = fit(NAMESPACES, TAGS * 3)
    assert encoding.sets == {"tags"}
    (part,) = (part for part in encoding.parts if isinstance(part, CategoriesPart))
    assert (part.path, part.values) == ("tags", ("hot", "vegan"))
    lists = [{"tags": [*row["tags"]], "dish": row["dish"]} for row in TAGS]
    other = fit(Features(auto=True), lists * 3)
    assert encoding.columns == other.columns
    assert np.array_equal(encoding.encode(TAGS), other.encode(lists))
    flat = [{f"tags.{name}": 1 for name in row["tags"]} | {"dish": row["dish"]} for row in TAGS]
    assert np.array_equal(encoding.encode(flat), encoding.encode(TAGS))
    again = Encoding.from_bytes(encoding.to_bytes())
    assert np.array_equal(again.encode(TAGS), encoding.encode(TAGS))


def test_a_new_name_of_a_set_is_an_unseen_value_of_its_field_and_no_unknown_key():
    encoding, observed = fit(NAMESPACES, TAGS * 3), Observed()
    rows = encoding.encode([{"tags": {"new": 1}, "dish": {"price": 4}}], observed)
    assert observed.unknown == 0
    assert observed.of("tags").unseen == 1
    names = [name for name, value in zip(encoding.columns, rows[0], strict=True) if value == 1.0]
    assert [name for name in names if name.startswith("tags#")]


def test_sets_of_both_sides_have_values_in_common():
    contexts = [{"likes": {name: 1}} for name in ("hot", "vegan", "cheap")] * 2
    x, a = fit(NAMESPACES, contexts), fit(NAMESPACES, TAGS * 2)
    (pair,) = shared_columns(x, a)
    assert [x.columns[at] for at in pair.x] == ["likes=hot", "likes=vegan"]
    assert [a.columns[at] for at in pair.a] == ["tags=hot", "tags=vegan"]


def test_without_the_rule_each_name_is_a_field():
    encoding = fit(Features(auto=True), TAGS * 3)
    assert encoding.sets == frozenset()
    assert {"tags.hot", "tags.vegan"} <= set(encoding.fields)


def test_the_rule_is_written_as_it_was_read():
    assert NAMESPACES.to_json() == {"*": "namespaces"}
    both = {"*": "namespaces", "_event": {"type": "ignore", "log": "keep"}}
    assert Features.from_json(both).to_json() == both
    with pytest.raises(ValueError, match='must be "auto" or "namespaces"'):
        Features.from_json({"*": "sets"})
