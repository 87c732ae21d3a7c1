"""The findings of `/learnz`: each check on hand-made observations, and real servers."""

from __future__ import annotations

import dataclasses
import os
import signal
from typing import Any

import numpy as np
import pytest

from bandexa_core.evaluation import Interval
from bandexa_core.spec.warnings import Unlearnable
from service.observe.counters import MINUTES, RECENT_ACTIONS, RECENT_VALUES, Traffic, Vitals
from service.observe.health import (
    BanditState,
    ChallengerSeen,
    Finding,
    Misfit,
    ServerState,
    check_bandit,
    check_server,
    join_rate_drop,
)
from service.observe.silence import Loss
from service.serving.challengers import Score, State
from tests.fixtures.waiting import poll

WELL = BanditState(
    due_s=0.0, stale_s=900.0, failures=(0, ""), rows_wait_s=0.0, traffic=Traffic(), same_actions=0,
    last_action=None, same_values=0, last_value=None, num_values=0, outside=0.0,
    reward_range=(0.0, 1.0), learns=True,
)  # fmt: skip
SERVER = ServerState(store_failure=None, trainer_down_s=0.0, trainer_silent_s=0.0, stale_s=900.0)
MLP = {"name": "mlp", "params": {"feature_dim": 4, "hidden": [8]}}
WITHIN_S = 30.0


def traffic(*parts: tuple[int, int, int]) -> Traffic:
    """Return traffic: (minutes, chosen in each, joined in each), one part after the other."""
    counted, minute = Traffic(), 0
    for number, chosen, joined in parts:
        for _ in range(number):
            counted.add(60.0 * minute, chosen, joined)
            minute += 1
    return counted


def found(**changes: Any) -> list[Finding]:
    """Return the findings of a healthy bandit with some observations changed."""
    return list(check_bandit(dataclasses.replace(WELL, **changes)))


def test_a_bandit_without_traffic_is_healthy() -> None:
    assert found() == []
    assert list(check_server(SERVER)) == []


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"due_s": 901.0}, ("round-overdue", "alarm")),
        ({"failures": (2, "no memory")}, ("rounds-failing", "alarm")),
        ({"rows_wait_s": 61.0}, ("rows-waiting", "alarm")),
        ({"traffic": traffic((60, 100, 20), (10, 100, 0))}, ("join-rate-collapsed", "alarm")),
        ({"loss": Loss(1e9, 80, 30.0)}, ("rewards-lost", "alarm")),
        ({"drifts": (("context.age", 0.4),)}, ("features-drift", "notice")),
        ({"warnings": (Unlearnable("actions-alike", "why"),)}, ("actions-alike", "notice")),
        ({"traffic": traffic((10, 100, 0))}, ("no-rewards", "notice")),
        ({"same_values": 1000, "last_value": 0.0}, ("constant-reward", "notice")),
        ({"num_values": 100, "outside": 0.05}, ("rewards-out-of-range", "notice")),
        ({"same_actions": 1000, "last_action": "x"}, ("one-action", "notice")),
        ({"extremes": ((2, 40, -999.0),), "num_contexts": 812}, ("extreme-inputs", "notice")),
        ({"extreme_action": ("x", 3, 1e6)}, ("extreme-action", "notice")),
        ({"misfits": (Misfit("context.age", "wrong", 0.5, 200),)}, ("features-misfit", "notice")),
        ({"collisions": (("context.user", 0.5),)}, ("features-collide", "notice")),
        ({"num_clipped": 2, "clipped": (1e4, 2.0)}, ("clipped-rewards", "notice")),
    ],
)
def test_each_thing_that_is_wrong_has_its_finding(changes, finding) -> None:
    [reported] = found(**changes)
    assert (reported.name, reported.severity) == finding
    assert reported.message
    assert reported.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {"due_s": 899.0},
        {"failures": (1, "once")},
        {"rows_wait_s": 59.0},
        {"same_values": 999},
        {"num_values": 99, "outside": 1.0},
        {"num_values": 5000, "outside": 0.04},
        {"num_values": 5000, "outside": 1.0, "learns": False},
        {"same_actions": 999},
        {"traffic": traffic((9, 100, 0))},
        {"num_clipped": 2, "clipped": None},
        {"learns": False, "same_values": 5000, "same_actions": 5000},
        {"learns": False, "traffic": traffic((20, 100, 0))},
    ],
)
def test_a_little_below_a_threshold_there_is_no_finding(changes) -> None:
    assert found(**changes) == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"store_failure": "disk full"}, "store-down"),
        ({"trainer_down_s": 901.0}, "trainer-down"),
        ({"trainer_silent_s": 901.0}, "trainer-stuck"),
        ({"wal_pinned_s": 61.0, "wal_bytes": 17 << 20}, "wal-pinned"),
        ({"clock_offset_s": 61.0}, "clock-ahead"),
    ],
)
def test_each_fault_of_the_server_has_its_finding(changes, name: str) -> None:
    [finding] = check_server(dataclasses.replace(SERVER, **changes))
    assert (finding.name, finding.severity) == (name, "alarm")


