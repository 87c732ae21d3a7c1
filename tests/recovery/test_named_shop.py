"""A shop with named features over the life of its data: learned, trained, killed, copied, erased.

Offers have kinds and prices, visits have devices and ages, and some values are missing. A visitor
buys what suits the device. Nothing is declared.
"""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from tests.fixtures.commands import bandexa

SPEC: dict[str, Any] = {
    "context": {"features": "auto"}, "actions": {"features": "auto"}, "seed": 5,
    "reward_range": [0, 1],
    "training": {"mode": "lockstep", "train_every": 150, "optimizer_steps": 100},
    "selection": {"warmup_random": 150},
    "replay": {"backend": "disk", "capacity": 400, "evicted_sample": 100},
}  # fmt: skip
KINDS = ("gift", "tea", "book")
WANTED = dict(zip(("phone", "tablet", "pc"), KINDS, strict=True))
PROBES: list[dict[str, Any]] = [
    {"device": "pc", "user": {"age": 40}, "tags": ["new"]},
    {"device": "watch", "user": {"age": "unknown"}},
    {},
]
OFFERS = [
    {"id": f"offer-{number}", "features": {"kind": KINDS[number % 3], "price": 1.5 + number}}
    for number in range(6)
]
HER = {"device": "phone", "name": "Alice Liddell", "user": {"age": 10}}


def visit(rng: random.Random) -> dict[str, Any]:
    """Return a visit; one in ten has an age that is text, one in ten none."""
    draw = rng.random()
    age: Any = str(rng.randint(18, 80)) if draw < 0.1 else rng.randint(18, 80)
    user = {} if draw > 0.9 else {"age": age}
    return {"device": rng.choice(sorted(WANTED)), "user": user, "tags": rng.sample("abc", 2)}


def play(node, num: int, seed: int, bandit: str = "shop") -> float:
    """Select and reward, ten at a time, under ids of our own; returns the mean reward."""
    rng, total = random.Random(seed), 0.0
    for first in range(0, num, 10):
        contexts = [visit(rng) for _ in range(10)]
        items = [
            {
                "bandit": bandit, "context": context, "unit": "bob",
                "decision_id": f"visit-{seed}-{first + number}",
            }
            for number, context in enumerate(contexts)
        ]  # fmt: skip
        made = node.call("POST", "/select/batch", {"items": items})["items"]
        rewards = []
        for context, item in zip(contexts, made, strict=True):
            answer = item["answer"]
            kind = KINDS[int(answer["action"]["id"][-1]) % 3]
            reward = float(kind == WANTED[context["device"]])
            total += reward
            rewards.append({"decision_id": answer["decision_id"], "reward": reward})
        answers = node.call("POST", "/reward/batch", {"items": rewards})["items"]
        assert {item["answer"]["status"] for item in answers} == {"applied"}
        if node.state(bandit)["train_due"]:
            node.train(bandit)
    return total / num


def scores(node, bandit: str = "shop") -> list[Any]:
    path = f"/bandits/{bandit}/score"
    found = [node.call("POST", path, {"context": each}) for each in PROBES]
    return [[(row["id"], row["mean"], row["std"]) for row in each["scores"]] for each in found]


