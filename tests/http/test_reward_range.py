"""Rewards outside of the declared range: clipped, refused or learned as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

REFUSED = "is outside of reward_range, 0 to 1"


def decide(api: Any, name: str) -> str:
    """Select with one action on offer, so that bandits differ by their rewards alone."""
    return str(api.select(name, [1.0, -0.5], candidates=["x"])["decision_id"])


def report(api: Any, decision_id: str, reward: float, expect: int, path: str = "/reward") -> Any:
    return api.call("POST", path, {"decision_id": decision_id, "reward": reward}, expect)


def learned(api: Any, name: str, *rewards: float) -> list[float]:
    """Report rewards, and return the means of the scores."""
    for reward in rewards:
        report(api, decide(api, name), reward, 200)
    means: list[float] = api.means(name, [1.0, -0.5])
    return means


def test_a_new_bandit_learns_a_value_outside_as_the_end_of_its_range(api: Any) -> None:
    name, other = api.two_actions(), api.two_actions()
    assert api.state(name)["spec"]["rewards"]["outside"] == "clip"
    assert learned(api, name, 0.5, 1.5, -3.0) == pytest.approx(learned(api, other, 0.5, 1.0, 0.0))
    learning = api.state(name)["learning"]
    assert (learning["clipped_values"], learning["refused_rewards"]) == (2, 0)
    assert learning["reward_mean"] == pytest.approx(-1 / 3), "of what was reported"
    decision = decide(api, name)
    report(api, decision, 7.0, 200)
    [chosen] = api.call("GET", f"/bandits/{name}/decisions/{decision}")["chosen"]
    assert (chosen["value"], chosen["learned"][0]["learned"]) == (7.0, 1.0)


def test_it_is_learned_as_it_is_where_that_is_asked_for(api: Any) -> None:
    keep = {"outside": "keep", "clip_outliers": False}
    name, other = (api.two_actions(reward_range=[0, size], rewards=keep) for size in (1, 2))
    posterior = {"posterior": {"prior_var": 1.0, "noise_var": 0.1}}
    for each, size in ((name, 1), (other, 2)):
        spec = api.state(each)["spec"]
        api.call(
            "PUT", f"/bandits/{each}?wait=true", spec | posterior | {"reward_range": [0, size]}
        )
    assert learned(api, name, 0.5, 1.5) == pytest.approx(learned(api, other, 0.5, 1.5))
    assert api.state(name)["learning"]["clipped_values"] == 0


def test_a_refused_reward_names_field_value_and_range_and_changes_nothing(
    api: Any, problem: Any
) -> None:
    name = api.two_actions(rewards={"outside": "refuse"})
    decision = decide(api, name)
    body = {"decision_id": decision, "reward": 7.0}
    errors = [{"field": "reward", "message": f"7 {REFUSED}"}]
    answer = problem(api.http.post("/reward", json=body), 422, "invalid-request")
    assert answer["errors"] == errors
    [item] = api.call("POST", "/reward/check", {"items": [body]})["items"]
    assert [{k: e[k] for k in ("field", "message")} for e in item["error"]["errors"]] == errors
    correct = {"decision_id": decision, "reward": -1.0}
    path = f"/bandits/{name}/rewards/correct"
    assert REFUSED in problem(api.http.post(path, json=correct), 422, "invalid-request")["detail"]
    state = api.state(name)
    assert (state["num_learned"], state["learning"]["refused_rewards"]) == (0, 1)
    assert api.call("GET", f"/bandits/{name}/decisions/{decision}")["chosen"][0]["rewards"] == []
    assert f'bandexa_rewards_total{{bandit="{name}",status="refused"}} 1.0' in (
        api.http.get("/metrics").text
    )
    assert report(api, decision, 1.0, 200)["status"] == "applied"


def test_in_a_batch_only_the_wrong_entry_is_refused(api: Any) -> None:
    name = api.two_actions(rewards={"outside": "refuse"})
    rewards = [0.25, 1e9, 0.75]
    items = [{"decision_id": decide(api, name), "reward": reward} for reward in rewards]
    found = api.call("POST", "/reward/batch", {"items": items})["items"]
    assert [item["error"] is None for item in found] == [True, False, True]
    assert REFUSED in found[1]["error"]["detail"]
    assert api.state(name)["num_learned"] == 2


def test_of_a_sum_it_is_the_sum_that_must_be_in_the_range(api: Any, problem: Any) -> None:
    name = api.two_actions(rewards={"outside": "refuse", "aggregate": "sum"})
    decision = decide(api, name)
    sent = {"decision_id": decision, "reward": 0.75}
    assert api.call("POST", "/reward", sent | {"reward_id": "r0"})["status"] == "applied"
    answer = problem(
        api.http.post("/reward", json=sent | {"reward_id": "r1"}), 422, "invalid-request"
    )
    assert f"the sum of 1.5 {REFUSED}" in answer["detail"]
    less = sent | {"reward": -0.5, "reward_id": "r2"}
    assert api.call("POST", "/reward", less)["status"] == "aggregated"


def test_a_range_that_was_changed_holds_for_open_decisions_too(api: Any) -> None:
    name = api.two_actions(rewards={"outside": "refuse"})
    decision = decide(api, name)
    report(api, decision, 7.0, 422)
    spec = api.state(name)["spec"] | {"reward_range": [0, 10]}
    api.call("PUT", f"/bandits/{name}?wait=true", spec)
    assert report(api, decision, 7.0, 200)["status"] == "applied"


@pytest.mark.few(1)
@pytest.mark.parametrize("policy", ["linear_ts", "neural_linear_ts"])
def test_a_wrong_range_or_rule_can_be_changed_and_leaves_no_trace(api: Any, policy: str) -> None:
    """A relearned bandit is one that had the range from the start, also after corrections."""
    fixed = {"policy": policy, "seed": 3, "reward_range": [0, 1]}
    # A round renews the scale of inputs, and may come before or after the first look.
    concat = {"encoder": {"name": "concat", "standardize": False}}
    fixed |= concat if policy == "linear_ts" else {}
    name = api.two_actions(**fixed)
    rewards = [0.5, 4.0, 7.0, *np.linspace(-1.0, 12.0, 40).round(3).tolist()]
    decisions = [decide(api, name) for _ in rewards]
    for decision, reward in zip(decisions, rewards, strict=True):
        report(api, decision, reward, 200)
    narrow = api.means(name, [1.0, -0.5])
    assert max(narrow) < 1.3

    def put(**changes: Any) -> Any:
        spec = api.state(name)["spec"] | changes
        state = api.call("PUT", f"/bandits/{name}?wait=true", spec)
        assert api.call("PUT", f"/bandits/{name}", spec)["position"] == state["position"]
        return state

    assert put(reward_range=[0, 10])["rebuild"]["keys"] == ["reward_range"]
    wide = api.means(name, [1.0, -0.5])
    assert max(wide) > 2.0
    path = f"/bandits/{name}/rewards/correct"
    for reward in (11.0, 7.0):  # there and back: what is taken out is what was learned
        api.call("POST", path, {"decision_id": decisions[2], "reward": reward})
    if policy == "linear_ts":
        assert api.means(name, [1.0, -0.5]) == pytest.approx(wide, abs=1e-9)
    rules = api.state(name)["spec"]["rewards"] | {"outside": "keep"}
    assert put(rewards=rules)["rebuild"]["keys"] == ["rewards.outside"]
    kept = api.means(name, [1.0, -0.5])
    assert kept != pytest.approx(wide, abs=1e-3)
    put(rewards=rules | {"outside": "clip"}, reward_range=[0, 1])
    if policy == "linear_ts":
        assert api.means(name, [1.0, -0.5]) == pytest.approx(narrow, abs=1e-9)


def test_a_default_outside_of_the_range_is_refused(api: Any, problem: Any) -> None:
    rewards = {"reward_window_s": 60, "default_reward": -1}
    body = {"context": {"shape": [2]}, "reward_range": [0, 1], "rewards": rewards}
    path = f"/bandits/{api.fresh()}"
    answer = problem(api.http.put(path, json=body), 422, "invalid-request")
    assert answer["errors"][0]["field"] == "rewards.default_reward"
    api.call("PUT", path, body | {"rewards": rewards | {"outside": "keep"}}, 201)


def test_left_out_of_a_change_it_stays_and_old_rules_may_be_named(api: Any) -> None:
    name = api.two_actions(rewards={"outside": "refuse"})
    spec = api.state(name)["spec"]
    del spec["rewards"]
    rules = api.call("PUT", f"/bandits/{name}", spec)["spec"]["rewards"]
    assert rules["outside"] == "refuse"
    keeps = spec | {"rewards": {"outside": "keep"}}
    assert api.call("PUT", f"/bandits/{name}", keeps)["spec"]["rewards"]["outside"] == "keep"
    report(api, decide(api, name), 7.0, 200)


def test_of_metrics_it_is_their_value_that_must_be_in_the_range(api: Any, problem: Any) -> None:
    learn = {"money": 1.0, "click": 0.2}
    name = api.two_actions(rewards={"outside": "refuse", "learn": learn})
    decision = decide(api, name)
    sent = {"decision_id": decision, "metrics": {"click": 1.0}}
    assert api.call("POST", "/reward", sent)["status"] == "applied"
    more = {"decision_id": decision, "metrics": {"money": 9.5}}
    answer = problem(api.http.post("/reward", json=more), 422, "invalid-request")
    assert answer["errors"][0]["field"] == "metrics"
    assert f"their value of 9.7 {REFUSED}" in answer["detail"]


def test_a_refused_row_of_an_import_leaves_nothing(api: Any) -> None:
    name = api.two_actions(rewards={"outside": "refuse"})

    def imported(dry_run: bool = False, **row: Any) -> dict[str, Any]:
        rows = [{"id": "a", "context": [1, 0], "action": "x"} | row]
        body = {"items": rows, "source": "old", "dry_run": dry_run}
        [item] = api.call("POST", f"/bandits/{name}/log", body)["items"]
        found: dict[str, Any] = item
        return found

    for dry_run in (True, False):
        assert imported(dry_run, metrics={"clicks": 1})["code"] == 422
    assert (api.state(name)["imported"], api.state(name)["num_learned"]) == (0, 0)
    assert imported(value=1.0)["answer"]["status"] == "imported"
    assert imported(metrics={"clicks": 1})["code"] == 422
    assert imported(value=1.0)["answer"]["status"] == "duplicate"
    assert api.state(name)["imported"] == 1


def test_what_was_taken_elsewhere_is_imported_whatever_is_refused_here(api: Any) -> None:
    """As a change or a replay learns the rows of a log: nothing that was accepted is lost."""
    name, other = (api.two_actions(rewards={"outside": each}) for each in ("refuse", "keep"))
    for each in (name, other):
        rows = [{"id": "a", "context": [1, 0], "action": "x", "value": 7.0}]
        for status in ("imported", "duplicate"):
            body = {"items": rows, "source": "old"}
            (item,) = api.call("POST", f"/bandits/{each}/log", body)["items"]
            assert item["answer"]["status"] == status
    assert api.state(name)["num_learned"] == 1
    assert api.means(name, [1, 0]) == pytest.approx(api.means(other, [1, 0]))
    report(api, decide(api, name), 7.0, 422)


def test_what_is_logged_is_replayed_into_a_bandit_that_refuses_its_like(api: Any) -> None:
    """Its model is that of the logged bandit after the same change."""
    name, target = api.two_actions(rewards={"outside": "keep"}), api.fresh("replayed")
    expected = learned(api, name, 0.5, 3.0)
    wanted = api.state(name)["spec"] | {"rewards": {"outside": "refuse"}}
    api.call("POST", f"/bandits/{name}/replay", {"to": target, "spec": wanted}, 201)
    assert api.means(target, [1.0, -0.5]) == pytest.approx(expected)
    assert api.state(target)["spec"]["rewards"]["outside"] == "refuse"
    report(api, decide(api, target), 3.0, 422)


def test_range_and_default_can_be_changed_together(api: Any) -> None:
    """The default holds at once, the range once it is relearned, and nothing fails in between."""
    rewards = {"reward_window_s": 1000, "default_reward": 0.0}
    name = api.two_actions(reward_range=[0, 1], rewards=rewards)
    decision = decide(api, name)
    wanted = api.state(name)["spec"] | {"reward_range": [-1, 1]}
    wanted["rewards"] |= {"default_reward": -1.0}
    state = api.call("PUT", f"/bandits/{name}?wait=true", wanted)
    assert state["rebuild"]["state"] == "done"
    assert (state["spec"]["reward_range"], state["spec"]["rewards"]) == (
        [-1.0, 1.0], wanted["rewards"],
    )  # fmt: skip
    assert report(api, decision, 1.0, 200)["status"] == "pending"
