"""The catalogue and arrays: how both clients send them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from bandexa_client import ActionState, BanditClient, array_body
from tests.client.scripted import Script


def test_an_array_body_holds_dtype_shape_and_bytes() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    body = array_body(str(values.dtype), values.shape, values.tobytes())
    data = base64.b64decode(str(body["data"]))
    assert (body["dtype"], body["shape"]) == ("float32", [2, 3])
    np.testing.assert_array_equal(np.frombuffer(data, "<f4").reshape(2, 3), values)


def test_actions_go_in_columns_with_features_and_in_rows_without(
    script: Script, client: BanditClient
) -> None:
    script.always({"num_actions": 2, "position": 1})
    assert client.put_actions("b", ["x", "y"], [[1.0], [2.0]]).num_actions == 2
    assert script.sent() == {"ids": ["x", "y"], "features": [[1.0], [2.0]]}
    client.put_actions("b", ["x", "y"])
    assert script.sent() == {"actions": [{"id": "x"}, {"id": "y"}]}
    listed: list[dict[str, object]] = [
        {"id": "x", "features": [1.0]},
        {"id": "y", "enabled": False},
    ]
    client.put_actions("b", listed)
    assert script.sent() == {"actions": listed}


@pytest.mark.parametrize("name", [".", ".."])
def test_what_an_address_would_lose_is_not_sent(
    script: Script, client: BanditClient, name: str
) -> None:
    """`DELETE /bandits/b/actions/..` would arrive as `DELETE /bandits/b`."""
    calls: list[Any] = [
        lambda: client.retire_action("b", name),
        lambda: client.delete_bandit(name),
        lambda: client.get_bandit(name),
        lambda: client.explain("b", name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="cannot be part of an address"):
            call()
    assert script.bodies() == []


def test_a_text_is_no_list_of_decisions(script: Script, client: BanditClient) -> None:
    with pytest.raises(TypeError, match="decision_ids"):
        client.erase(decision_ids="abc")
    assert script.bodies() == []


def test_disabled_actions_go_in_rows(script: Script, client: BanditClient) -> None:
    script.always({"num_actions": 1, "position": 1})
    client.put_actions("b", ["x", "y"], enabled=[True, False])
    rows = [{"id": "x", "enabled": True}, {"id": "y", "enabled": False}]
    assert script.sent() == {"actions": rows}
    client.put_actions("b", ["x", "y"], [[1.0], [2.0]], [True, False])
    features = [[1.0], [2.0]]
    for row, values in zip(rows, features, strict=True):
        row["features"] = values
    assert script.sent() == {"actions": rows}
    array = np.array(features, np.float32)
    client.put_actions("b", ["x", "y"], array, [True, False])
    sent = [row["features"] for row in script.sent()["actions"]]
    assert sent == [array_body("float32", [1], row.tobytes()) for row in array]


@pytest.mark.parametrize(
    ("actions", "features", "enabled"),
    [
        (["x", "y"], None, [True]),
        (["x", "y"], [[1.0]], [True, False]),
        (["x", "y"], np.ones((3, 1)), [True, False]),
        ([{"id": "x"}], [[1.0]], None),
        ([{"id": "x"}], None, [True]),
    ],
)
def test_columns_of_another_length_are_refused(
    script: Script, client: BanditClient, actions: Any, features: Any, enabled: Any
) -> None:
    with pytest.raises(ValueError, match=r"features|enabled"):
        client.put_actions("b", actions, features, enabled)
    assert script.requests == []


def test_a_long_catalogue_is_listed_in_pages(script: Script, client: BanditClient) -> None:
    def row(slot: int) -> dict[str, object]:
        return {"id": str(slot), "index": slot, "enabled": True, "features": [0.5]}

    for start in (0, 2):
        script.then(200, {"total": 4, "actions": [row(start), row(start + 1)]})
    assert client.list_actions("b")[3] == ActionState("3", 3, True, (0.5,))
    paths = [request.path for request in script.requests]
    assert paths == [f"/bandits/b/actions?offset={slot}&limit=10000" for slot in (0, 2)]
    script.always({"total": 4, "actions": [row(1)]})
    assert [action.id for action in client.list_actions("b", offset=1, limit=1)] == ["1"]
    assert script.asked() == ("GET", "/bandits/b/actions?offset=1&limit=1")


def test_numpy_arrays_are_sent_as_bytes(
    script: Script, client: BanditClient, selected: dict[str, Any]
) -> None:
    script.always(selected)
    for array, dtype in [
        (np.array([[1, 2]], np.uint8), "uint8"),
        (np.array([1.5], ">f4"), "float64"),
        (np.array([1, 2], np.int16), "int64"),
        (np.array([True, False]), "int64"),
        (np.array([2**63], np.uint64), "float64"),
        (np.arange(6.0).reshape(2, 3).T, "float64"),
    ]:
        client.select("b", array)
        sent = script.sent()["context"]
        found = np.frombuffer(base64.b64decode(sent["data"]), sent["dtype"]).reshape(sent["shape"])
        assert sent["dtype"] == dtype
        np.testing.assert_array_equal(found, array)


def test_numpy_values_within_lists_are_sent_as_numbers(
    script: Script, client: BanditClient, selected: dict[str, Any]
) -> None:
    script.always(selected)
    candidates = [{"id": "a", "features": np.array([1.0, 2.0])}]
    client.select("b", [np.float32(0.5), np.int64(2)], candidates=candidates)
    assert script.sent()["context"] == [0.5, 2]
    assert script.sent()["candidates"] == [{"id": "a", "features": [1.0, 2.0]}]
    with pytest.raises(TypeError, match=r"^context\[0\]: object cannot be sent as JSON$"):
        client.select("b", [object()])


@pytest.mark.parametrize(
    ("context", "error", "message"),
    [
        ({"user": {"age": float("nan")}}, ValueError, r"^context\.user\.age: is NaN, .* send None"),
        ({"emb": [1.0, np.float32("inf")]}, ValueError, r"^context\.emb\[1\]: is infinite"),
        ({"tags": {"a", "b"}}, TypeError, r"^context\.tags: set cannot be sent as JSON$"),
    ],
)
def test_what_cannot_be_sent_is_named_with_its_place(
    script: Script, client: BanditClient, context: Any, error: type[Exception], message: str
) -> None:
    """Tables in memory have NaN for what is missing."""
    with pytest.raises(error, match=message):
        client.select("b", context)
    assert script.requests == []


def test_what_contains_itself_is_refused(client: BanditClient) -> None:
    context: dict[str, Any] = {}
    context["self"] = context
    with pytest.raises(ValueError, match="Circular reference"):
        client.select("b", context)