def verified(node) -> None:
    done = bandexa("verify", node.data_dir, "--live", str(node.http.base_url), "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: ok" in done.stdout


@pytest.fixture(scope="module")
def shop(launch) -> Any:
    """A server whose shop has learned and was trained."""
    node = launch("shop")
    node.call("PUT", "/bandits/shop", SPEC)
    node.call("PUT", "/bandits/shop/actions", {"actions": OFFERS})
    play(node, 400, seed=1)
    assert play(node, 400, seed=2) > 0.5  # a third by chance
    return node


def test_the_fields_that_auto_found(shop):
    state = shop.state("shop")
    context, actions = state["features"]["context"], state["features"]["actions"]
    types = {path: field["type"] for path, field in context["fields"].items()}
    assert types == {"device": "category", "user.age": "number", "tags": "categories"}
    assert {path: field["type"] for path, field in actions["fields"].items()} == {
        "kind": "category", "price": "number",
    }  # fmt: skip
    assert 100 < context["num_rows"] <= state["num_learned"]
    inside = sum(field["columns"] for field in context["fields"].values())
    assert context["num_columns"] == inside


def test_counts_of_what_requests_have(shop):
    """They start again with a new encoding, so that several plays may be needed."""
    context = shop.state("shop")["features"]["context"]
    for seed in range(100, 130):
        if context["num_counted"] >= 60:
            break
        play(shop, 20, seed)
        context = shop.state("shop")["features"]["context"]
    age = context["fields"]["user.age"]
    assert age["converted"] > 0
    assert age["missing"] > 0
    metrics = shop.http.get("/metrics").text
    line = 'bandexa_feature_values{bandit="shop",side="context",field="user.age",kind="missing"}'
    assert line in metrics


def test_a_restart_serves_the_same_scores(shop):
    before, state = scores(shop), shop.state("shop")
    shop.kill()
    shop.start()
    assert scores(shop) == before
    again = shop.state("shop")
    assert (again["position"], again["snapshot"]) == (state["position"], state["snapshot"])
    verified(shop)
    assert play(shop, 100, seed=5) > 0.5


def test_old_decisions_are_explained_with_their_objects(shop):
    chosen = shop.call("POST", "/select", {"bandit": "shop", "context": PROBES[0]})
    play(shop, 20, seed=6)
    found = shop.call("GET", f"/bandits/shop/decisions/{chosen['decision_id']}")
    assert found["context"]["object"] == PROBES[0]
    assert found["reproduced"] == {"action": True, "score": True, "propensity": True}


def test_the_store_has_no_padding(shop):
    """An object takes the bytes of its JSON, and not those that the bandit allows."""
    with closing(sqlite3.connect(shop.data_dir / "bandexa.db")) as database:
        (longest,) = database.execute("SELECT max(length(context)) FROM decisions").fetchone()
        (packed,) = database.execute("SELECT max(length(chosen)) FROM decisions").fetchone()
        (change,) = database.execute("SELECT max(length(payload)) FROM log").fetchone()
    assert longest < 100
    assert packed < 200
    assert change < 1000


@pytest.mark.slow
def test_a_linear_bandit_crosses_the_fields_that_matter(shop):
    """The crosses are those of its snapshot: what it serves survives kills, and is verified."""
    shop.call("PUT", "/bandits/linear", SPEC | {"policy": "linear_ts"})
    shop.call("PUT", "/bandits/linear/actions", {"actions": OFFERS})
    play(shop, 200, seed=20, bandit="linear")
    assert play(shop, 100, seed=21, bandit="linear") > 0.6  # a third by chance
    state = shop.state("linear")
    assert state["spec"]["encoder"]["name"] == "crosses"
    first = state["features"]["crosses"][0]
    assert (first["context"], first["action"]) == ("device", "kind")
    assert first["gain"] > 0.3
    chosen = shop.call("POST", "/select", {"bandit": "linear", "context": PROBES[0]})
    before = scores(shop, "linear")
    shop.kill()
    shop.start()
    assert scores(shop, "linear") == before
    assert shop.state("linear")["features"]["crosses"] == state["features"]["crosses"]
    found = shop.call("GET", f"/bandits/linear/decisions/{chosen['decision_id']}")
    assert found["reproduced"] == {"action": True, "score": True, "propensity": True}
    declared = {"name": "crosses", "params": {"crosses": [["user.age", "price"]], "inputs": 64}}
    wanted = SPEC | {"policy": "linear_ts", "encoder": declared}
    changed = shop.http.put("/bandits/linear?wait=true", json=wanted)
    assert changed.is_success, changed.text
    crosses = shop.state("linear")["features"]["crosses"]
    assert [(each["context"], each["action"]) for each in crosses] == [("user.age", "price")]
    verified(shop)


def test_an_export_decides_as_the_original(shop, launch):
    exported = shop.http.get("/bandits/shop/snapshot")
    assert exported.status_code == 200
    other = launch("imported")
    other.call("PUT", "/bandits/shop", SPEC)
    other.call("PUT", "/bandits/shop/actions", {"actions": OFFERS})
    assert other.http.put("/bandits/shop/snapshot", content=exported.content).is_success
    for row, known in zip(scores(other), scores(shop), strict=True):
        assert [each[0] for each in row] == [each[0] for each in known]
        assert [each[1] for each in row] == pytest.approx([each[1] for each in known])
    verified(other)
    numbers = SPEC | {"context": {"shape": [3]}}
    other.call("PUT", "/bandits/numbers", numbers)
    refused = other.http.put("/bandits/numbers/snapshot", content=exported.content)
    assert refused.status_code in (409, 422), refused.text


@pytest.mark.slow
def test_a_backup_goes_on(shop, launch, tmp_path):
    dest = tmp_path / "copy"
    done = bandexa("backup", shop.data_dir, dest)
    assert done.returncode == 0, done.stderr
    restored = launch("restored", content=dest)
    assert scores(restored) == scores(shop)
    assert play(restored, 50, seed=7) > 0.4
    verified(restored)


def test_offers_come_and_go(shop):
    new = {"id": "offer-9", "features": {"kind": "tea", "price": 2.5, "season": "winter"}}
    shop.call("PUT", "/bandits/shop/actions", {"actions": [new]})
    shop.call("DELETE", "/bandits/shop/actions/offer-1")
    body = {"bandit": "shop", "context": PROBES[0], "candidates": ["offer-9"]}
    made = shop.call("POST", "/select", body)
    assert made["action"]["id"] == "offer-9"
    assert shop.call("POST", "/reward", {"decision_id": made["decision_id"], "reward": 1.0})
    shop.train("shop")
    change = {"id": "offer-9", "features": {"kind": "tea", "price": 3.5}}
    shop.call("PUT", "/bandits/shop/actions", {"actions": [change]})
    shop.call("PUT", "/bandits/shop/actions", {"actions": [{"id": "offer-1"}]})
    verified(shop)


def test_somebody_is_erased(shop):
    ids = []
    for _ in range(3):
        body = {"bandit": "shop", "context": HER, "unit": "alice"}
        made = shop.call("POST", "/select", body)
        ids.append(made["decision_id"])
        shop.call("POST", "/reward", {"decision_id": ids[-1], "reward": 1.0})
    shop.train("shop")
    erased = shop.call("POST", "/erase", {"unit": "alice"})
    assert (erased["decisions"], erased["remaining"]) == (3, [])
    assert shop.http.get(f"/bandits/shop/decisions/{ids[0]}").status_code == 410
    verified(shop)
    shop.stop()
    found = [
        path.name for path in shop.data_dir.rglob("*")
        if path.is_file() and b"Liddell" in path.read_bytes()
    ]  # fmt: skip
    assert found == []
    shop.start()
    verified(shop)
    play(shop, 20, seed=8)
