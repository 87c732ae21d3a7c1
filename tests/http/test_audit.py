"""The audit trail: who changed a bandit, what that changed, also of one that is deleted."""

from __future__ import annotations

from typing import Any

from bandexa_client import BanditClient


def entries(api, name: str, **query: Any) -> list[dict[str, Any]]:
    text = "&".join(f"{key}={value}" for key, value in query.items())
    found: list[dict[str, Any]] = api.call("GET", f"/bandits/{name}/audit?{text}")["entries"]
    return found


def changed(entry: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {each["key"]: (each["old"], each["new"]) for each in entry["changes"]}


def spec_of(**more: Any) -> dict[str, Any]:
    return {
        "policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2, "seed": 1,
        "reward_range": [0, 1], "posterior": {"prior_mean": 0.0},
    } | more  # fmt: skip


def test_every_change_is_noted_with_before_and_after(api) -> None:
    name = api.two_actions()
    path = f"/bandits/{name}"
    api.call("PUT", path, spec_of(selection={"epsilon": 0.1}))
    api.call("PUT", f"{path}/mode", {"serve": "y"})
    api.call("DELETE", f"{path}/actions/x")
    api.teach(name, [1, 0], "y", 1.0)
    decision = api.select(name, [1, 0])["decision_id"]
    api.reward(decision, 0.5)
    api.call("POST", f"{path}/rewards/void", {"decision_ids": [decision]})
    api.train(name)
    found = entries(api, name)
    assert [each["what"] for each in reversed(found)] == [
        f"PUT {path}", f"PUT {path}/actions", f"PUT {path}", f"PUT {path}/mode",
        f"DELETE {path}/actions/x", f"POST {path}/rewards/void", f"POST {path}/train",
    ]  # fmt: skip
    assert {each["by"] for each in found} == {"(anonymous)"}
    times = [each["time"] for each in found]
    assert times == sorted(times, reverse=True)
    train, void, retired, mode, selection, actions, created = map(changed, found)
    assert created["spec"][0] is None
    assert created["spec"][1]["policy"] == "linear_ts"
    assert actions == {"num_actions": (0, 2), "position": (0, 1)}
    assert selection == {"spec.selection.epsilon": (None, 0.1), "position": (1, 2)}
    assert mode == {"spec.serve": (None, "y"), "position": (2, 3)}
    assert retired == {"num_actions": (2, 1), "position": (3, 4)}
    assert (void["answer.decisions"], void["answer.values"]) == ((None, 1), (None, 1))
    assert train["snapshot"][1] > train["snapshot"][0]


def test_what_changes_nothing_and_what_is_refused_is_not_noted(api) -> None:
    name = api.two_actions()
    num = len(entries(api, name))
    api.call("PUT", f"/bandits/{name}", spec_of())
    api.call("PUT", f"/bandits/{name}?dry_run=true", spec_of(reward_range=[0, 5]))
    api.call("PUT", f"/bandits/{name}", spec_of(seed=-1), 422)
    api.call("DELETE", f"/bandits/{name}/actions/z", expect=404)
    api.select(name, [1, 0])
    assert len(entries(api, name)) == num


def test_the_trail_outlives_its_bandit_and_has_pages(api) -> None:
    name = api.two_actions()
    api.call("DELETE", f"/bandits/{name}", expect=204)
    first, *rest = entries(api, name)
    assert first["what"] == f"DELETE /bandits/{name}"
    assert changed(first)["spec"][0]["policy"] == "linear_ts"
    assert changed(first)["spec"][1] is None
    page = api.call("GET", f"/bandits/{name}/audit?limit=2")
    assert page["entries"] == [first, rest[0]]
    older = api.call("GET", f"/bandits/{name}/audit?before={page['next']}")
    assert (older["entries"], older["next"]) == (rest[1:], None)
    api.call("GET", f"/bandits/{api.fresh('never')}/audit", expect=404)


def test_the_client_reads_it(api, server) -> None:
    name = api.two_actions()
    with BanditClient(server.url) as client:
        trail = client.audit(name, limit=1)
    assert [entry.what for entry in trail.entries] == [f"PUT /bandits/{name}/actions"]
    assert ("num_actions", 0, 2) in [(c.key, c.old, c.new) for c in trail.entries[0].changes]