def test_a_clock_that_was_set_back_is_no_reason_to_act() -> None:
    assert list(check_server(dataclasses.replace(SERVER, clock_offset_s=-59.0))) == []
    [finding] = check_server(dataclasses.replace(SERVER, clock_offset_s=-3600.0))
    assert (finding.name, finding.severity) == ("clock-behind", "notice")


def test_a_collapse_of_the_join_rate_is_reported_with_both_rates() -> None:
    drop = join_rate_drop(traffic((60, 100, 20), (10, 100, 2)))
    assert drop is not None
    past, recent = drop
    assert past == pytest.approx(0.2)
    assert recent == pytest.approx(0.02)


@pytest.mark.parametrize(
    "counted",
    [
        traffic((60, 100, 20), (10, 100, 6)),  # a third is left: more than a quarter
        traffic((60, 100, 20), (9, 100, 0), (1, 100, 50)),  # late, but they arrived
        traffic((60, 100, 20), (7, 100, 0)),  # three of the newest ten had rewards
        traffic((2, 100, 20), (20, 100, 0)),  # too little traffic before
        traffic((60, 100, 20), (60, 1, 0)),  # 12 rewards are predicted
        traffic((60, 100, 20), (10, 200, 20)),  # twice the traffic, as many rewards as before
        Traffic(),
    ],
)
def test_no_alarm_without_the_evidence(counted: Traffic) -> None:
    assert join_rate_drop(counted) is None


def test_little_traffic_is_checked_over_a_longer_time() -> None:
    """With 5 decisions a minute at a rate of 0.2, 50 minutes predict 50 rewards, not 10."""
    past = (600, 5, 1)
    assert join_rate_drop(traffic(past, (37, 5, 0))) is None
    assert join_rate_drop(traffic(past, (38, 5, 0))) is not None


@pytest.mark.parametrize("num", [5, 700, MINUTES + 3, 3 * MINUTES])
def test_traffic_sums_the_newest_minutes_as_adding_them_up_does(num: int) -> None:
    rng = np.random.default_rng(num)
    chosen, joined = rng.integers(0, 40, num), rng.integers(0, 9, num)
    counted = Traffic()
    for minute in range(num):
        counted.add(60.0 * minute, int(chosen[minute]), 0)
        counted.add(60.0 * minute + 9.0, 0, int(joined[minute]))
    kept = min(num, MINUTES)
    newest_chosen, newest_joined = chosen[::-1][:kept].cumsum(), joined[::-1][:kept].cumsum()
    assert len(counted) == kept
    assert counted.total() == (newest_chosen[-1], newest_joined[-1])
    assert counted.newest(4)[0].tolist() == newest_chosen[3:].tolist()
    assert counted.newest(4)[1].tolist() == newest_joined[3:].tolist()
    number = min(kept - 1, int(np.searchsorted(newest_chosen, RECENT_ACTIONS)))
    assert counted.recent(RECENT_ACTIONS) == (newest_chosen[number], newest_joined[number])


