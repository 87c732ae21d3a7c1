"""Rewards far beyond all others: they are recorded as reported, and learned as the bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandexa_core.log.bounds import RewardBounds, clip
from benchmarks.in_process import InProcessClient
from service.settings import Settings
from service.tools.verify import verify

NUM = 60
OUTLIER = 1e4
# Of these no round is ever due, so that two bandits differ by what was reported to them alone.
FIXED: dict[str, Any] = {
    "training": {"mode": "lockstep"}, "encoder": {"name": "concat", "standardize": False},
}  # fmt: skip
NO_RANGE: dict[str, Any] = {"reward_range": None}


def usual(number: int) -> float:
    """Return a reward of 0 to 1: that of x is better than that of y."""
    noise = float(np.random.default_rng(number).uniform(-0.2, 0.2))
    return round((0.25 if number % 2 else 0.75) + noise, 4)


def teach(api, name: str, num: int = NUM) -> None:
    """Have a bandit learn usual rewards: x the even ones, y the odd ones."""
    items = [
        {"bandit": name, "context": [1, 1], "candidates": ["xy"[number % 2]]}
        for number in range(num)
    ]
    made = api.call("POST", "/select/batch", {"items": items})["items"]
    rewards = [
        {"decision_id": item["answer"]["decision_id"], "reward": usual(number)}
        for number, item in enumerate(made)
    ]
    answers = api.call("POST", "/reward/batch", {"items": rewards})["items"]
    assert [item["answer"]["status"] for item in answers] == ["applied"] * num


def taught(api, **spec: Any) -> str:
    name: str = api.two_actions(**spec)
    teach(api, name)
    return name


def decided(api, name: str) -> str:
    """Return the id of a decision for y, the worse action."""
    return str(api.select(name, [1, 1], candidates=["y"])["decision_id"])


def stds(api, name: str) -> list[float]:
    return [row["std"] for row in api.scores(name, [1, 1])["scores"]]


def share_of_best(api, name: str, num: int = 200) -> float:
    items = [{"bandit": name, "context": [1, 1]} for _ in range(num)]
    made = api.call("POST", "/select/batch", {"items": items})["items"]
    return float(np.mean([item["answer"]["action"]["id"] == "x" for item in made]))


@pytest.mark.parametrize(
    ("rules", "low", "high"),
    [({}, 0.9, 1.0), ({"clip_outliers": False, "outside": "keep"}, 0.0, 0.2)],
)
def test_one_reward_of_ten_thousand_ruins_nothing_where_it_is_clipped(api, rules, low, high):
    name = taught(api, rewards=rules)
    assert api.reward(decided(api, name), OUTLIER)["status"] == "applied"
    assert low <= share_of_best(api, name) <= high


def test_it_is_shown_as_it_was_reported_and_as_it_was_learned(api):
    name = taught(api)
    decision = decided(api, name)
    before = api.state(name)["learning"]
    api.reward(decision, OUTLIER)
    chosen = api.call("GET", f"/bandits/{name}/decisions/{decision}")["chosen"][0]
    assert chosen["value"] == OUTLIER
    assert [reward["reward"] for reward in chosen["rewards"]] == [OUTLIER]
    [row] = chosen["learned"]
    assert (row["after"], row["learned"]) == (OUTLIER, 1.0), "the end of the declared 0 to 1"
    usual_one = decided(api, name)
    api.reward(usual_one, 0.5)
    [row] = api.call("GET", f"/bandits/{name}/decisions/{usual_one}")["chosen"][0]["learned"]
    assert (row["after"], row["learned"]) == (0.5, None)

    assert before["findings"] == []
    learning = api.state(name)["learning"]
    [finding] = learning["findings"]
    assert (finding["name"], finding["severity"]) == ("clipped-rewards", "notice")
    assert "the last one 10000, learned as 1" in finding["message"]
    assert learning["reward_mean"] > 100.0, "of what was reported"
    text = api.http.get("/metrics").text
    assert f'bandexa_clipped_values_total{{bandit="{name}"}} 1.0' in text
    api.call("DELETE", f"/bandits/{name}", expect=204)


@pytest.mark.few(3)
@pytest.mark.parametrize("spec", [FIXED, FIXED | NO_RANGE])
@pytest.mark.parametrize("final", [0.25, -3e3, 5e4])
def test_a_corrected_value_is_as_if_it_had_been_reported_at_once(api, spec, final):
    """`final` may itself be clipped: to the bounds that the first report had."""
    last = {"rewards": {"aggregate": "last", "clip_outliers": True}}
    corrected, direct = taught(api, **spec, **last), taught(api, **spec, **last)
    decision = decided(api, corrected)
    api.reward(decision, OUTLIER)
    wrong = api.means(corrected, [1, 1])
    api.reward(decision, final)
    api.reward(decided(api, direct), final)
    expected = api.means(direct, [1, 1])
    np.testing.assert_allclose(api.means(corrected, [1, 1]), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(stds(api, corrected), stds(api, direct), rtol=0, atol=1e-9)
    same_bound = final == 5e4
    assert np.allclose(wrong, expected, rtol=0, atol=1e-3) == same_bound


def test_a_mean_of_rewards_is_corrected_exactly(api):
    rules = FIXED | {"rewards": {"aggregate": "mean"}}
    parted, direct = (api.two_actions(**rules) for _ in range(2))
    for name in (parted, direct):
        for number in range(NUM):
            chosen = api.select(name, [1, 1], candidates=["xy"[number % 2]])["decision_id"]
            api.reward(chosen, usual(number), reward_id="a")
    decision = decided(api, parted)
    for number, reward in enumerate((OUTLIER, -OUTLIER, 0.75)):
        api.reward(decision, reward, reward_id=f"r{number}")
    api.reward(decided(api, direct), 0.25, reward_id="a")
    expected = api.means(direct, [1, 1])
    np.testing.assert_allclose(api.means(parted, [1, 1]), expected, rtol=0, atol=1e-9)


def test_clipping_holds_for_decisions_from_its_change_on(api):
    name = api.two_actions(rewards={"clip_outliers": False, "outside": "keep"})
    for number in range(20):
        api.teach(name, [1, 0], "x", number % 3)
    early = api.select(name, [1, 0], candidates=["x"])
    spec = api.call("GET", f"/bandits/{name}")["spec"]
    spec["rewards"]["clip_outliers"] = True
    changed = api.call("PUT", f"/bandits/{name}", spec)
    assert (changed["rebuild"], changed["spec"]["rewards"]["clip_outliers"]) == (None, True)
    late = api.select(name, [1, 0], candidates=["x"])
    learned = []
    for chosen in (late, early):
        api.reward(chosen["decision_id"], 1e4)
        found = api.call("GET", f"/bandits/{name}/decisions/{chosen['decision_id']}")
        learned.append(found["chosen"][0]["learned"][0]["learned"])
    assert learned[0] < 10.0
    assert learned[1] is None, "it is learned as it was reported"


def test_in_process_a_bandit_decides_as_over_http(api):
    name = api.fresh("outlier")
    body = {
        "policy": "linear_ts", "context": {"shape": [2]}, "training": {"mode": "lockstep"},
        "seed": 5,
    }  # fmt: skip
    api.call("PUT", f"/bandits/{name}", body, 201)
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["x", "y"]})
    here = InProcessClient(name, body, ["x", "y"], None)
    contexts = np.random.default_rng(5).normal(size=(120, 2)).round(3).tolist()
    seen = []
    for number, context in enumerate(contexts):
        decision = f"{name}.{number}"
        mine = here.select(name, context, decision_id=decision)
        theirs = api.select(name, context, decision_id=decision)
        assert (mine.action.id, mine.score) == (theirs["action"]["id"], theirs["score"]), number
        value = context["xy".index(mine.action.id)]
        reward = OUTLIER if number == 50 else value
        due = here.reward(decision, reward).train_due
        assert api.reward(decision, reward)["train_due"] == due
        if due:
            here.train(name)
            api.train(name)
        seen.append(value == max(context))
    assert np.mean(seen[60:]) > 0.8


def test_trainer_and_served_model_learn_the_same_values_also_after_a_kill(launch, rig):
    """What is served after it is what `verify` computes from the rows, corrections among them."""
    node = launch("clipped")
    rules = {"rewards": {"aggregate": "last", "clip_outliers": True}}
    names = ("linear", "neural", "small")
    node.create("linear", rig.linear(**rules))
    node.create("neural", rig.neural(training=rig.training(), **rules))
    node.create("small", rig.neural(training=rig.training(), replay={"capacity": 40}, **rules))
    wrong = {50: OUTLIER, 51: -OUTLIER, 80: OUTLIER}

    def report(name: str, values: dict[int, float]) -> None:
        for number, value in values.items():
            body = {"decision_id": f"{name}.{number}", "reward": value}
            assert node.call("POST", "/reward", body)["status"] == "applied"

    for name in names:
        rig.feed(node, name, 0, 45)
        for number in (50, 51):
            body = {"bandit": name, "context": rig.context_of(name, number)}
            node.call("POST", "/select", body | {"decision_id": f"{name}.{number}"})
        report(name, {50: OUTLIER, 51: -OUTLIER})
        node.train(name)
        rig.feed(node, name, 60, 15)
        report(name, {50: 0.25})  # of a row that the trainer has
    node.kill()
    node.start()
    for name in names:
        body = {"bandit": name, "context": rig.context_of(name, 80)}
        node.call("POST", "/select", body | {"decision_id": f"{name}.80"})
        report(name, {80: wrong[80]})
        node.train(name)
        rig.feed(node, name, 90, 5)
    assert node.stop() == 0
    for name in names:
        rows = rig.query(
            node, "SELECT l.before, l.after, l.low, l.high FROM log AS l"
            " JOIN bandits AS b ON b.bandit = l.bandit"
            f" WHERE b.name = '{name}' AND kind = 1 ORDER BY position",
        )  # fmt: skip
        expected = RewardBounds()
        first = [row[1:] for row in rows if row[0] is None]
        assert [row[1:] for row in first] == [expected.take(row[0]) for row in first]
        learned = [clip(*row) for row in first]
        assert max(learned) < 10.0 < max(row[0] for row in first)
        [corrected] = [row for row in rows if row[0] is not None]
        origin = next(row for row in first if row[0] == OUTLIER)
        assert corrected == (OUTLIER, 0.25, *origin[1:])
    report_of = verify(Settings(data_dir=node.data_dir))
    assert [text for check in report_of.checks for text in check.problems] == []
    compared = [check.compared for check in report_of.checks if check.bandit in names]
    assert any("rebuilt from the log" in text for text in compared)
