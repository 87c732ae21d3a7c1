"""JSON becomes features by the rules of Vowpal Wabbit's parser, which Personalizer uses."""

from __future__ import annotations

from typing import Any

import pytest

from bandexa_core.schema.namespaces import united

BIG = 1 << 70

RULES: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    ([{"visit": {"daypart": "noon"}}], {"visit.daypart": "noon"}),
    ([{"a": {"b": {"x": 1}}}], {"b.x": 1}),  # only the innermost key counts
    ([{"x": 1, "y": "red"}], {"x": 1, "y": "red"}),  # at the top
    ([{"a": {"x": 1}}, {"b": {"x": 2}}], {"a.x": 1, "b.x": 2}),
    ([{"a": {"x": 1}}, {"a": {"x": 2.5}}], {"a.x": 3.5}),  # one feature: its numbers add up
    ([{"a": {"k": "u"}}, {"a": {"k": "v"}}], {"a.k": ["u", "v"]}),  # both hold
    ([{"a": {"k": "u"}}, {"a": {"k": 2}}], {"a.k": ["u", "2"]}),
    ([{"a": {"on": True}}, {"a": {"on": False}}], {"a.on": True}),
    ([{"a": {"x": None, "y": False, "z": 0}}], {"a.y": False, "a.z": 0}),  # null is nothing
    ([{"a": {"vector": [1, 2.5]}}], {"vector": [1, 2.5]}),  # a namespace of its own
    ([{"a": {"none": []}}], {}),
    ([{"_skip": {"x": 1}, "_tag": "t", "a": {"_x": 1, "y": 1}}], {"a.y": 1}),
    ([{"a": {"_text": "big red big"}}], {"a._text": ["big", "red"]}),
    ([{"a": {}}], {}),
    ([], {}),
    ([{"n": BIG}], {"n": float(BIG)}),
]


@pytest.mark.parametrize(("objects", "features"), RULES, ids=range(len(RULES)))
def test_rules(objects: list[dict[str, Any]], features: dict[str, Any]) -> None:
    assert united(objects, "contextFeatures") == features


def test_features_at_the_top_of_a_slot_have_its_namespace() -> None:
    assert united([{"size": "large", "a": {"x": 1}}], "f", "sj") == {"sj.size": "large", "a.x": 1}


def test_what_is_long_is_shortened_to_what_tells_it_apart() -> None:
    texts = ["x" * 1500 + end for end in "ab"]
    found = [united([{"a": {"k": text}}], "f")["a.k"] for text in texts]
    assert len({*found}) == 2
    assert all(len(each) == 1024 and each.startswith("xxx") for each in found)
    (name,) = united([{"a": {"ü" * 200: 1}}], "f")
    assert len(name.encode()) <= 256
