"""Bandits with named features over HTTP: plain objects in, plain objects back, both encodings."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

SHOP: dict[str, Any] = {"context": {"features": "auto"}, "actions": {"features": "auto"}}
GIFTS = [
    {"id": "gift-07", "features": {"kind": "gift", "price": 9.5, "min_basket": None}},
    {"id": "tea-01", "features": {"kind": "tea", "price": 4, "origin": {"land": "Assam"}}},
    {"id": "book-02", "features": {}},
]
VISIT = {"user": {"age": 31}, "device": "phone", "tags": ["a", "b"], "seen": None}
DECLARED: dict[str, Any] = {
    "context": {
        "features": {"age": "number", "device": {"type": "category", "values": ["phone", "pc"]}},
        "unknown": "refuse", "max_bytes": 200,
    },
    "actions": {"features": {"kind": "category"}, "strict": True},
}  # fmt: skip


@pytest.fixture
def shop(api) -> str:
    """A bandit whose fields type themselves, with three actions."""
    name: str = api.fresh("shop")
    api.call("PUT", f"/bandits/{name}", SHOP | {"seed": 1}, 201)
    api.call("PUT", f"/bandits/{name}/actions", {"actions": GIFTS})
    return name


@pytest.fixture(scope="module")
def declared(api) -> str:
    """A bandit with declared fields, which no test changes."""
    name: str = api.fresh("declared")
    api.call("PUT", f"/bandits/{name}", DECLARED, 201)
    actions = [{"id": "x", "features": {"kind": "a"}}, {"id": "y", "features": {"kind": "b"}}]
    api.call("PUT", f"/bandits/{name}/actions", {"actions": actions})
    return name


def test_the_whole_configuration_of_a_newcomer(api, shop) -> None:
    state = api.state(shop)
    assert state["spec"]["context"]["features"] == "auto"
    assert state["spec"]["actions"]["features"] == "auto"
    found = state["features"]["context"]
    assert (found["num_rows"], found["fields"], found["num_columns"]) == (0, {}, 64)


def test_actions_come_back_with_their_names(api, shop) -> None:
    listed = api.call("GET", f"/bandits/{shop}/actions")["actions"]
    assert [(row["id"], row["features"]) for row in listed] == [
        (gift["id"], gift["features"]) for gift in GIFTS
    ]
    api.call("DELETE", f"/bandits/{shop}/actions/tea-01")
    api.call("PUT", f"/bandits/{shop}/actions", {"actions": [{"id": "tea-01"}]})
    again = api.call("GET", f"/bandits/{shop}/actions")["actions"]
    assert again == listed


def test_features_in_columns(api, shop) -> None:
    body = {"ids": ["a", "b"], "features": [{"price": 1}, {"price": 2}]}
    assert api.call("PUT", f"/bandits/{shop}/actions", body)["num_actions"] == 5
    listed = api.call("GET", f"/bandits/{shop}/actions?offset=3")["actions"]
    assert [row["features"] for row in listed] == body["features"]


def test_a_decision_is_explained_with_its_objects(api, shop) -> None:
    made = api.select(shop, VISIT)
    found = api.call("GET", f"/bandits/{shop}/decisions/{made['decision_id']}")
    assert found["context"]["object"] == VISIT
    assert (found["context"]["dtype"], found["context"]["values"]) == ("json", None)
    chosen = {gift["id"]: gift["features"] for gift in GIFTS}[made["action"]["id"]]
    assert found["chosen"][0]["features"] == chosen
    assert found["explained"] == "yes"
    assert all(found["reproduced"].values())


def test_msgpack_is_what_json_is(api, shop, packed) -> None:
    body = {"context": VISIT, "candidates": GIFTS[:2]}
    answer = packed("POST", f"/bandits/{shop}/score", body)
    assert answer.json() == api.scores(shop, VISIT, GIFTS[:2])
    own = {"bandit": shop, "context": VISIT, "decision_id": api.fresh(), "candidates": GIFTS[:2]}
    first = api.call("POST", "/select", own)
    assert packed("POST", "/select", own).json() == first
    columns = {"ids": ["c"], "features": [GIFTS[0]["features"]]}
    assert packed("PUT", f"/bandits/{shop}/actions", columns).status_code == 200
    listed = packed("PUT", f"/bandits/{shop}/actions", {"actions": GIFTS})
    assert listed.status_code == 200
    assert (
        api.call("GET", f"/bandits/{shop}/actions?offset=3")["actions"][0]["features"]
        == (GIFTS[0]["features"])
    )


def test_a_repeat_in_another_order_of_keys_is_a_repeat(api, shop) -> None:
    """Keys in another order, also of nested objects; another value is another request."""
    own = {"bandit": shop, "decision_id": api.fresh()}
    candidates = [{"id": "x", "features": {"a": 1, "b": {"c": 2, "d": 3}}}, {"id": "y"}]
    turned: list[dict[str, Any]] = [
        {"features": {"b": {"d": 3, "c": 2}, "a": 1}, "id": "x"},
        {"id": "y"},
    ]
    context = {"user": {"age": 31, "land": "DE"}, "device": "phone"}
    first = api.select(shop, context, **own, candidates=candidates)
    again = {"device": "phone", "user": {"land": "DE", "age": 31}}
    assert api.select(shop, again, **own, candidates=turned) == first
    other = again | {"device": "pc"}
    api.select(shop, other, 409, **own, candidates=turned)
    turned[0]["features"] = {"a": 2}
    api.select(shop, again, 409, **own, candidates=turned)


def test_a_repeat_by_another_json_library_is_a_repeat(api, shop, packed) -> None:
    """Whole numbers with and without a fraction, nulls that are left out, and flat names."""
    own = {"bandit": shop, "decision_id": api.fresh()}
    first = api.select(
        shop, {"user": {"age": 31}, "spent": 1e2, "seen": None, "tags": [1, 2]}, **own,
        candidates=[{"id": "x", "features": {"price": 4}}, {"id": "y", "features": {"price": 4.5}}],
    )  # fmt: skip
    again = {"user.age": 31.0, "spent": 100, "tags": [1.0, 2]}
    candidates = [
        {"id": "x", "features": {"price": 4.0, "kind": None}},
        {"id": "y", "features": {"price": 4.5}},
    ]
    assert api.select(shop, again, **own, candidates=candidates) == first
    body = own | {"context": again, "candidates": candidates}
    assert packed("POST", "/select", body).json() == first
    api.select(shop, again | {"spent": "100"}, 409, **own, candidates=candidates)


def test_batches_score_and_inline_candidates(api, shop) -> None:
    good = {"bandit": shop, "context": VISIT, "candidates": GIFTS}
    items = [good, good | {"context": [1, 2]}, {"bandit": shop, "context": {}}]
    answers = api.call("POST", "/select/batch", {"items": items})["items"]
    assert [answer["code"] for answer in answers] == [200, 422, 200]
    assert answers[1]["error"]["errors"][0]["field"] == "context"
    inline, known = api.means(shop, VISIT, GIFTS), api.means(shop, VISIT)
    assert inline == pytest.approx(known, abs=1e-6)
    first = answers[0]["answer"]
    assert api.reward(first["decision_id"], 1)["status"] == "applied"
    found = api.call("GET", f"/bandits/{shop}/decisions/{first['decision_id']}")
    assert found["explained"] == "yes"
    assert found["reproduced"] == {"action": True, "score": True, "propensity": True}


CONTEXTS: list[tuple[Any, str, str]] = [
    ({"age": "x12"}, "context.age", "'x12' is no number"),
    ({"age": [1]}, "context.age", "a list is no number"),
    ({"device": {"os": "x"}}, "context.device", "an object is no text"),
    ({"place": 1}, "context.place", "is no declared field"),
    ({"a": {"b": {"c": {"d": 1}}}}, "context.a.b.c", "objects nest deeper than 3 names"),
    ({"": 1}, "context", "a key is empty"),
    ({"device": "y" * 1100}, "context.device", "is no valid text"),
    ({"device": "y" * 200}, "context", "bytes as JSON, at most 200 are allowed"),
    ({"device": "y" * 4000}, "context", "is too long: at most 200 bytes are allowed"),
    ([0.5, 1], "context", "must be an object with named features"),
    ("phone", "context", "must be an object with named features"),
    (None, "context", "must be an object with named features"),
    ({"dtype": "float32", "shape": [1], "data": "AAAAAA=="}, "context", "it is an array"),
]


@pytest.mark.parametrize(("context", "field", "message"), CONTEXTS)
def test_a_wrong_context_is_named_and_changes_nothing(
    api, declared, packed, context, field, message
) -> None:
    before = api.state(declared)
    for body, path in (
        ({"bandit": declared, "context": context}, "/select"),
        ({"context": context}, f"/bandits/{declared}/score"),
    ):
        refused = api.call("POST", path, body, 422)
        assert refused["errors"][0]["field"] == field
        assert message in refused["errors"][0]["message"]
        other = packed("POST", path, body)
        assert (other.status_code, other.json()["errors"][0]["field"]) == (422, field)
    assert api.state(declared) == before


ACTIONS: list[tuple[Any, str]] = [
    ({"kind": 7}, "{}.1.features.kind"),
    ([1.0], "{}.1.features"),
    ({"dtype": "float32", "shape": [1], "data": "AAAAAA=="}, "{}.1.features"),
    ({"note": "y" * 1020}, "{}.1.features"),
    ("text", "{}.1.features"),
]


@pytest.mark.parametrize(("features", "field"), ACTIONS)
def test_wrong_features_of_an_action_are_named_and_change_nothing(
    api, declared, features, field
) -> None:
    before = api.state(declared)
    actions = [{"id": "z", "features": {"kind": "a"}}, {"id": "w", "features": features}]
    refused = api.call("PUT", f"/bandits/{declared}/actions", {"actions": actions}, 422)
    assert refused["errors"][0]["field"] == field.format("actions")
    refused = api.select(declared, {}, 422, candidates=actions)
    assert refused["errors"][0]["field"] == field.format("candidates")
    columns = {"ids": ["z", "w"], "features": [each["features"] for each in actions]}
    refused = api.call("PUT", f"/bandits/{declared}/actions", columns, 422)
    assert refused["errors"][0]["field"].startswith("features")
    assert api.state(declared) == before


def test_columns_need_an_object_for_each_id(api, declared) -> None:
    body = {"ids": ["z", "w"], "features": [{"kind": "a"}]}
    refused = api.call("PUT", f"/bandits/{declared}/actions", body, 422)
    assert refused["errors"] == [{"field": "features", "message": "has 1 objects for 2 actions"}]
    refused = api.call("PUT", f"/bandits/{declared}/actions", {"ids": ["new"]}, 422)
    assert "'new' is new and needs features" in refused["detail"]


def test_a_bandit_with_numbers_takes_no_objects(api, packed) -> None:
    name = api.two_actions()
    before = api.state(name)
    refused = api.select(name, {"age": 31}, 422)
    assert refused["errors"][0]["field"] == "context"
    assert "this bandit has no named features" in refused["detail"]
    answer = packed("POST", "/select", {"bandit": name, "context": {"age": 31}})
    assert "this bandit has no named features" in answer.json()["detail"]
    inline = [{"id": "a", "features": {"kind": "gift"}}]
    refused = api.select(name, [1, 2], 422, candidates=inline)
    assert refused["errors"][0]["field"] == "candidates.0.features"
    refused = api.call("PUT", f"/bandits/{name}/actions", {"actions": inline}, 422)
    assert refused["errors"][0]["field"] == "actions.0.features"
    assert "the bandit has no `actions.features`" in refused["detail"]
    assert api.state(name) == before


DECLARATIONS: list[tuple[Any, str, str]] = [
    ({"age": "nmber"}, "context.features.age.type", "must be one of bool, number"),
    ({"u.age": {"type": "number", "bins": 99}}, "context.features.u.age.bins", "must be 0 to 64"),
    ({"age": {"type": "number", "bin": 9}}, "context.features.age.bin", "has no such option"),
    ({"a": "number", "a.b": "number"}, "context.features.a", "a.b would be a part of it"),
    ({}, "context.features", "at least one field is needed"),
    (
        {"id": {"type": "hash", "log": "hide"}},
        "context.features.id.log",
        "must be keep, hash or drop, not 'hide'",
    ),
    (
        {"id": {"type": "category", "values": ["a"], "log": "hash"}},
        "context.features.id.values",
        "are learned where log is hash",
    ),
]


@pytest.mark.parametrize(("features", "field", "message"), DECLARATIONS)
def test_a_wrong_declaration_is_named(api, features, field, message) -> None:
    body = {"context": {"features": features}}
    refused = api.call("PUT", f"/bandits/{api.fresh()}", body, 422)
    assert refused["errors"][0]["field"] == field
    assert message in refused["errors"][0]["message"]


def test_every_policy_that_takes_objects(api) -> None:
    policies = (
        ("greedy", "kernel"), ("uniform", None), (None, "kernel"), ("linear_ts", "crosses"),
    )  # fmt: skip
    for policy, encoder in policies:
        name = api.fresh()
        created = api.call("PUT", f"/bandits/{name}", SHOP | {"policy": policy}, 201)
        assert encoder in (None, created["spec"]["encoder"]["name"])
        api.call("PUT", f"/bandits/{name}/actions", {"actions": GIFTS})
        made = api.select(name, VISIT)
        assert api.reward(made["decision_id"], 1.0)["status"] == "applied"
    body = SHOP | {"policy": "linear_ts", "encoder": {"name": "bilinear"}}
    refused = api.call("PUT", f"/bandits/{api.fresh()}", body, 422)
    assert "encoder.name: bilinear takes numbers alone" in refused["detail"]


def test_an_image_beside_named_fields(api, packed) -> None:
    name = api.fresh("stripes")
    photo = {"type": "image", "shape": [8, 8]}
    body: dict[str, Any] = {
        "context": {"features": {"photo": photo, "device": "category"}, "max_bytes": 512}, "seed": 1
    }  # fmt: skip
    api.call("PUT", f"/bandits/{name}", body, 201)
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["a", "b"]})
    pixels = [[row * 8 + column for column in range(8)] for row in range(8)]
    visit = {"photo": pixels, "device": "phone"}
    made = packed("POST", "/select", {"bandit": name, "context": visit}).json()
    found = api.call("GET", f"/bandits/{name}/decisions/{made['decision_id']}")
    assert found["context"]["object"] == visit
    assert all(found["reproduced"].values())
    state = api.state(name)
    assert state["spec"]["context"]["features"]["photo"]["shape"] == [8, 8]
    assert state["features"]["context"]["num_columns"] == 64 + 64
    pixels[7][3] = 256
    wrong = api.call("POST", "/select", {"bandit": name, "context": visit}, 422)
    assert wrong["errors"][0]["field"] == "context.photo[7][3]"
    small = body | {"context": body["context"] | {"max_bytes": 200}}
    refused = api.call("PUT", f"/bandits/{api.fresh()}", small, 422)
    assert "photo takes up to 284 bytes" in refused["errors"][0]["message"]


def test_one_side_may_be_numbers(api) -> None:
    """Named contexts with vectors as actions, and the other way round."""
    spec = {"context": {"features": "auto"}, "action_dim": 2}
    name = api.fresh()
    api.call("PUT", f"/bandits/{name}", spec, 201)
    body = {"ids": ["x", "y"], "features": [[1, 0], [0, 1]]}
    api.call("PUT", f"/bandits/{name}/actions", body)
    assert api.select(name, {"age": 3})["action"]["id"] in "xy"
    assert api.state(name)["features"]["actions"] is None
    other = api.fresh()
    api.call("PUT", f"/bandits/{other}", {"context": {"shape": [2]}} | SHOP_ACTIONS, 201)
    api.call("PUT", f"/bandits/{other}/actions", {"actions": GIFTS})
    made = api.select(other, [1, 2])
    found = api.call("GET", f"/bandits/{other}/decisions/{made['decision_id']}")
    assert found["context"]["values"] == [1, 2]
    assert found["chosen"][0]["features"] is not None


SHOP_ACTIONS = {"actions": SHOP["actions"]}


def test_many_objects_are_encoded_beside_the_event_loop_and_decide_as_few_do(api, shop) -> None:
    """Actions, and candidates: their decisions are drawn again alike, before and after a round."""
    many = [{"id": f"m{n}", "features": {"kind": f"k{n % 7}", "price": n / 3}} for n in range(150)]
    for number in range(2):
        candidates = [{"id": f"c{number}.{n}", "features": many[n]["features"]} for n in range(150)]
        offered = api.select(shop, VISIT, candidates=candidates)
        api.call("PUT", f"/bandits/{shop}/actions", {"actions": many})
        chosen = api.select(shop, VISIT)
        for made in (offered, chosen):
            found = api.call("GET", f"/bandits/{shop}/decisions/{made['decision_id']}")
            assert found["reproduced"] == {"action": True, "score": True, "propensity": True}
            api.reward(made["decision_id"], number)
        few = api.means(shop, VISIT, candidates[:3])
        assert api.means(shop, VISIT, candidates)[:3] == pytest.approx(few, abs=1e-9)
        known = api.means(shop, VISIT, [row["id"] for row in many[:3]])
        assert known == pytest.approx(few, abs=1e-9)
        api.train(shop)
        many = [row | {"features": {"kind": "new", "price": n}} for n, row in enumerate(many)]


def test_ten_thousand_actions_with_objects(api, http) -> None:
    """They are put, listed, offered and scored; each request is answered in some hundred ms."""
    name = api.fresh("large")
    api.call("PUT", f"/bandits/{name}", SHOP, 201)
    actions = [
        {"id": f"a{number}", "features": {"kind": f"k{number % 40}", "price": number / 7}}
        for number in range(10_000)
    ]
    assert api.call("PUT", f"/bandits/{name}/actions", {"actions": actions})["num_actions"] == 10**4
    assert api.select(name, VISIT)["action"]["id"].startswith("a")
    listed = api.call("GET", f"/bandits/{name}/actions?limit=10000")["actions"]
    assert listed[9_999]["features"] == actions[9_999]["features"]
    content = msgpack.packb({"bandit": name, "context": VISIT, "candidates": actions})
    headers = {"content-type": "application/msgpack"}
    assert http.post("/select", content=content, headers=headers).status_code == 200


def test_more_objects_than_fit_in_one_request(api, problem, http) -> None:
    name = api.fresh("huge")
    api.call("PUT", f"/bandits/{name}", {"action_dim": 0} | {
        "context": {"features": "auto"}, "actions": {"features": "auto", "max_bytes": 1 << 16},
    }, 201)  # fmt: skip
    candidates = [{"id": f"a{number}"} for number in range(2049)]
    response = http.post("/select", json={"bandit": name, "context": {}, "candidates": candidates})
    assert "at most 2048 objects" in problem(response, 422, "invalid-request")["detail"]
