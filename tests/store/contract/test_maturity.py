"""Decisions are mature at a given age, or at one that both stores learn from the delays seen."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from msgspec.structs import replace

from bandexa_core.ids import DecisionId
from bandexa_core.log.delays import LEAST
from bandexa_core.spec import RewardSpec
from tests.store.contract.turns import SQLITE, Turns
from tests.store.logs import learn_rows
from tests.store.reporting import activations, close_windows, rewards

AUTO = RewardSpec(reward_window_s=100.0, default_reward=0.0, maturity="auto")


def decide(client, store, make, bandit, name: str, **changes: Any) -> None:
    record = replace(make.decision(bandit, name), time=client.clock.now, **changes)
    assert client.call(store.append_decision, record) is None


def reward(client, store, make, name: str, value: float = 1.0) -> str:
    report = replace(make.report(name, value), time=client.clock.now)
    return str(client.call(rewards(store), report).status)


def pass_time(client, store, seconds: float) -> list[tuple[DecisionId, float]]:
    """Let time pass as a server does, which looks at the windows; returns what was learned."""
    learned = []
    for _ in range(round(seconds)):
        client.clock.now += 1.0
        learned += close_windows(client.call, store, client.clock.now)
    return learned


def taught(client, store, make, rules: RewardSpec = AUTO, delay_s: float = 4.0) -> Any:
    """Return a bandit whose rewards have all come after a delay."""
    bandit = make.bandit(client, store, rewards=rules)
    client.call(store.due_windows)
    for number in range(LEAST):
        decide(client, store, make, bandit, f"t{number}")
        pass_time(client, store, delay_s)
        assert reward(client, store, make, f"t{number}") == "pending"
    return bandit


def values(store, bandit, name: str) -> list[tuple[float | None, float]]:
    with store.reader() as reader:
        rows = learn_rows(reader, bandit)
    return [(row.before, row.after) for row in rows if row.decision_id == name]


@pytest.mark.few(0, of="postgres")
def test_click_and_silence_are_learned_at_an_age_and_corrected_within_the_window(
    client, store, make
):
    bandit = make.bandit(client, store, rewards=RewardSpec(**asdict(AUTO) | {"maturity": 10.0}))
    client.call(store.due_windows)
    for name in ("click", "silence", "late click", "too late"):
        decide(client, store, make, bandit, name.replace(" ", "-"))
    assert reward(client, store, make, "click") == "pending"
    assert pass_time(client, store, 9) == []
    assert pass_time(client, store, 1) == [
        ("click", 1.0), ("silence", 0.0), ("late-click", 0.0), ("too-late", 0.0),
    ]  # fmt: skip
    assert reward(client, store, make, "late-click") == "applied"
    assert pass_time(client, store, 100) == [], "the close has nothing to learn any more"
    assert reward(client, store, make, "too-late") == "late"
    assert values(store, bandit, "late-click") == [(None, 0.0), (0.0, 1.0)]
    assert values(store, bandit, "too-late") == [(None, 0.0)]
    with store.history() as history:
        assert history.decision(bandit, DecisionId("click")).matured == 1010.0


@pytest.mark.few(0, of="postgres")
def test_the_age_is_learned_from_the_delays_and_holds_for_later_decisions(client, store, make):
    bandit = taught(client, store, make)
    (age,) = client.call(store.due_windows).ages.values()
    assert 4.0 <= age < 4.4, "the upper edge of the bin of 4 s"
    decide(client, store, make, bandit, "new")
    assert ("new", 0.0) in pass_time(client, store, 5)
    assert values(store, bandit, f"t{LEAST - 1}") == [], "it was made before, and waits"
    assert pass_time(client, store, 100)[-1] == (f"t{LEAST - 1}", 1.0)


@pytest.mark.few(0, of="postgres")
def test_the_age_of_other_bandits_and_other_rules_is_not_learned(client, store, make):
    taught(client, store, make)
    client.call(store.due_windows)
    for rules in (AUTO, RewardSpec(**asdict(AUTO) | {"maturity": "close"})):
        other = make.bandit(client, store, f"other-{rules.maturity}", rewards=rules)
        decide(client, store, make, other, f"d-{rules.maturity}")
    assert not [name for name, _ in pass_time(client, store, 40) if name.startswith("d-")]
    assert not client.call(store.due_windows).ages


def test_what_is_not_activated_at_the_age_waits_for_the_close(client, store, make):
    bandit = make.bandit(client, store, rewards=RewardSpec(**asdict(AUTO) | {"maturity": 10.0}))
    client.call(store.due_windows)
    decide(client, store, make, bandit, "shown-late", activated=False)
    assert pass_time(client, store, 20) == []
    client.call(activations(store), DecisionId("shown-late"), client.clock.now)
    assert reward(client, store, make, "shown-late") == "pending"
    assert pass_time(client, store, 79) == []
    assert pass_time(client, store, 1) == [("shown-late", 1.0)]


def test_an_erased_decision_does_not_mature(client, store, make):
    bandit = make.bandit(client, store, rewards=RewardSpec(**asdict(AUTO) | {"maturity": 10.0}))
    client.call(store.due_windows)
    decide(client, store, make, bandit, "gone")
    erasure = client.call(store.begin_erasure, bandit.key, None, (DecisionId("gone"),))
    client.call(store.erase, erasure, 0)
    assert pass_time(client, store, 101) == []


def test_age_and_waiting_decisions_survive_a_restart(tmp_path, make):
    """A store in memory ends with its process."""
    client = Turns(SQLITE, tmp_path)
    store = client.open()
    bandit = taught(client, store, make)
    ages = client.call(store.due_windows).ages
    decide(client, store, make, bandit, "open")
    client.close()
    client.clock.now += 1000.0  # nobody watched, so that nothing has aged
    again = client.open()
    assert client.call(again.due_windows).ages == ages
    decide(client, again, make, bandit, "later")
    assert [name for name, _ in pass_time(client, again, 5)][:2] == ["open", "later"]
    client.close()
