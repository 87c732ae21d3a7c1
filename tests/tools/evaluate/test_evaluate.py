"""Policies estimated from logs of which the truth is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.spec import (
    ActionsSpec,
    BanditSpec,
    ContextSpec,
    EncoderSpec,
    TrainingSpec,
)
from service.tools.challenge.scoring import compared
from service.tools.evaluate.cases import Case, Cases
from service.tools.evaluate.learner import Learner
from service.tools.evaluate.policies import (
    Asked,
    FilePolicy,
    Logging,
    OneAction,
    PolicyError,
    UniformChoice,
)
from service.tools.evaluate.report import Evaluation, evaluate, remarks, table
from service.tools.evaluate.scoring import Scored, Wanted
from tests.tools.evaluate.logs import logged

MEANS, CHANCES = np.array([0.2, 0.5, 0.3]), np.array([0.5, 0.3, 0.2])
UNIT = Wanted(low=0.0, high=1.0)


def of(found: Evaluation, name: str) -> Scored:
    return next(each for each in found.policies if each.policy == name)


@pytest.fixture(scope="module")
def found() -> Evaluation:
    policies: list[Asked] = [Logging(), UniformChoice(), OneAction("a1"), OneAction("a2")]
    return evaluate(logged(2500, MEANS, CHANCES, all_known=True), policies, UNIT)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "truth"),
    [("logged", 0.31), ("uniform", MEANS.mean()), ("action:a1", 0.5), ("action:a2", 0.3)],
)
def test_every_estimate_and_interval_has_the_truth(
    found: Evaluation, name: str, truth: float
) -> None:
    scored = of(found, name)
    assert scored.concludes, scored.reasons
    for estimate in scored.estimates.values():
        assert abs(estimate["value"] - truth) < 4.0 * estimate["error"] + 1e-9
    assert scored.interval is not None
    assert scored.interval.low <= truth <= scored.interval.high
    assert scored.robust is not None
    assert scored.robust.low <= truth <= scored.robust.high
    if name != "logged":
        assert scored.lift is not None
        assert scored.lift.low <= truth - MEANS @ CHANCES <= scored.lift.high


def test_the_better_action_is_seen_to_be_better_than_what_was_served(found: Evaluation) -> None:
    lift = of(found, "action:a1").lift
    assert lift is not None
    assert lift.low > 0.0


def test_without_support_nothing_is_concluded_and_it_says_what_is_needed() -> None:
    chances = np.array([0.9985, 0.001, 0.0005])
    found = evaluate(logged(2000, MEANS, chances), [OneAction("a2"), OneAction("gone")], UNIT)
    rare = of(found, "action:a2")
    assert not rare.concludes
    assert any("fewer than 200" in reason for reason in rare.reasons)
    assert rare.needed["floor"] is None or rare.needed["floor"] > 0.1
    text = "\n".join(remarks(found))
    assert "nothing can be concluded" in text
    assert "to see a difference of d = 0.05" in text


def test_an_action_the_log_never_chose_is_refused() -> None:
    chances = np.array([0.6, 0.4, 0.0])
    found = evaluate(logged(500, MEANS, chances, all_known=True), [OneAction("a2")], UNIT)
    (scored,) = found.policies
    assert scored.reasons == ("no logged choice is one that it would make",)
    assert scored.unsupported == 1.0
    mixed = evaluate(logged(1500, MEANS, chances, all_known=True), [UniformChoice()], UNIT)
    assert any("could not occur" in reason for reason in mixed.policies[0].reasons)


def test_wrong_propensities_are_refused() -> None:
    rows = logged(1500, MEANS, CHANCES)
    for row in rows:
        if row["kind"] == "decision":
            row["propensity"] *= 0.6
    (scored,) = evaluate(rows, [UniformChoice()], UNIT).policies
    assert any("should average 1" in reason for reason in scored.reasons)


def test_decisions_without_value_are_left_out_or_count_as_one() -> None:
    rows = logged(1000, MEANS, CHANCES)
    for row in rows:
        if row["kind"] == "decision" and row["value"] == 0.0:
            row["value"] = None
    rows[2]["activated"] = False
    rows[3] |= {"propensity": None, "value": 1.0}
    left = evaluate(rows, [Logging()], UNIT)
    assert left.skipped["never activated"] == 1
    assert left.skipped["no propensity"] == 1
    assert left.skipped["no value"] > 500
    assert of(left, "logged").estimates["ips"]["value"] == 1.0
    counted = evaluate(rows, [Logging()], UNIT, missing=0.0)
    assert abs(of(counted, "logged").estimates["ips"]["value"] - MEANS @ CHANCES) < 0.06


def test_what_an_arm_served_with_certainty_says_nothing_of_other_actions() -> None:
    """A fifth of the units stays in a control that serves a0, with the probability 1."""
    rows, rng = logged(3000, MEANS, CHANCES), np.random.default_rng(5)
    decided = [row for row in rows if row["kind"] == "decision"]
    control = [row for row in decided if rng.random() < 0.2]
    for row in decided:
        row["arm"] = "bandit"
    for row in control:
        row |= {"arm": "control", "action": "a0", "propensity": 1.0}
        row["value"] = float(rng.random() < MEANS[0])
    found = evaluate(rows, [UniformChoice()], UNIT)
    (scored,) = found.policies
    assert found.skipped == {"decided by an arm alone": len(control)}
    assert scored.reasons == ()
    assert scored.interval is not None
    assert scored.interval.low <= float(MEANS.mean()) <= scored.interval.high


def test_values_outside_of_the_range_have_no_interval() -> None:
    rows = logged(600, MEANS, CHANCES)
    rows[2]["value"] = 7.0
    (scored,) = evaluate(rows, [Logging()], UNIT).policies
    assert scored.interval is None
    assert "1 values are outside of the range" in scored.reasons
    (loose,) = evaluate(rows, [Logging()], Wanted()).policies
    assert loose.interval is None
    assert loose.methods == {"robust": "asymptotic"}


def test_a_file_decides_by_the_context(tmp_path: Path) -> None:
    file = tmp_path / "rule.py"
    file.write_text(
        "def policy(context, candidates):\n"
        "    if context[0] == 0:\n"
        "        return 'a1'\n"
        "    return [1 / len(candidates)] * len(candidates)\n"
    )
    (scored,) = evaluate(logged(2000, MEANS, CHANCES), [FilePolicy(file)], UNIT).policies
    truth = 0.5 * 0.5 + 0.5 * MEANS.mean()
    assert scored.interval is not None
    assert scored.interval.low <= truth <= scored.interval.high
    file.write_text("def policy(context, candidates):\n    return [0.5, 0.9, 0.1]\n")
    with pytest.raises(PolicyError, match="probabilities of sum 1"):
        evaluate(logged(10, MEANS, CHANCES), [FilePolicy(file)], UNIT)
    file.write_text("def policy(context, candidates):\n    return 1 / 0\n")
    with pytest.raises(PolicyError, match="ZeroDivisionError"):
        evaluate(logged(10, MEANS, CHANCES), [FilePolicy(file)], UNIT)
    file.write_text("x = 1\n")
    with pytest.raises(PolicyError, match="no function policy"):
        FilePolicy(file)


def linear(**more) -> BanditSpec:
    return BanditSpec(
        policy="linear_ts", context=ContextSpec(shape=(1,)), encoder=EncoderSpec(name="per_action"),
        reward_range=(0.0, 1.0), **more,
    )  # fmt: skip


def test_a_configuration_learns_from_the_log_and_is_better_than_it() -> None:
    """The best action earns .5, the log .31: a learner is near .5 but for its first rows."""
    learner = Learner("config:linear", linear(), EncoderRegistry())
    (scored,) = evaluate(logged(2000, MEANS, CHANCES), [learner], UNIT).policies
    assert scored.concludes, scored.reasons
    assert scored.estimates["dr"]["value"] > 0.42
    assert scored.lift is not None
    assert scored.lift.low > 0.0
    assert scored.methods["interval"] == "mixture"


def test_a_configuration_never_sees_a_row_before_it_is_asked() -> None:
    """Values are a coin, and contexts tell rows apart: what is known beforehand is worth .5."""
    rng = np.random.default_rng(3)
    rows = logged(800, np.full(2, 0.5), np.full(2, 0.5))
    for row in rows:
        if row["kind"] == "decision":
            row["context"] = [float(rng.normal())]
    learner = Learner("config:linear", linear(), EncoderRegistry())
    (scored,) = evaluate(rows, [learner], UNIT).policies
    for estimate in scored.estimates.values():
        assert abs(estimate["value"] - 0.5) < 4.0 * estimate["error"]


def test_a_network_on_named_features_is_trained_on_the_way() -> None:
    """Objects as contexts: the action named in the context earns 1, any other one 0."""
    rng = np.random.default_rng(4)
    rows = logged(600, np.full(3, 0.5), np.full(3, 1.0 / 3.0))
    for row in rows:
        if row["kind"] == "decision":
            wanted = f"a{rng.integers(3)}"
            row["context"] = {"wants": wanted}
            row["value"] = float(row["action"] == wanted)
        if row["kind"] == "actions":
            for line in row["actions"]:
                line["features"] = {"name": line["id"]}
    spec = BanditSpec(
        context=ContextSpec(features="auto"), actions=ActionsSpec(features="auto"),
        reward_range=(0.0, 1.0), training=TrainingSpec(optimizer_steps=60),
    )  # fmt: skip
    learner = Learner("config:auto", spec, EncoderRegistry(torch_threads=1))
    (scored,) = evaluate(rows, [learner], UNIT).policies
    assert scored.estimates["snips"]["value"] > 0.45


def test_contexts_that_do_not_fit_are_named() -> None:
    learner = Learner("config:wide", linear(), EncoderRegistry())
    rows = logged(5, MEANS, CHANCES)
    rows[3]["context"] = [1.0, 2.0]
    with pytest.raises(PolicyError, match="decision d1: it does not fit"):
        evaluate(rows, [learner], UNIT)


def test_actions_that_do_not_fit_are_named() -> None:
    spec = BanditSpec(
        policy="linear_ts", context=ContextSpec(shape=(1,)), action_dim=2, reward_range=(0.0, 1.0)
    )
    with pytest.raises(PolicyError, match="the log's actions do not fit"):
        evaluate(logged(5, MEANS, CHANCES), [Learner("c", spec, EncoderRegistry())], UNIT)


def test_a_report_is_plain_json_and_a_table(found: Evaluation) -> None:
    whole = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert whole["num_decisions"] == 2500
    assert whole["policies"][1]["weights"]["average_one"]
    head, lines = table(found)
    assert len(lines) == 4
    assert all(len(line) == len(head) for line in lines)


def test_later_decisions_of_a_unit_are_learned_and_not_counted() -> None:
    rows = logged(90, MEANS, CHANCES)
    for row in rows:
        if row["kind"] == "decision":
            row["first_of_unit"] = row["row"] % 3 == 1

    class Noting(UniformChoice):
        def __init__(self) -> None:
            super().__init__()
            self.asked: set[str] = set()
            self.learned: list[str] = []

        def chances(self, case: Case) -> np.ndarray:
            self.asked.add(case.decision_id)
            return super().chances(case)

        def learn(self, cases: Sequence[Case]) -> None:
            self.learned += [case.decision_id for case in cases]

    evaluated, challenging = Noting(), Noting()
    found = evaluate(rows, [evaluated], UNIT)
    assert found.skipped == {"not the first of its unit (sticky: action)": 60}
    assert "60 of 90 decisions were left out: not the first of its unit" in remarks(found)[0]
    score = compared(Cases(rows), {"other": challenging}, {"other": 1}, 1)["other"]
    assert (score.num, score.left_out, found.policies[0].num) == (30, 60, 30)
    for noting in (evaluated, challenging):
        assert noting.asked == {f"d{number}" for number in range(0, 90, 3)}
        assert noting.learned == [f"d{number}" for number in range(90)]
