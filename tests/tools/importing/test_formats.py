"""Logs of other services become rows that a bandit can import."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from service.tools.importing.found import Found
from service.tools.importing.rows import Source, Unreadable, format_of

NAMED = {"context": {"features": "auto"}, "actions": {"features": None}, "action_dim": 0}
BOTH = {"context": {"features": "auto"}, "actions": {"features": "auto"}, "action_dim": 0}
NUMBERS = {"context": {"shape": [3]}, "actions": {"features": None}, "action_dim": 2}


def read(file: Path, spec: dict[str, Any], names: list[str] | None = None) -> list[Found]:
    """Return what a file holds for a bandit."""
    kind = format_of(file)
    assert kind is not None
    return list(Source.of(file, kind, spec, names or [], file.name).rows())


def items(found: list[Found]) -> list[dict[str, Any]]:
    """Return the rows, all of them without an id of their own."""
    rows = []
    for each in found:
        assert each.item is not None, each.reason
        assert each.item["id"].startswith(f"line-{each.line}-")
        rows.append({key: value for key, value in each.item.items() if key != "id"})
    return rows


def test_lines_of_fixed_actions(tmp_path: Path) -> None:
    file = tmp_path / "log.cb"
    file.write_text("2:-1.5:0.25 | age:0.5 mobile\n\n1:0:0.5 2 |user:2 age:3 |time noon\n")
    first, second = found = read(file, NAMED, ["red", "blue"])
    assert items(found) == [
        {
            "context": {"age": 0.5, "mobile": 1.0}, "action": "blue", "value": 1.5,
            "propensity": 0.25,
        },
        {
            "context": {"user": {"age": 6.0}, "time": {"noon": 1.0}}, "action": "red", "value": 0.0,
            "propensity": 0.5, "candidates": ["red", "blue"],
        },
    ]  # fmt: skip
    assert ([a.id for a in first.actions], [a.id for a in second.actions]) == (
        ["blue"], ["red", "blue"],
    )  # fmt: skip


def test_blocks_of_actions_with_features(tmp_path: Path) -> None:
    file = tmp_path / "log.cb.gz"
    text = (
        "shared |user age:3\n'soup |dish price:6\n0:-1:0.7 'cake |dish price:4\n\n"
        "shared | a\n0:1:0.5 | b\n | c\n"
    )
    file.write_bytes(gzip.compress(text.encode()))
    found = read(file, BOTH)
    assert [each.line for each in found] == [3, 7]
    assert items(found) == [
        {
            "context": {"user": {"age": 3.0}}, "action": "cake", "value": 1.0, "propensity": 0.7,
            "candidates": [
                {"id": "soup", "features": {"dish": {"price": 6.0}}},
                {"id": "cake", "features": {"dish": {"price": 4.0}}},
            ],
        },
        {
            "context": {"a": 1.0}, "action": "1", "value": -1.0, "propensity": 0.5,
            "candidates": [
                {"id": "1", "features": {"b": 1.0}}, {"id": "2", "features": {"c": 1.0}},
            ],
        },
    ]  # fmt: skip


def test_names_that_are_places_become_numbers(tmp_path: Path) -> None:
    file = tmp_path / "log.cb"
    file.write_text("shared | 0:1.5 2:-1\n0:-1:0.5 'x | 0:1 1:2\n'y | 1:3\n")
    (row,) = items(read(file, NUMBERS))
    assert row["context"] == [1.5, 0.0, -1.0]
    assert row["candidates"] == [{"id": "x", "features": [1, 2]}, {"id": "y", "features": [0, 3]}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1:0:0.5 age:3", "the bar is missing"),
        ("1:0:1.5 | a", "probability: 1.5"),
        ("1:x:0.5 | a", "cost: 'x'"),
        ("1:0 | a", "is no label"),
        ("2 | a", "has no label"),
        ("1:0:0.5 | a:b", "a: 'b' is no finite number"),
    ],
)
def test_a_broken_line_says_why_and_the_next_goes_on(
    tmp_path: Path, line: str, reason: str
) -> None:
    file = tmp_path / "log.cb"
    file.write_text(f"{line}\n1:0:0.5 | a\n")
    broken, good = read(file, NAMED)
    assert broken.item is None
    assert reason in broken.reason
    assert good.item is not None


def test_a_table(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(
        "decision_id,time,context.user.age,context.device,action,candidates,reward,propensity\n"
        "a,2026-05-04T18:00:00Z,33,phone,red,red blue,1,0.25\n"
        'b,1777910400,,,blue,"[""red"",""blue""]",,\n'
        "c,,1,x,red,blue,1,0.5\n"
        "d,,1,x,red,red,much,0.5\n"
        "e,nan,1,x,red,red,1,0.5\n"
    )
    one, two, three, four, five = read(file, NAMED)
    assert one.item == {
        "id": "a", "time": 1777917600.0, "context": {"user.age": 33.0, "device": "phone"},
        "action": "red", "candidates": ["red", "blue"], "value": 1.0, "propensity": 0.25,
    }  # fmt: skip
    assert two.item == {
        "id": "b", "time": 1777910400.0, "context": {}, "action": "blue",
        "candidates": ["red", "blue"],
    }  # fmt: skip
    assert (three.line, three.reason) == (4, "candidates: the action 'red' is none of them")
    assert four.reason == "reward: 'much' is no finite number"
    assert five.reason == "time: nan is no finite number"
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("context.0,context.2,action,cost\n1,2,x,0.5\n")
    (row,) = items(read(numbers, NUMBERS))
    assert (row["context"], row["value"]) == ([1.0, 0.0, 2.0], -0.5)
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("acton,reward\nx,1\n")
    with pytest.raises(Unreadable, match="'action' is missing"):
        read(wrong, NAMED)


def test_metrics_of_a_table(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(
        "action,metrics.click,metrics.money,context.age,reward\n"
        "red,1,9.5,3,\nred,0,,3,\nred,,,3,\nred,,,3,0.5\nred,1,,3,0.5\nred,x,,3,\n"
    )
    measured = NAMED | {"rewards": {"learn": {"money": 1.0}}}
    found = read(file, measured)
    assert [(row.get("metrics"), row.get("value")) for row in items(found[:4])] == [
        ({"click": 1.0, "money": 9.5}, None), ({"click": 0.0}, None), (None, None), (None, 0.5),
    ]  # fmt: skip
    assert found[4].reason == "metrics: give these, or a reward or cost, not both"
    assert found[5].reason == "metrics.click: 'x' is no finite number"
    with pytest.raises(Unreadable, match=r"'metrics\.click': the bandit learns single values"):
        read(file, NAMED)


@pytest.mark.parametrize("order", [[0, 1], [1, 1], [2, 3]])
def test_probabilities_of_no_order_of_the_actions_are_no_decision(
    tmp_path: Path, order: list[int]
) -> None:
    file = tmp_path / "log.dsjson"
    row = {
        "_label_cost": 0, "_label_probability": 0.5, "_labelIndex": 0, "a": order, "p": [0.5, 0.5],
        "c": {"x": 1, "_multi": [{"_tag": "soup"}, {"_tag": "cake"}]},
    }  # fmt: skip
    file.write_text(json.dumps(row) + "\n" + json.dumps(row | {"a": [2, 1]}) + "\n")
    broken, good = read(file, NAMED)
    assert (broken.item, broken.reason) == (None, "a: is no order of the actions 1 to 2")
    assert good.item is not None
    assert good.item["propensities"] == {"soup": 0.5, "cake": 0.5}


def test_rows_without_an_id_are_those_of_a_line(tmp_path: Path) -> None:
    """A file that became longer has the same ids; another one, or another row, has others."""
    file, other = tmp_path / "one.cb", tmp_path / "two.cb"
    file.write_text("1:0:0.5 | a\n1:0:0.5 | a\n")

    def ids(path: Path) -> list[str]:
        return [each.item["id"] for each in read(path, NAMED) if each.item is not None]

    before = ids(file)
    file.write_text("1:0:0.5 | a\n1:0:0.5 | a\n1:1:0.5 | a\n")
    assert ids(file)[:2] == before
    assert len(set(ids(file))) == 3
    other.write_text("1:0:0.5 | a\n")
    assert ids(other)[0] not in ids(file)
