"""A user's own encoder, registered by name in the server's TOML, from creation to training."""

from __future__ import annotations

from typing import Any

import pytest

OWN: dict[str, Any] = {
    "policy": "neural_linear_ts",
    "encoder": {"name": "doubled", "params": {"width": 6}},
    "training": {"mode": "lockstep", "optimizer_steps": 20, "train_every": 8},
}


def test_it_selects_learns_trains_and_is_exported(configured) -> None:
    name = configured.two_actions(**OWN)
    assert configured.state(name)["spec"]["encoder"] == OWN["encoder"] | {"standardize": True}
    due = False
    for number in range(8):
        decision = configured.select(name, [number / 8, 1 - number / 8])
        due = configured.reward(decision["decision_id"], number % 2)["train_due"]
    assert due is True
    before = configured.means(name, [1, 1])
    answer = configured.train(name)
    assert answer["snapshot"] == 1
    assert answer["metrics"]["optimizer_steps"] == 20
    assert configured.means(name, [1, 1]) != before
    assert configured.select(name, [1, 1])["snapshot"] == 1

    copy = configured.two_actions(**OWN)
    data = configured.http.get(f"/bandits/{name}/snapshot").content
    assert configured.http.put(f"/bandits/{copy}/snapshot", content=data).status_code == 200
    assert configured.means(copy, [1, 1]) == configured.means(name, [1, 1])


@pytest.mark.parametrize(
    ("field", "params"),
    [
        ("encoder.params", {"depth": 3}),
        ("encoder.params", {"width": "wide"}),
        ("encoder.params", {"width": 2.5}),
        ("encoder.params.width", {"width": 0}),
    ],
)
def test_its_parameters_are_checked(
    configured, problem, field: str, params: dict[str, Any]
) -> None:
    body = {
        "policy": "neural_linear_ts", "context": {"shape": [2]}, "action_dim": 2,
        "encoder": {"name": "doubled", "params": params},
    }  # fmt: skip
    response = configured.http.put(f"/bandits/{configured.fresh()}", json=body)
    problem(response, 422, "invalid-request", field)


def test_a_server_that_does_not_know_it_refuses_it_by_name(api, problem) -> None:
    body = {"policy": "neural_linear_ts", "context": {"shape": [2]}, "encoder": OWN["encoder"]}
    response = api.http.put(f"/bandits/{api.fresh()}", json=body)
    problem(response, 422, "invalid-request", "encoder.name")


def test_a_path_in_place_of_a_name_loads_nothing(configured, problem) -> None:
    for name in ("own_encoder:Doubled", "os:system", "../own_encoder"):
        body = {"policy": "neural_linear_ts", "context": {"shape": [2]}, "encoder": {"name": name}}
        response = configured.http.put(f"/bandits/{configured.fresh()}", json=body)
        problem(response, 422, "invalid-request", "encoder.name")


def test_features_above_the_inline_limit_are_not_stored_but_still_learned(configured) -> None:
    name = configured.two_actions()
    inline = [{"id": f"i{number}", "features": [number, 1]} for number in range(10)]
    decision = configured.select(name, [1, 1], candidates=inline)
    before = configured.means(name, [1, 1])
    assert configured.reward(decision["decision_id"], 1.0)["status"] == "applied"
    assert configured.means(name, [1, 1]) != before
