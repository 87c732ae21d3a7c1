"""Findings of a served bandit: from its log, since when, and when they ended."""

from __future__ import annotations

from typing import Any

from tests.fixtures.waiting import poll
from tests.observe.test_arms_live import rewarded


def noted(api, name: str, finding: str) -> dict[str, Any] | None:
    found = api.call("GET", f"/bandits/{name}/findings")["findings"]
    return next((each for each in found if each["name"] == finding), None)


def stated(api, name: str, finding: str) -> dict[str, Any] | None:
    found = api.state(name)["learning"]["findings"]
    return next((each for each in found if each["name"] == finding), None)


def test_an_action_that_is_worse_than_another_is_an_alarm(api) -> None:
    """x is made to have nine of ten decisions, and y earns more."""
    name = api.two_actions(limits={"x": {"floor": 0.9}})
    items = [{"bandit": name, "context": [1, 0]} for _ in range(500)]
    for _ in range(6):
        answers = api.call("POST", "/select/batch", {"items": items})["items"]
        rewards = [
            {
                "decision_id": each["answer"]["decision_id"],
                "reward": 0.8 if each["answer"]["action"]["id"] == "y" else 0.3,
            }
            for each in answers
        ]
        api.call("POST", "/reward/batch", {"items": rewards})
    alarm = poll(lambda: stated(api, name, "worse-action"), "the alarm")
    assert alarm["severity"] == "alarm"
    assert "'y' in all of them would have earned" in alarm["message"]
    listed = poll(lambda: noted(api, name, "worse-action"), "the alarm is noted")
    assert listed["until"] is None
    again = stated(api, name, "worse-action")
    assert again is not None
    assert again["since"] == listed["since"]


def test_findings_have_a_beginning_and_an_end(api) -> None:
    name = api.two_actions()
    assert api.call("GET", f"/bandits/{name}/findings") == {"findings": []}
    api.call("PUT", f"/bandits/{name}/mode", {"mode": "frozen"})
    notice = stated(api, name, "frozen")
    assert notice is not None
    assert notice["message"].endswith("0 values wait")
    rewarded(api.call, name, 3, {None: 0.5})
    begun = poll(lambda: noted(api, name, "frozen"), "the beginning")
    assert (begun["severity"], begun["until"]) == ("notice", None)
    api.call("PUT", f"/bandits/{name}/mode", {"mode": "learn"})

    def ended() -> bool:
        each = noted(api, name, "frozen")
        return each is not None and each["until"] is not None

    poll(ended, "the end")
    each = noted(api, name, "frozen")
    assert each is not None
    assert each["until"] >= each["since"] == begun["since"]
    assert "3 values wait" in each["message"]
