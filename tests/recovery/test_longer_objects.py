"""The most bytes of an object change: nothing is relearned, and objects of both lengths are."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.commands import bandexa

SHORT, LONG = 64, 300
NOTE = "n" * 200


def limited(size: int, **more: Any) -> dict[str, Any]:
    side = {"features": "auto", "max_bytes": size}
    return {
        "policy": "linear_ts", "context": side, "actions": side, "seed": 4,
        "training": {"mode": "lockstep"}, "replay": {"backend": "disk"},
    } | more  # fmt: skip


def taught(node, num: int, **more: Any) -> None:
    for number in range(num):
        device, action = ("phone", "pc")[number % 2], ("a", "b")[number // 2 % 2]
        context = {"device": device} | more
        body = {"bandit": "grown", "context": context, "candidates": [action]}
        chosen = node.call("POST", "/select", body)
        reward = float((device == "phone") == (action == "a"))
        node.call("POST", "/reward", {"decision_id": chosen["decision_id"], "reward": reward})


def means(node, device: str) -> list[float]:
    body = {"context": {"device": device}}
    return [row["mean"] for row in node.call("POST", "/bandits/grown/score", body)["scores"]]


def refusal(node, method: str, path: str, body: Any) -> str:
    answer = node.http.request(method, path, json=body)
    assert answer.status_code == 422, answer.text
    return str(answer.json()["detail"])


def test_the_most_bytes_of_an_object_change(launch) -> None:
    node = launch("grown")
    node.call("PUT", "/bandits/grown", limited(SHORT))
    offered = [{"id": "a", "features": {"kind": "tea"}}, {"id": "b", "features": {"kind": "mug"}}]
    node.call("PUT", "/bandits/grown/actions", {"actions": offered})
    taught(node, 40)
    node.train("grown")
    long = {"bandit": "grown", "context": {"device": "pc", "note": NOTE}}
    assert f"at most {SHORT} are allowed" in refusal(node, "POST", "/select", long)

    plan = node.call("PUT", "/bandits/grown", limited(LONG), dry_run="true")
    assert plan["changes"] == [
        {"key": f"{side}.max_bytes", "old": SHORT, "new": LONG} for side in ("context", "actions")
    ]
    assert (plan["status"], plan["relearned"], plan["rows"]) == ("changed", [], 0)
    scores = means(node, "pc")
    state = node.call("PUT", "/bandits/grown", limited(LONG))
    assert (state["rebuild"], state["spec"]["context"]["max_bytes"]) == (None, LONG)
    assert means(node, "pc") == scores
    larger = [{"id": "c", "features": {"kind": "mug", "note": NOTE}}]
    node.call("PUT", "/bandits/grown/actions", {"actions": larger})
    open_one = node.call("POST", "/select", long)
    taught(node, 40, note=NOTE)
    node.train("grown")

    # Back again: what was accepted stays, is rewarded, explained and learned.
    node.call("PUT", "/bandits/grown", limited(SHORT))
    assert f"at most {SHORT} are allowed" in refusal(node, "POST", "/select", long)
    rewarded = {"decision_id": open_one["decision_id"], "reward": 1.0}
    assert node.call("POST", "/reward", rewarded)["status"] == "applied"
    explained = node.call("GET", f"/bandits/grown/decisions/{open_one['decision_id']}")
    assert explained["context"]["object"] == long["context"]
    assert explained["reproduced"] == {"action": True, "score": True, "propensity": True}
    listed = node.call("GET", "/bandits/grown/actions")["actions"]
    assert listed[2]["features"] == larger[0]["features"]
    node.train("grown")

    # Another declaration beside another limit: that one is relearned, from rows of both lengths.
    fields = {"features": {"device": "category", "note": "text"}, "max_bytes": LONG + 1}
    wanted = limited(SHORT, context=fields)
    state = node.call("PUT", "/bandits/grown", wanted, wait="true")
    assert state["rebuild"]["keys"] == ["context.features"]
    assert (state["rebuild"]["state"], state["num_learned"]) == ("done", 81)
    before = means(node, "phone")
    assert before[0] > before[1] + 0.3
    node.kill()
    node.start()
    assert means(node, "phone") == pytest.approx(before, rel=1e-8)
    node.train("grown")
    assert node.state("grown")["spec"]["context"]["max_bytes"] == LONG + 1

    # A limit is of requests: another bandit is taught objects that it would not take from them.
    body = {"to": "short", "spec": limited(SHORT)}
    replayed = node.call("POST", "/bandits/grown/replay", body)
    assert (replayed["rows"], replayed["skipped"]) == (81, 0)
    state = node.state("short")
    assert state["num_learned"] == 81
    assert [state["spec"][side]["max_bytes"] for side in ("context", "actions")] == [SHORT] * 2
    assert f"at most {SHORT} are allowed" in refusal(
        node, "POST", "/select", long | {"bandit": "short"}
    )
    listed = node.call("GET", "/bandits/short/actions")["actions"]
    assert listed[2]["features"] == larger[0]["features"]
    node.train("short")
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