def test_vitals_count_decisions_rewards_and_values() -> None:
    vitals = Vitals()
    assert vitals.join_rate() is None
    assert vitals.reward_mean is None
    for number in range(4):
        vitals.decided(60.0 * number, ["x", "y"], 0.5, choice=True, activated=True)
    vitals.decided(240.0, ["x"], None, choice=True, activated=False)
    vitals.joined(240.0, 60.0)
    vitals.joined(30.0, 0.0)  # a clock that was set back
    assert vitals.join_rate() == pytest.approx(2 / 8)
    vitals.activated(250.0, 2)
    assert vitals.join_rate() == pytest.approx(2 / 10)
    assert vitals.traffic.newest(1)[0].tolist() == [2, 4, 6, 8, 10]
    assert vitals.actions.length == 5
    for value in (1.0, 0.0, 2.0):
        vitals.learned(None, value, (0.0, 1.0))
    assert vitals.reward_mean == pytest.approx(1.0)
    assert vitals.outside == pytest.approx(1 / 3)
    vitals.learned(2.0, 5.0, (0.0, 1.0))
    assert vitals.reward_mean == pytest.approx(2.0)
    assert vitals.outside == pytest.approx(1 / 3), "it was outside before"
    vitals.learned(0.0, -3.0, (0.0, 1.0))
    assert vitals.outside == pytest.approx(2 / 3)
    vitals.learned(-3.0, 0.0, (0.0, 1.0))
    vitals.learned(None, -0.5, (0.0, 1.0))
    assert vitals.outside == pytest.approx(2 / 4)
    assert vitals.values.length == 1


def test_a_clipped_value_is_recent_for_a_thousand_values() -> None:
    vitals = Vitals()
    assert (vitals.num_clipped, vitals.recently_clipped()) == (0, None)
    for value in (0.5, 1e4):
        vitals.learned(None, value, (0.0, 1.0))
    vitals.clipped(1e4, 2.0, (0.0, 1.0))
    for number in range(RECENT_VALUES):
        assert vitals.recently_clipped() == (1e4, 2.0), number
        vitals.learned(None, 0.5, (0.0, 1.0))
    vitals.clipped(1.5, 1.0, (0.0, 1.0))
    assert (vitals.num_clipped, vitals.recently_clipped()) == (2, None), "1.5 is no outlier"


# -- real servers -----------------------------------------------------------------------------


def test_a_server_that_learns_reports_it(api) -> None:
    name = api.two_actions()
    api.teach(name, [1, 1], "x", 0.25)
    answer = api.call("GET", "/learnz")
    assert answer["status"] == "learning"
    assert answer["findings"] == []
    found = answer["bandits"][name]
    assert (found.pop("lifts"), found.pop("action_values")) == ([], [])
    assert found == {
        "findings": [], "join_rate": 1.0, "reward_mean": 0.25, "clipped_values": 0,
        "refused_rewards": 0, "loss_shown_after_s": None, "feature_rates": {}, "judged_values": 0,
    }  # fmt: skip
    assert api.state(name)["learning"] == found


def test_equal_rewards_are_a_notice(api) -> None:
    name = api.two_actions()
    for _ in range(2):
        items = [{"bandit": name, "context": [1, 1], "candidates": ["x"]} for _ in range(500)]
        made = api.call("POST", "/select/batch", {"items": items})["items"]
        rewards = [{"decision_id": m["answer"]["decision_id"], "reward": 0} for m in made]
        api.call("POST", "/reward/batch", {"items": rewards})
    [finding] = api.state(name)["learning"]["findings"]
    assert (finding["name"], finding["severity"]) == ("constant-reward", "notice")
    text = api.http.get("/metrics").text
    labels = f'bandit="{name}",finding="constant-reward",severity="notice"'
    assert f"bandexa_finding{{{labels}}} 1.0" in text
    api.call("DELETE", f"/bandits/{name}", expect=204)


