"""JSON lists, base64 envelopes and msgpack mean the same, down to the last bit of a draw."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest

JSON_TYPE, MSGPACK_TYPE = "application/json", "application/msgpack"
RNG = np.random.default_rng(5)
CONTEXTS = RNG.standard_normal((6, 2, 2)).astype(np.float32)
FEATURES = RNG.standard_normal((4, 3)).astype(np.float32)
IDS = ["a", "b", "c", "d"]
SPEC: dict[str, Any] = {
    "policy": "neural_linear_ts",
    "context": {"shape": [2, 2]},
    "action_dim": 3,
    "encoder": {"name": "mlp", "params": {"feature_dim": 4, "hidden": [8]}},
    "training": {"mode": "lockstep", "optimizer_steps": 4},
    "seed": 3,
}
Array = Callable[[Any], Any]


def session(api, name: str, encoding: str, array: Array) -> list[Any]:
    """Create a bandit and run it through everything in one encoding; returns the answers."""

    def call(method: str, path: str, body: Any) -> Any:
        headers = {"content-type": encoding, "accept": encoding}
        if encoding == JSON_TYPE:
            response = api.http.request(method, path, json=body, headers=headers)
            decoded = response.json()
        else:
            response = api.http.request(method, path, content=msgpack.packb(body), headers=headers)
            decoded = msgpack.unpackb(response.content)
        assert response.status_code in (200, 201), decoded
        assert response.headers["content-type"] == encoding
        return decoded

    created = call("PUT", f"/bandits/{name}", SPEC)
    found = [created["spec"], created["uid"]]
    columns = {"ids": IDS, "features": array(FEATURES)}
    found.append(call("PUT", f"/bandits/{name}/actions", columns))
    inline = [{"id": i, "features": array(row)} for i, row in zip("xyz", FEATURES, strict=False)]
    for number, context in enumerate(CONTEXTS):
        select = {
            "bandit": name, "context": array(context), "decision_id": f"{name}-{number}",
            "candidates": [None, IDS[:3], inline][number % 3],
        }  # fmt: skip
        found.append(call("POST", "/select", select))
        assert call("POST", "/select", select) == found[-1]
        reward = {"decision_id": f"{name}-{number}", "reward": number / 6}
        found.append(call("POST", "/reward", reward))
        if number == 3:
            found.append(api.train(name)["snapshot"])
    score = {"context": array(CONTEXTS[0]), "candidates": inline}
    found.append(call("POST", f"/bandits/{name}/score", score))
    return found


def test_two_servers_with_the_same_requests_in_two_encodings_answer_the_same(
    api, configured, envelope
) -> None:
    """A new name has the same uid on every new server, so equal ids draw equal numbers."""
    plain = session(api, "twin-1", JSON_TYPE, lambda array: array.tolist())
    binary = session(
        configured, "twin-1", MSGPACK_TYPE, lambda array: envelope(array, "float32", binary=True)
    )
    assert binary == plain
    plain = session(api, "twin-2", JSON_TYPE, lambda array: envelope(array, "float64"))
    binary = session(configured, "twin-2", MSGPACK_TYPE, lambda array: array.tolist())
    assert binary == plain


def test_a_repeated_id_is_the_same_body_in_every_encoding(api, envelope, packed) -> None:
    name, own = api.two_actions(), api.fresh("d")
    context = [0.5, -1.25]
    base = {"bandit": name, "decision_id": own, "candidates": [
        {"id": "p", "features": [1, 2]}, {"id": "q", "features": [3, 4]},
    ]}  # fmt: skip
    first = api.call("POST", "/select", base | {"context": context})
    for dtype in ("float32", "float64"):
        same = base | {"context": envelope(context, dtype)}
        assert api.call("POST", "/select", same) == first
        same = base | {"context": envelope(context, dtype, binary=True)}
        assert packed("POST", "/select", same).json() == first
    same = base | {"context": context, "candidates": [
        {"id": "p", "features": envelope([1, 2], "uint8")},
        {"id": "q", "features": envelope([3, 4], "int64")},
    ]}  # fmt: skip
    assert api.call("POST", "/select", same) == first
    answer = packed("POST", "/select", base | {"context": context}, accept=MSGPACK_TYPE)
    assert answer.headers["content-type"] == MSGPACK_TYPE
    assert msgpack.unpackb(answer.content) == first


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/bandits"), ("GET", "/bandits/{name}"), ("POST", "/select/batch")]
)
def test_every_answer_comes_as_msgpack_when_that_is_accepted(
    api, packed, method: str, path: str
) -> None:
    name = api.two_actions()
    path = path.format(name=name)
    body = None
    if method == "POST":
        items = [{"bandit": name, "context": [1, 2], "decision_id": api.fresh("d")}, {}]
        body = {"items": items}
    response = packed(method, path, body, accept=MSGPACK_TYPE)
    assert response.headers["content-type"] == MSGPACK_TYPE
    decoded = msgpack.unpackb(response.content)
    expected = packed(method, path, body, accept=JSON_TYPE).json()
    if method == "GET":
        for bandit in (*decoded.get("bandits", [decoded]), *expected.get("bandits", [expected])):
            del bandit["trainer"]
    assert decoded == expected


def test_errors_are_json_whatever_is_accepted(packed, problem) -> None:
    response = packed("POST", "/select", {}, accept=MSGPACK_TYPE)
    problem(response, 422, "invalid-request", "context")


def test_an_image_is_the_same_as_bytes_and_as_lists(api, envelope, packed) -> None:
    image = RNG.integers(0, 256, (28, 28))
    name = api.bandit(
        ["0", "1"], action_dim=0, encoder={"name": "per_action"},
        context={"shape": [28, 28], "dtype": "uint8"},
    )  # fmt: skip
    own = api.fresh("d")
    first = api.select(name, image.tolist(), decision_id=own)
    assert api.select(name, envelope(image, "uint8"), decision_id=own) == first
    body = {
        "bandit": name, "context": envelope(image, "uint8", binary=True), "decision_id": own,
    }  # fmt: skip
    assert packed("POST", "/select", body).json() == first
    api.reward(own, 1.0)
    scores = api.scores(name, image.tolist())["scores"]
    assert api.scores(name, envelope(image, "uint8"))["scores"] == scores
    assert api.scores(name, envelope(image, "float64"))["scores"] == scores


def test_a_large_catalogue_goes_in_and_out_as_msgpack(api, envelope, packed) -> None:
    name = api.bandit()
    ids = [f"item:{number}" for number in range(5000)]
    features = RNG.standard_normal((5000, 2))
    body = {"ids": ids, "features": envelope(features, "float32", binary=True)}
    assert packed("PUT", f"/bandits/{name}/actions", body).json()["num_actions"] == 5000
    score = {"context": [1, 2], "candidates": ids[::-1]}
    response = packed("POST", f"/bandits/{name}/score", score, accept=MSGPACK_TYPE)
    rows = msgpack.unpackb(response.content)["scores"]
    assert [row["id"] for row in rows] == ids[::-1]
    assert len(api.scores(name, [1, 2])["scores"]) == 5000


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", JSON_TYPE), ("*/*", JSON_TYPE), ("text/html", JSON_TYPE), (JSON_TYPE, JSON_TYPE),
        (MSGPACK_TYPE, MSGPACK_TYPE), ("Application/MsgPack", MSGPACK_TYPE),
        (f"{MSGPACK_TYPE};q=0", JSON_TYPE), (f"{MSGPACK_TYPE}; q=0.0, */*", JSON_TYPE),
        (f"{JSON_TYPE}, {MSGPACK_TYPE};q=0.5", JSON_TYPE),
        (f"{JSON_TYPE};q=0.4, {MSGPACK_TYPE};q=0.5", MSGPACK_TYPE),
        (f"{JSON_TYPE}, {MSGPACK_TYPE}", MSGPACK_TYPE), (f"{MSGPACK_TYPE};v=1", MSGPACK_TYPE),
        (f"{MSGPACK_TYPE};q=x", JSON_TYPE), (f"{MSGPACK_TYPE}x", JSON_TYPE),
    ],
)  # fmt: skip
def test_the_answer_is_in_the_encoding_that_is_wanted_most(api, accept, expected) -> None:
    name = api.two_actions()
    body = {"bandit": name, "context": [1.0, 2.0]}
    for path, sent in (("/select", body), (f"/bandits/{name}/score", {"context": [1.0, 2.0]})):
        answer = api.http.post(path, json=sent, headers={"accept": accept})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == expected


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate, gzip", "x"])
def test_a_compressed_body_is_refused_by_name(api, problem, encoding: str) -> None:
    name = api.two_actions()
    body = gzip.compress(json.dumps({"bandit": name, "context": [1.0, 2.0]}).encode())
    headers = {"content-type": JSON_TYPE, "content-encoding": encoding}
    for method, path in (
        ("POST", "/select"), ("POST", "/reward"), ("PUT", f"/bandits/{name}/actions"),
        ("PUT", f"/bandits/{name}/snapshot"),
    ):  # fmt: skip
        answer = api.http.request(method, path, content=body, headers=headers)
        assert encoding in problem(answer, 415, "unsupported-body")["detail"]


def test_a_body_that_says_it_is_not_compressed_is_read(api) -> None:
    body = {"bandit": api.two_actions(), "context": [1.0, 2.0]}
    answer = api.http.post("/select", json=body, headers={"content-encoding": "identity"})
    assert answer.status_code == 200
