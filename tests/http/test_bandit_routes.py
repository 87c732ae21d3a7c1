"""PUT, GET and DELETE of bandits: created once, changed where they may, gone when deleted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.commands import bandexa
from tests.fixtures.waiting import poll

MINIMAL = {"policy": "linear_ts", "context": {"shape": [2]}}
STATE_KEYS = {
    "name", "uid", "spec", "num_actions", "snapshot", "position", "num_learned", "train_due",
    "trainer", "learning", "features", "rebuild", "unlearning",
    "maturity_s", "imported", "metrics", "arms", "guarded", "challengers",
    "warnings", "held_values", "action_values",
}  # fmt: skip


def test_what_cannot_depend_on_the_context_is_warned_of(api) -> None:
    body = MINIMAL | {"action_dim": 1, "encoder": {"name": "concat"}}
    name = api.fresh()
    (warning,) = api.call("PUT", f"/bandits/{name}", body, 201)["warnings"]
    assert "the same action is the best for every context" in warning
    # 503 where a bandit of another test has an alarm
    notices = api.http.get("/learnz").json()["bandits"][name]["findings"]
    assert [(each["name"], each["message"]) for each in notices] == [("context-ignored", warning)]
    changed = body | {"encoder": {"name": "bilinear"}}
    assert api.call("PUT", f"/bandits/{name}?wait=true", changed)["warnings"] == []


def test_a_minimal_bandit_is_created_with_every_default_filled_in(api) -> None:
    name = api.fresh()
    created = api.call("PUT", f"/bandits/{name}", MINIMAL, 201)
    assert set(created) == STATE_KEYS
    assert created["name"] == name
    assert created["snapshot"] == created["position"] == created["num_actions"] == 0
    assert created["num_learned"] == 0
    assert created["train_due"] is False
    spec = created["spec"]
    named = {"features": None, "unknown": "ignore", "strict": False, "max_bytes": 1024}
    assert spec["context"] == {"shape": [2], "dtype": "float32"} | named
    assert spec["actions"] == named
    assert spec["encoder"] == {"name": "per_action", "params": {}, "standardize": True}
    assert spec["training"]["mode"] == "background"
    assert (spec["reward_range"], spec["edition"]) == (None, 2)
    assert isinstance(spec["seed"], int)


def test_what_is_left_out_later_is_what_it_was(api) -> None:
    name = api.fresh()
    whole = {"context": {"shape": [2]}, "encoder": {"standardize": False}, "reward_range": [0, 2]}
    created = api.call("PUT", f"/bandits/{name}", whole | {"edition": 1}, 201)["spec"]
    assert (created["policy"], created["encoder"]["name"]) == ("neural_linear_ts", "mlp")
    for body in ({"context": {"shape": [2]}}, whole, created):
        assert api.call("PUT", f"/bandits/{name}", body)["spec"] == created


@pytest.mark.parametrize("name", [".", ".."])
def test_what_an_address_would_lose_is_no_name_and_no_action(api, name: str) -> None:
    shop = api.fresh()
    api.call("PUT", f"/bandits/{shop}", MINIMAL, 201)
    refused = api.call("PUT", f"/bandits/{shop}/actions", {"ids": ["a", name]}, 422)
    assert refused["errors"][0]["field"] == "ids"
    assert api.call("GET", f"/bandits/{shop}")["num_actions"] == 0
    done = bandexa("actions", "retire", shop, name, "--url", api.http.base_url)
    assert (done.returncode, "cannot be part of an address" in done.stderr) == (2, True)
    assert api.call("GET", f"/bandits/{shop}")["name"] == shop


def test_the_same_put_again_changes_nothing_and_retains_the_generated_seed(api) -> None:
    name = api.fresh()
    created = api.call("PUT", f"/bandits/{name}", MINIMAL, 201)
    again = api.call("PUT", f"/bandits/{name}", MINIMAL, 200)
    assert (again["uid"], again["spec"], again["position"]) == (
        created["uid"], created["spec"], 0,
    )  # fmt: skip
    assert api.call("PUT", f"/bandits/{name}", created["spec"], 200)["uid"] == created["uid"]


@pytest.mark.parametrize(
    ("key", "value", "difference"),
    [
        ("context", {"shape": [3]}, "context.shape: is [2] and cannot become [3]"),
        (
            "context", {"shape": [2], "dtype": "float64"},
            'context.dtype: is "float32" and cannot become "float64"',
        ),
        ("action_dim", 2, "action_dim: is 0 and cannot become 2"),
        (
            "context", {"features": "auto"},
            'context.features: is null and cannot become "auto"',
        ),
    ],
)  # fmt: skip
def test_a_key_that_cannot_change_is_refused_with_its_old_and_new_value(
    api, problem, key: str, value: Any, difference: str
) -> None:
    name = api.fresh()
    api.call("PUT", f"/bandits/{name}", MINIMAL | {"seed": 1}, 201)
    before = api.state(name)
    response = api.http.put(f"/bandits/{name}", json=MINIMAL | {"seed": 1, key: value})
    assert problem(response, 409, "conflict")["detail"].startswith(difference)
    assert api.state(name) == before


def test_what_may_change_changes_and_takes_one_row_of_the_log(api) -> None:
    name = api.two_actions()
    spec = api.state(name)["spec"]
    change = {
        "training": {"train_every": 7, "batch_size": 9},
        "selection": {"warmup_random": 1000, "action_chunk": 1},
        "replay": {"backend": "memory"},
    }
    position = api.state(name)["position"]
    for _ in range(2):
        answer = api.call("PUT", f"/bandits/{name}", spec | change, 200)
        assert answer["position"] == position + 1
    changed = api.state(name)["spec"]
    assert changed["training"]["train_every"] == 7
    assert changed["training"]["batch_size"] == 9
    assert changed["selection"] == spec["selection"] | change["selection"]
    assert changed["replay"]["backend"] == "memory"
    # The first decisions are now uniform, with the propensity that goes with it.
    assert api.select(name, [1, 1])["propensity"] == 0.5


def test_concurrent_puts_of_one_name_create_one_bandit(api) -> None:
    name = api.fresh()

    def put(_: int) -> tuple[int, str]:
        response = api.http.put(f"/bandits/{name}", json=MINIMAL)
        return response.status_code, response.json()["uid"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(put, range(8)))
    assert sorted(status for status, _ in answers) == [200] * 7 + [201]
    assert len({uid for _, uid in answers}) == 1


def test_every_bandit_is_listed_by_name(api) -> None:
    names = sorted(api.bandit() for _ in range(3))
    listed = api.call("GET", "/bandits")["bandits"]
    assert [bandit["name"] for bandit in listed] == sorted(bandit["name"] for bandit in listed)
    found = {bandit["name"]: bandit for bandit in listed}
    for name in names:
        alone = api.call("GET", f"/bandits/{name}")
        assert set(found[name]) == STATE_KEYS
        assert found[name]["uid"] == alone["uid"]


def test_a_deleted_bandit_is_gone_and_its_ids_are_free_again(api, problem, server) -> None:
    name, decision_id = api.fresh(), api.fresh("d")
    api.two_actions(name=name)
    api.select(name, [1, 2], decision_id=decision_id)
    api.reward(decision_id, 1.0)
    old_uid = api.state(name)["uid"]
    snapshots: Path = server.data_dir / "snapshots" / old_uid
    assert snapshots.is_dir()

    api.call("DELETE", f"/bandits/{name}", expect=204)
    problem(api.http.get(f"/bandits/{name}"), 404, "unknown-bandit")
    problem(api.http.delete(f"/bandits/{name}"), 404, "unknown-bandit")
    body = {"bandit": name, "context": [1, 2]}
    problem(api.http.post("/select", json=body), 404, "unknown-bandit")
    body = {"decision_id": decision_id, "reward": 0.0}
    problem(api.http.post("/reward", json=body), 404, "unknown-decision")
    assert f'bandit="{name}"' not in api.http.get("/metrics").text

    api.two_actions(name=name)
    state = api.state(name)
    assert state["uid"] != old_uid
    assert state["num_learned"] == state["snapshot"] == 0
    assert state["position"] == 1
    reused = api.select(name, [5, 5], decision_id=decision_id)
    assert reused["decision_id"] == decision_id
    assert api.reward(decision_id, 1.0)["status"] == "applied"
    poll(lambda: not snapshots.exists(), "the deleted bandit's snapshots are removed")


def test_a_deleted_and_recreated_bandit_makes_new_draws(api) -> None:
    name, decision_id = api.fresh(), api.fresh("d")
    draws = []
    for _ in range(2):
        api.two_actions(name=name)
        draws.append(api.select(name, [1, 2], decision_id=decision_id)["score"])
        api.call("DELETE", f"/bandits/{name}", expect=204)
    assert draws[0] != draws[1]


def neural(**params: Any) -> dict[str, Any]:
    return {
        "policy": "neural_linear_ts", "action_dim": 2, "encoder": {"name": "mlp", "params": params},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("policy", {"policy": "best"}),
        ("context", {"context": [2]}),
        ("context.shape", {"context": {}}),
        ("context.shape", {"context": {"shape": []}}),
        ("context.shape", {"context": {"shape": [2, 0]}}),
        ("context.shape", {"context": {"shape": [1] * 5}}),
        ("context.shape", {"context": {"shape": [2**62, 2**62]}}),
        ("context.dtype", {"context": {"shape": [2], "dtype": "int8"}}),
        ("action_dim", {"action_dim": -1}),
        ("action_dim", {"action_dim": "many"}),
        ("encoder.name", {"encoder": {"name": "resnet9000"}}),
        ("encoder.name", {"encoder": {"name": "mlp"}}),
        ("encoder.name", {"policy": "neural_linear_ts", "encoder": {"name": "concat"}}),
        ("encoder.name", {"encoder": {"params": {"hidden": [8]}}}),
        ("edition", {"edition": 3}),
        ("selection.posterior_scale", {"selection": {"posterior_scale": -1.0}}),
        ("encoder.params", {"encoder": {"name": "concat", "params": {"depth": 3}}}),
        ("encoder.params", neural(depth=3)),
        ("encoder.params", neural(context_shape=[3])),
        ("encoder.params.feature_dim", neural(feature_dim=0)),
        ("encoder.params.feature_dim", neural(feature_dim="wide")),
        ("encoder.params.hidden", neural(hidden=5)),
        ("encoder.params.hidden", neural(hidden=True)),
        ("encoder.params.hidden", neural(hidden={"a": 1})),
        ("encoder.params.hidden", neural(hidden=[])),
        ("encoder.params.hidden", neural(hidden=[10**30])),
        ("encoder.params.hidden", neural(hidden=[1] * 1000)),
        ("encoder.params.heads", neural(heads="many")),
        ("encoder", {"encoder": {"name": "interactions"}}),
        ("posterior.prior_var", {"posterior": {"prior_var": 0}}),
        ("posterior.noise_var", {"posterior": {"noise_var": -1}}),
        ("posterior.noise", {"posterior": {"noise": "loud"}}),
        ("posterior", {"posterior": {"prior_var": 1e300}}),
        ("posterior", {"policy": "uniform", "posterior": {"prior_var": 1e300}}),
        ("posterior", {"reward_range": [-1e308, 1e308]}),
        ("reward_range", {"reward_range": [1, 0]}),
        ("reward_range", {"reward_range": [1, 1]}),
        ("training.batch_size", {"training": {"batch_size": 0}}),
        ("training.mode", {"training": {"mode": "sometimes"}}),
        ("training.lr", {"training": {"lr": -1}}),
        ("replay.shard_size", {"replay": {"shard_size": 0}}),
        ("replay.capacity_bytes", {"replay": {"capacity_bytes": 0}}),
        ("replay", {"replay": {"capacity_bytes": 31}}),
        ("selection.warmup_random", {"selection": {"warmup_random": -1}}),
        ("selection.action_chunk", {"selection": {"action_chunk": 0}}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 2**63}),
        ("traning", {"traning": {}}),
        ("training.batchsize", {"training": {"batchsize": 3}}),
    ],
)
def test_a_wrong_configuration_names_the_field_and_creates_nothing(
    api, problem, field: str, change: dict[str, Any]
) -> None:
    name = api.fresh()
    response = api.http.put(f"/bandits/{name}", json=MINIMAL | change)
    problem(response, 422, "invalid-request", field)
    problem(api.http.get(f"/bandits/{name}"), 404, "unknown-bandit")
    assert api.call("GET", "/readyz")["status"] == "ready"


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "change",
    [
        {"context": {"shape": [200_000]}},
        {"context": {"shape": [1 << 24]}, "encoder": {"name": "per_action"}},
        {"context": {"shape": [1 << 24]}} | neural(hidden=[8192]),
        neural(hidden=[8192] * 60),
    ],
)
def test_a_bandit_too_large_for_the_memory_is_refused_at_once(
    api, problem, change: dict[str, Any]
) -> None:
    response = api.http.put(f"/bandits/{api.fresh()}", json=MINIMAL | change)
    problem(response, 422, "invalid-request")


@pytest.mark.parametrize("policy", ["neural_linear_ts", "uniform"])
@pytest.mark.parametrize(
    "params",
    [
        b'{"\\ud800": 1}',
        b'{"hidden": "\\udfff"}',
        b'{"hidden": NaN}',
    ],
)
def test_parameters_that_cannot_be_stored_do_not_reach_the_store(
    api, problem, policy: str, params: bytes
) -> None:
    body = (
        b'{"policy": "%s", "context": {"shape": [2]}, "action_dim": 2,'
        b' "encoder": {"name": "mlp", "params": %s}}'
    ) % (policy.encode(), params)
    name = api.fresh()
    headers = {"content-type": "application/json"}
    response = api.http.put(f"/bandits/{name}", content=body, headers=headers)
    problem(response, 422, "invalid-request", "encoder.params")
    assert api.call("GET", "/readyz")["status"] == "ready"
    problem(api.http.get(f"/bandits/{name}"), 404, "unknown-bandit")


def test_bytes_as_a_parameter_do_not_reach_the_store(api, packed, problem) -> None:
    body = MINIMAL | {"policy": "uniform", "encoder": {"name": "mlp", "params": {"hidden": b"ab"}}}
    response = packed("PUT", f"/bandits/{api.fresh()}", body)
    problem(response, 422, "invalid-request", "encoder.params")
    assert api.call("GET", "/readyz")["status"] == "ready"


@pytest.mark.parametrize("name", ["a b", "a" * 129, "a%0A", "a%00", "%C3%A9", "a%3Fb"])
def test_a_name_outside_the_alphabet_is_refused(api, problem, name: str) -> None:
    response = api.http.put(f"/bandits/{name}", json=MINIMAL)
    problem(response, 422, "invalid-request", "name")


def test_the_longest_name_of_every_allowed_letter_is_fine(api) -> None:
    name = "Az09._:-" * 16
    assert len(name) == 128
    api.bandit(name=name)
    assert api.state(name)["name"] == name
