"""Refusals speak of JSON: the place, what may stand there, and what stood there.

No message has a name of a Python type, of a class, or of a decoder.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

CONTEXT = {"context": {"shape": [2]}}
NAMED = {"context": {"features": "auto"}}
WINDOW = {"reward_window_s": 10, "default_reward": 0}

# What is PUT as a configuration, and the refusal.
CONFIGURATIONS: list[tuple[Any, str, str]] = [
    ({}, "context", "is needed"),
    ([1], "body", "must be an object, not a list"),
    ({"context": "auto"}, "context", "must be an object, not 'auto'"),
    ({"context": {"features": ["a"]}}, "context.features",
     "must be an object, or 'auto', not a list"),
    ({"context": {"features": "automatic"}}, "context.features",
     "must be an object, or 'auto', not 'automatic'; did you mean 'auto'?"),
    ({"context": {"shape": 2}}, "context.shape", "must be a list, not 2"),
    (NAMED | {"actions": ["a", "b"]}, "actions", "must be an object, not a list"),
    (CONTEXT | {"policy": "linear"}, "policy",
     "must be 'linear_ts', 'neural_linear_ts', 'greedy' or 'uniform', not 'linear';"
     " did you mean 'linear_ts'?"),
    (CONTEXT | {"action_dim": 1.5}, "action_dim", "must be a whole number, not 1.5"),
    (CONTEXT | {"reward_range": "auto"}, "reward_range", "must be a list, not 'auto'"),
    (CONTEXT | {"reward_range": [0]}, "reward_range.1", "is needed"),
    (CONTEXT | {"reward_range": [0, 1, 2]}, "reward_range", "must have at most 2 entries"),
    (CONTEXT | {"rewards": WINDOW | {"maturity": "automatic"}}, "rewards.maturity",
     "must be 'auto', 'report' or 'close', or a number, not 'automatic'; did you mean 'auto'?"),
    (CONTEXT | {"rewards": {"outside": "clamp"}}, "rewards.outside",
     "must be 'clip', 'refuse' or 'keep', not 'clamp'; did you mean 'clip'?"),
    (CONTEXT | {"policy": "linear_ts", "encoder": {"name": "kernel"}}, "encoder.name",
     "kernel is learned, and goes with neural_linear_ts and greedy; linear_ts takes concat,"
     " interactions, bilinear or per_action"),
    (CONTEXT | {"policy": "neural_linear_ts", "encoder": {"name": "bilinear"}}, "encoder.name",
     "bilinear goes with linear_ts and greedy; neural_linear_ts needs a learned encoder, such as"
     " mlp"),
    ({"policy": "linear_ts", "context": {"features": {"a": "number"}},
      "actions": {"features": "auto"},
      "encoder": {"name": "crosses", "params": {"crosses": [["b", "kind"]]}}},
     "encoder.params.crosses[0]", "contexts have no field 'b'"),
    ({"context": {"features": {"a": {"type": "category", "values": [*map(str, range(9999))]}}}},
     "context.features.a.values",
     "must have 1 to 5000 entries, and has 9999; the type hash takes any number of values, and"
     " values left out are learned"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "field", "message"), CONFIGURATIONS, ids=range(len(CONFIGURATIONS))
)
def test_a_configuration_is_refused_in_words_of_json(api, body, field: str, message: str) -> None:
    refused = api.call("PUT", f"/bandits/{api.fresh()}", body, 422)
    assert refused["errors"] == [{"field": field, "message": message}]


# What is sent to a hot call in place of a part of a good body, and the refusal.
CALLS: list[tuple[str, str, str, str]] = [
    ("/reward", '"reward": "1"', "reward", "must be a number, not a text"),
    ("/reward", '"reward": true', "reward", "must be a number, not true or false"),
    ("/reward", '"reward": [1]', "reward", "must be a number, not a list"),
    ("/reward", '"reward": NaN', "reward", "must be a finite number, not NaN"),
    ("/reward", '"reward": 1e30', "reward", "must be at most 1e20"),
    ("/reward", '"reward_id": "a b", "reward": 1', "reward_id",
     "must have 1 to 128 characters of A-Za-z0-9._:-"),
    ("/reward", '"metrics": {"click": "1"}', "metrics.click", "must be a number, not a text"),
    ("/reward", '"metrics": {"click": 1, "money": null}', "metrics.money",
     "must be a number, not null"),
    ("/reward", '"metrics": {"money": Infinity}', "metrics.money",
     "must be a finite number, not infinity"),
    ("/reward", '"metrics": {}', "metrics", "must have at least 1 entry"),
    ("/select", '"context": {"user": {"age": NaN}}', "context.user.age",
     "must be a finite number, not NaN"),
    ("/select", '"context": {"user": {"age": 1e999}}', "context.user.age",
     "must be a finite number, not infinity"),
    ("/select", '"context": {"emb": [1, NaN]}', "context.emb",
     "must hold finite numbers; [1] is NaN"),
    ("/select", '"context": {}, "candidates": [{"id": "q", "features": {"price": NaN}}]',
     "candidates.0.features.price", "must be a finite number, not NaN"),
    ("/select", '"context": {}, "k": "2"', "k", "must be a whole number, not a text"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "part", "field", "message"), CALLS)
def test_a_call_is_refused_in_words_of_json(
    api, problem, path: str, part: str, field: str, message: str
) -> None:
    name = api.fresh()
    spec = NAMED | {"policy": "linear_ts", "actions": {"features": "auto"}}
    api.call("PUT", f"/bandits/{name}", spec, 201)
    api.call("PUT", f"/bandits/{name}/actions", {"actions": [{"id": "a", "features": {}}]})
    start = f'"bandit": "{name}"'
    if path == "/reward":
        start += f', "decision_id": "{api.select(name, {})["decision_id"]}"'
    content = f"{{{start}, {part}}}".encode()
    headers = {"content-type": "application/json"}
    refused = problem(api.http.post(path, content=content, headers=headers), 422, "invalid-request")
    assert refused["errors"] == [{"field": field, "message": message}]


def test_the_place_of_a_number_that_is_none_in_a_batch(api) -> None:
    body = b'{"items": [{"context": {"n": 1}}, {"context": {"n": 1, "m": -Infinity}}]}'
    response = api.http.post(
        "/select/batch", content=body, headers={"content-type": "application/json"}
    )
    assert response.json()["detail"] == ("items.1.context.m: must be a finite number, not infinity")


@pytest.mark.parametrize(
    "body", [body for body, *_ in CONFIGURATIONS], ids=range(len(CONFIGURATIONS))
)
def test_no_message_names_a_type_of_python(api, body) -> None:
    detail = api.call("PUT", f"/bandits/{api.fresh()}", body, 422)["detail"]
    assert not re.search(r"Input should|Expected `|Spec\b|dictionary|tuple|instance", detail)


# -- the query ----------------------------------------------------------------------------------


def test_a_misspelt_dry_run_changes_nothing(api, problem) -> None:
    name = api.two_actions()
    before = api.state(name)
    change = before["spec"] | {"reward_range": [0, 50]}
    refused = problem(
        api.http.put(f"/bandits/{name}?dryrun=true", json=change), 422, "invalid-request", "dryrun"
    )
    assert refused["detail"] == "dryrun: unknown parameter; did you mean 'dry_run'?"
    assert api.state(name) == before
    refused = problem(
        api.http.post(f"/bandits/{name}/train?later=1&wait=true"), 422, "invalid-request", "later"
    )
    assert refused["detail"] == "later: unknown parameter; the call takes wait"
    fresh = api.fresh()
    problem(api.http.put(f"/bandits/{fresh}?dry=1", json=CONTEXT), 422, "invalid-request", "dry")
    problem(api.http.get(f"/bandits/{fresh}"), 404, "unknown-bandit")


# -- a configuration that the log cannot answer --------------------------------------------------


def test_what_is_left_out_is_said_where_it_contradicts_the_log(api) -> None:
    name = api.fresh()
    spec = NAMED | {"policy": "linear_ts", "actions": {"features": {"kind": "category"}}}
    api.call("PUT", f"/bandits/{name}", spec, 201)
    refused = api.call("PUT", f"/bandits/{name}", NAMED | {"policy": "linear_ts"}, 409)
    old = {"kind": {"type": "category", "log": "keep", "values": None}}
    start = json.dumps(old)[:-2]
    assert refused["detail"].startswith(f"actions.features: is {start}")
    assert (
        "cannot become null in the life of a bandit, which is what leaving it out means"
        in (refused["detail"])
    )
    assert refused["detail"].endswith("Put it under another name, or delete the bandit first")
    given = spec | {"actions": {"features": None}}
    assert "leaving it out" not in api.call("PUT", f"/bandits/{name}", given, 409)["detail"]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (["a"], "actions.0: must be an object, not a text"),
        ([{"id": "a", "features": {}}, {"id": "b"}],
         "actions.1.features: is needed: give features for every action listed, or for none"),
        ([{"id": "a"}],
         "features: action 'a' is new and needs features, an object, which may be empty: {}"),
        ([{"id": "a", "features": {"price": "cheap"}}],
         "actions.0.features.price: 'cheap' is no number"),
    ],
)  # fmt: skip
def test_a_catalogue_is_refused_with_the_place(api, actions, message: str) -> None:
    name = api.fresh()
    spec = NAMED | {"policy": "linear_ts", "actions": {"features": {"price": "number"}}}
    api.call("PUT", f"/bandits/{name}", spec, 201)
    refused = api.call("PUT", f"/bandits/{name}/actions", {"actions": actions}, 422)
    assert refused["detail"] == message
    assert api.state(name)["num_actions"] == 0


@pytest.mark.parametrize(
    ("since", "message"),
    [
        ("2026-01-31", "must be a number, the seconds since the epoch, not '2026-01-31'"),
        (1796098174260,
         "must be a number, the seconds since the epoch; 1796098174260 looks like milliseconds"),
    ],
)  # fmt: skip
def test_times_are_seconds_since_the_epoch(api, since: Any, message: str) -> None:
    name = api.two_actions()
    refused = api.call("POST", f"/bandits/{name}/rewards/void", {"since": since}, 422)
    assert refused["errors"] == [{"field": "since", "message": message}]