def test_rewards_outside_of_their_range_are_a_notice(api) -> None:
    name = api.two_actions(reward_range=[0.0, 1.0])
    items = [{"bandit": name, "context": [1, 1], "candidates": ["x"]} for _ in range(200)]
    made = api.call("POST", "/select/batch", {"items": items})["items"]
    rewards = [
        {"decision_id": m["answer"]["decision_id"], "reward": 20.0 if n % 4 == 0 else 0.5}
        for n, m in enumerate(made)
    ]
    api.call("POST", "/reward/batch", {"items": rewards})
    [finding] = api.state(name)["learning"]["findings"]
    assert (finding["name"], finding["severity"]) == ("rewards-out-of-range", "notice")
    assert "25% of the latest values lie outside of reward_range [0, 1]" in finding["message"]
    assert "learned as the end" in finding["message"]
    api.call("DELETE", f"/bandits/{name}", expect=204)


def test_an_arm_that_earns_more_for_certain_is_an_alarm() -> None:
    (one,) = found(worse=(("control", Interval(-0.2, -0.05)),))
    assert (one.name, one.severity) == ("worse-than-arm", "alarm")
    assert "arm control earns more than the bandit: the lift is -0.2 to -0.05" in one.message


@pytest.mark.parametrize(
    ("state", "score", "name", "text"),
    [
        ("learning", Score(num=5000, low=0.01, high=0.09), "challenger-better", "0.01 to 0.09"),
        ("returned", Score(num=5000, low=-0.2, high=-0.1), "challenger-returned", "was worse"),
        ("learning", Score(error="no context"), "challenger-failed", "no context"),
    ],
)
def test_what_became_of_a_challenger_is_a_notice(
    state: State, score: Score, name: str, text: str
) -> None:
    (one,) = found(challengers=(ChallengerSeen("products", state, score),))
    assert (one.name, one.severity) == (name, "notice")
    assert "products" in one.message
    assert text in one.message


@pytest.mark.parametrize(
    ("state", "score"),
    [
        ("learning", None),
        ("learning", Score(num=5000, low=-0.01, high=0.09)),
        ("learning", Score(num=50, low=0.01, high=0.09, reasons=("too few decisions",))),
        ("trial", Score(num=5000, low=0.01, high=0.09)),
        ("served", Score(num=5000, low=0.01, high=0.09)),
    ],
)
def test_a_challenger_that_nobody_has_to_look_at_is_none(state: State, score: Score | None) -> None:
    assert found(challengers=(ChallengerSeen("products", state, score),)) == []


def test_a_disk_that_is_full_within_a_week_is_a_notice() -> None:
    def names(days: float) -> list[str]:
        state = dataclasses.replace(SERVER, disk_full_in_s=days * 86400.0, disk_free_bytes=2**30)
        return [one.name for one in check_server(state)]

    assert names(6.9) == ["disk-fills"]
    assert names(7.1) == []


def test_a_stopped_trainer_is_an_alarm_until_it_continues(start_server, api_of, tmp_path) -> None:
    config = tmp_path / "b.toml"
    config.write_text("learn_stale_s = 0.3\n")
    server = start_server(None, "--config", str(config))
    with server.client() as client:
        api = api_of(client)

        def trainer() -> dict[str, Any]:
            state: dict[str, Any] = api.call("GET", "/readyz")["trainer"]
            return state

        name = api.two_actions(policy="neural_linear_ts", encoder=MLP)
        api.train(name)
        pid = trainer()["pid"]
        assert client.get("/learnz").status_code == 200
        os.kill(pid, signal.SIGSTOP)
        for number in range(40):
            api.teach(name, [number / 40, 1], "x", number / 40)
        answer = poll(
            lambda: (r := client.get("/learnz")).status_code == 503 and r.json(), "an alarm"
        )
        assert answer["status"] == "alarm"
        assert [finding["name"] for finding in answer["findings"]] == ["trainer-stuck"]
        assert client.get("/readyz").status_code == 200
        assert "bandexa_learning 0.0" in client.get("/metrics").text
        os.kill(pid, signal.SIGCONT)
        poll(lambda: client.get("/learnz").status_code == 200, "learning again")
        poll(lambda: api.state(name)["snapshot"] == 2, "the round")
