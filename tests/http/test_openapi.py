"""The OpenAPI document: names that clients are generated from, and examples that are true."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from bandexa_client.calls import Calls
from docs.openapi import document

BANDIT = "/bandits/{name}"
# Clients are generated from these names: a new call gets a new one, and none ever changes.
IDS = {
    "POST /select": "select",
    "POST /select/batch": "select_batch",
    "POST /reward": "reward",
    "POST /reward/batch": "reward_batch",
    "POST /reward/check": "check_rewards",
    "POST /activate": "activate",
    f"POST {BANDIT}/score": "score",
    f"GET {BANDIT}/decisions/{{decision_id}}": "explain",
    f"POST {BANDIT}/rewards/void": "void_rewards",
    f"POST {BANDIT}/rewards/correct": "correct_reward",
    f"PUT {BANDIT}": "put_bandit",
    f"GET {BANDIT}": "get_bandit",
    f"DELETE {BANDIT}": "delete_bandit",
    "GET /bandits": "list_bandits",
    f"PUT {BANDIT}/mode": "set_mode",
    f"GET {BANDIT}/values": "values",
    f"GET {BANDIT}/audit": "audit",
    f"POST {BANDIT}/replay": "replay_bandit",
    f"POST {BANDIT}/recover": "recover",
    f"GET {BANDIT}/actions": "list_actions",
    f"PUT {BANDIT}/actions": "put_actions",
    f"DELETE {BANDIT}/actions/{{action_id}}": "retire_action",
    f"POST {BANDIT}/train": "train",
    f"GET {BANDIT}/snapshots": "list_snapshots",
    f"GET {BANDIT}/snapshot": "export_snapshot",
    f"PUT {BANDIT}/snapshot": "import_snapshot",
    f"POST {BANDIT}/rollback": "rollback",
    f"GET {BANDIT}/log": "export_log",
    f"POST {BANDIT}/log": "import_log",
    "POST /erase": "erase",
    f"POST {BANDIT}/evaluations": "start_evaluation",
    f"GET {BANDIT}/evaluations": "list_evaluations",
    f"GET {BANDIT}/evaluations/{{evaluation_id}}": "evaluation",
    f"DELETE {BANDIT}/evaluations/{{evaluation_id}}": "delete_evaluation",
    "GET /healthz": "health",
    "GET /readyz": "ready",
    "GET /learnz": "learnz",
    "GET /metrics": "metrics",
    "GET /clock": "clock",
    "POST /clock/accept": "accept_clock",
    "POST /compact": "compact",
    "GET /dashboard/session": "dashboard_session",
    "GET /dashboard/overview": "dashboard_overview",
    "GET /dashboard/decisions/{decision_id}": "dashboard_decision",
    "GET /dashboard/bandits/{name}": "dashboard_bandit",
    "GET /dashboard/bandits/{name}/decisions": "dashboard_decisions",
}
BYTES = {"export_snapshot", "import_snapshot"}  # have no example
SAME_CALL = {"plan_bandit": "put_bandit"}  # a method, and the call that it is an option of


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    return document()


@pytest.fixture(scope="module")
def operations(shown: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in shown["paths"].items()
        for method, operation in methods.items()
    }


def test_every_call_keeps_its_name(operations: dict[str, dict[str, Any]]) -> None:
    found = {call: operation["operationId"] for call, operation in operations.items()}
    assert {call: found.get(call) for call in IDS} == IDS
    assert len(set(found.values())) == len(found)


def test_a_call_is_named_as_the_method_of_the_client(operations: Any) -> None:
    methods = {name for name, _ in inspect.getmembers(Calls, callable) if not name.startswith("_")}
    named = {operation["operationId"] for operation in operations.values()}
    assert {SAME_CALL.get(method, method) for method in methods} <= named


def test_every_call_has_a_group_and_says_what_it_does(
    shown: dict[str, Any], operations: dict[str, dict[str, Any]]
) -> None:
    tags = {tag["name"] for tag in shown["tags"] if tag["description"]}
    for call, operation in operations.items():
        (tag,) = operation["tags"]
        assert tag in tags, call
        assert 5 < len(operation["summary"]) < 60, call
        assert not operation["summary"].endswith("."), call
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (call, parameter["name"])


def bodies(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the request's body, and the answers of success that have one."""
    if "requestBody" in operation:
        yield "request", next(iter(operation["requestBody"]["content"].values()))
    for status, answer in operation["responses"].items():
        if status < "300" and answer.get("content"):
            yield status, next(iter(answer["content"].values()))


def test_every_body_has_an_example_that_its_schema_takes(
    shown: dict[str, Any], operations: dict[str, dict[str, Any]]
) -> None:
    num = 0
    for call, operation in operations.items():
        if operation["operationId"] in BYTES:
            continue
        for where, body in bodies(operation):
            assert "example" in body, (call, where)
            schema = body["schema"] | {"components": shown["components"]}
            errors = list(jsonschema_rs.iter_errors(schema, body["example"]))
            assert errors == [], (call, where)
            num += 1
    assert num > 50


# What the examples are sent in: each finds what those before it have made.
STORY = (
    "put_bandit", "put_actions", "get_bandit", "list_bandits", "select", "reward", "select_batch",
    "activate", "reward_batch", "check_rewards", "score", "explain", "list_actions", "values",
    "set_mode", "audit", "train?wait=true", "list_snapshots", "export_snapshot", "rollback",
    "recover", "correct_reward", "void_rewards", "replay_bandit", "export_log", "import_log",
    "list_evaluations", "retire_action", "health", "ready", "learnz", "metrics", "clock",
    "dashboard_session", "dashboard_overview", "dashboard_bandit", "dashboard_decisions", "erase",
    "delete_bandit",
)  # fmt: skip


def test_the_examples_are_what_a_server_takes_and_answers(
    shown: dict[str, Any], operations: dict[str, dict[str, Any]], api: Any
) -> None:
    own = api.fresh("example")
    named = {operation["operationId"]: call for call, operation in operations.items()}

    def ours(text: str) -> str:
        """Rename what other tests might have, too."""
        return text.replace('"shop"', f'"{own}"').replace("visit-", f"{own}-visit-")

    for step in STORY:
        name, _, query = step.partition("?")
        method, path = named[name].split()
        operation = operations[named[name]]
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                value = json.loads(ours(json.dumps(parameter["example"])))
                path = path.replace(f"{{{parameter['name']}}}", value)
        asked = dict(bodies(operation)).get("request")
        content = None if asked is None else ours(json.dumps(asked["example"]))
        kind = {} if asked is None else {"content-type": "application/json"}
        response = api.http.request(method, f"{path}?{query}", content=content, headers=kind)
        status = str(response.status_code)
        # `learnz` is about all bandits, and those of other tests may have an alarm.
        assert status < "300" or (name, status) == ("learnz", "503"), (name, response.text)
        assert status in operation["responses"], name
        answer = operation["responses"][status].get("content", {})
        if "application/json" in answer:
            schema = answer["application/json"]["schema"] | {"components": shown["components"]}
            assert list(jsonschema_rs.iter_errors(schema, response.json())) == [], name
    api.call("DELETE", "/bandits/shop-greedy", expect=204)
