"""Both clients against a real server: every call, and every field of every answer."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import httpx
import numpy as np
import pytest

import bandexa_client
from bandexa_client import (
    Action,
    ActivationStatus,
    BanditClient,
    Conflict,
    Gone,
    Invalid,
    NotFound,
    RewardReport,
    RewardStatus,
    Selection,
    SelectRequest,
)
from tests.client.scripted import Connect
from tests.fixtures.waiting import poll

SPEC = {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2, "seed": 1}
NUMBERS = itertools.count()

# A dataclass of the client, and the model of the server's OpenAPI document that it reads.
MODELS = {
    "Action": "ActionRef",
    "ActionScore": "Score",
    "ActionState": "ActionState",
    "ActionValue": "ActionValue",
    "Added": "AddedLine",
    "Advice": "AdviceAnswer",
    "AdviceInputs": "AdviceInputs",
    "AdviceNeeded": "AdviceNeeded",
    "AdviceNow": "AdviceNow",
    "AuditEntry": "AuditLine",
    "AuditTrail": "AuditList",
    "ArmState": "ArmState",
    "ComparedArm": "ComparedState",
    "NotedFinding": "NotedFinding",
    "NotedFindings": "FindingList",
    "Estimate": "EstimateState",
    "Guarded": "TripState",
    "Values": "ValuesAnswer",
    "ActivationStatus": "ActivateAnswer",
    "BanditState": "BanditAnswer",
    "Catalogue": "CatalogueAnswer",
    "CandidatePropensity": "CandidatePropensity",
    "ChallengerScore": "ScoreState",
    "ChallengerState": "ChallengerState",
    "ClockState": "ClockAnswer",
    "Amendment": "AmendmentLine",
    "Compacted": "CompactAnswer",
    "Imported": "ImportAnswer",
    "Corrected": "CorrectAnswer",
    "Erased": "EraseAnswer",
    "EvaluationState": "EvaluationState",
    "ExplainedAction": "ChosenLine",
    "ExplainedCandidate": "CandidateLine",
    "Explanation": "DecisionAnswer",
    "Finding": "FindingAnswer",
    "KeyChange": "KeyChange",
    "LearnRow": "LearnLine",
    "BanditLearning": "BanditLearning",
    "LearnState": "LearnAnswer",
    "FieldRates": "FieldRates",
    "Learning": "Learning",
    "LiftLine": "LiftLine",
    "LiftPart": "LiftPart",
    "MetricState": "MetricState",
    "Plan": "PlanAnswer",
    "Readiness": "Health",
    "Rebuild": "RebuildState",
    "Replayed": "ReplayAnswer",
    "ReportedReward": "RewardLine",
    "Reproduction": "ReproducedLine",
    "RewardReport": "RewardRequest",
    "RewardStatus": "RewardAnswer",
    "Scores": "ScoreAnswer",
    "SelectRequest": "SelectRequest",
    "Selection": "SelectAnswer",
    "SentContext": "ContextArray",
    "SnapshotState": "SnapshotAnswer",
    "SnapshotSummary": "SnapshotSummary",
    "Snapshots": "SnapshotList",
    "TrainerState": "TrainerState",
    "Training": "TrainAnswer",
    "Voided": "VoidAnswer",
}
OWN = {"BanditState": {"created", "etag"}, "Selection": {"fallback"}}


@pytest.fixture
def client(server: Any, connect: Connect) -> BanditClient:
    return connect(server.url, timeout_s=60.0)


@pytest.fixture
def bandit(client: BanditClient) -> str:
    """A bandit with the actions x (1, 0) and y (0, 1)."""
    name = f"contract-{next(NUMBERS)}"
    client.put_bandit(name, SPEC)
    client.put_actions(name, ["x", "y"], np.eye(2))
    return name


def test_every_field_of_the_server_is_read(http: httpx.Client) -> None:
    models = http.get("/openapi.json").json()["components"]["schemas"]
    for name, model in MODELS.items():
        fields = {field.name for field in dataclasses.fields(getattr(bandexa_client, name))}
        assert fields - OWN.get(name, set()) == set(models[model]["properties"]), name


def test_every_value_of_the_client_is_compared() -> None:
    values = {
        name
        for name in bandexa_client.__all__
        if dataclasses.is_dataclass(getattr(bandexa_client, name))
    }
    assert values - {"Retry", "NO_RETRY", "LogPage"} == set(MODELS)  # a page is lines, no object


def test_a_bandit_from_its_creation_to_its_deletion(client: BanditClient) -> None:
    name = f"contract-{next(NUMBERS)}"
    created = client.put_bandit(name, SPEC)
    assert created.created
    assert (created.name, created.num_actions, created.spec["seed"]) == (name, 0, 1)
    again = client.put_bandit(name, SPEC)
    assert (again.created, again.uid) == (False, created.uid)
    with pytest.raises(Conflict):
        client.put_bandit(name, SPEC | {"action_dim": 3})
    assert created.learning.findings == ()
    assert name in [one.name for one in client.list_bandits()]
    client.delete_bandit(name)
    with pytest.raises(NotFound) as caught:
        client.get_bandit(name)
    assert caught.value.problem["type"] == "urn:bandexa:unknown-bandit"


def test_actions_are_put_listed_and_retired(client: BanditClient, bandit: str) -> None:
    assert client.put_actions(bandit, ["z"], [[0.5, 0.5]], enabled=[False]).num_actions == 2
    rows = [(one.id, one.index, one.enabled, one.features) for one in client.list_actions(bandit)]
    assert rows == [
        ("x", 0, True, (1.0, 0.0)), ("y", 1, True, (0.0, 1.0)), ("z", 2, False, (0.5, 0.5)),
    ]  # fmt: skip
    assert client.retire_action(bandit, "x").num_actions == 1
    assert client.retire_action(bandit, "x").num_actions == 1
    assert client.select(bandit, [1.0, 0.0]).action.id == "y"
    client.put_actions(bandit, [{"id": "x", "enabled": True}, {"id": "z"}])
    assert all(one.enabled for one in client.list_actions(bandit))
    assert [one.id for one in client.list_actions(bandit, offset=1, limit=1)] == ["y"]
    with pytest.raises(NotFound):
        client.retire_action(bandit, "nothing")
    with pytest.raises(Invalid, match="features"):
        client.put_actions(bandit, ["new"])


@pytest.mark.few(1)
def test_what_was_wrong_is_listed(client: BanditClient, bandit: str) -> None:
    assert client.findings(bandit).findings == ()
    state = client.set_mode(bandit, "frozen")
    assert [one.name for one in state.learning.findings] == ["frozen"]
    assert state.held_values == 0

    def noted() -> bool:
        found = client.findings(bandit).findings
        return [(one.name, one.severity, one.until) for one in found] == [
            ("frozen", "notice", None)
        ]

    poll(noted, "the notice is noted")
    with pytest.raises(NotFound):
        client.findings("nothing")


def test_a_decision_is_selected_rewarded_and_explained(client: BanditClient, bandit: str) -> None:
    context = np.array([0.25, 1.0], np.float32)
    chosen = client.select(bandit, context, decision_id=f"{bandit}-1", candidates=["y", "x"])
    assert (
        client.select(bandit, context, decision_id=f"{bandit}-1", candidates=["y", "x"]) == chosen
    )
    assert chosen.actions == (chosen.action,)
    assert client.reward(chosen.decision_id, 1.0) == RewardStatus("applied", False)
    found = client.explain(bandit, chosen.decision_id)
    assert (found.decision_id, found.bandit, found.snapshot) == (chosen.decision_id, bandit, 0)
    assert (found.explained, found.reason, found.num_candidates) == (True, None, 2)
    assert np.frombuffer(found.context.data, found.context.dtype).tolist() == context.tolist()
    assert found.reproduced is not None
    assert found.reproduced.action
    assert [one.id for one in found.candidates if one.chosen] == [chosen.action.id]
    assert [one.reward for one in found.chosen[0].rewards] == [1.0]
    assert [(one.before, one.after) for one in found.chosen[0].learned] == [(None, 1.0)]
    scores = client.score(bandit, context, [{"id": "own", "features": [1.0, 1.0]}])
    assert scores.scores[0].id == "own"
    with pytest.raises(NotFound):
        client.explain(bandit, "nothing")


def test_a_decision_counts_once_it_is_activated(client: BanditClient, bandit: str) -> None:
    chosen = client.select(bandit, [1.0, 0.0], activate=False, k=2)
    assert len(chosen.actions) == 2
    assert client.activate(chosen.decision_id) == ActivationStatus("applied")
    assert client.activate(chosen.decision_id) == ActivationStatus("duplicate")
    assert client.explain(bandit, chosen.decision_id).activated


def test_batches_answer_each_item(client: BanditClient, bandit: str) -> None:
    good, bad = client.select_batch(
        [SelectRequest(bandit, [1.0, 0.0]), SelectRequest("nobody", [1.0, 0.0])]
    )
    assert isinstance(good, Selection)
    assert isinstance(good.action, Action)
    assert isinstance(bad, NotFound)
    reports = [RewardReport(good.decision_id, 0.5), RewardReport("nothing", 0.5)]
    applied, unknown = client.reward_batch(reports)
    assert isinstance(applied, RewardStatus)
    assert isinstance(unknown, NotFound)


def test_a_model_is_trained_moved_and_rolled_back(client: BanditClient, bandit: str) -> None:
    chosen = client.select(bandit, [1.0, 0.0])
    client.reward(chosen.decision_id, 1.0)
    trained = client.train(bandit)
    assert (trained.status, trained.trained, trained.snapshot) == ("served", True, 1)
    assert client.train(bandit, wait=False).status == "queued"
    copy = f"contract-{next(NUMBERS)}"
    client.put_bandit(copy, SPEC)
    client.put_actions(copy, ["x", "y"], np.eye(2))
    imported = client.import_snapshot(copy, client.export_snapshot(bandit))
    found = client.list_snapshots(copy)
    assert found.served == imported.snapshot
    assert [one.version for one in found.snapshots] == [0, imported.snapshot]
    assert all(one.bytes > 0 for one in found.snapshots)
    back = client.rollback(copy, 0)
    assert client.get_bandit(copy).snapshot == back.snapshot
    with pytest.raises(NotFound):
        client.rollback(copy, 99)


def test_a_log_is_read_page_by_page(client: BanditClient, bandit: str) -> None:
    made = [client.select(bandit, [number, 1.0]).decision_id for number in range(3)]
    client.reward(made[0], 0.5)
    page = client.export_log(bandit, limit=2)
    assert page.rows[0]["kind"] == "bandit"
    assert page.more
    client.reward(made[2], 1.0)
    last = client.export_log(bandit, after=page.row, moment=page.moment)
    assert not last.more
    rows = [row for row in page.rows + last.rows if row["kind"] == "decision"]
    assert [row["decision_id"] for row in rows] == made
    assert [row["value"] for row in rows] == [0.5, None, None]


def test_the_server_is_ready_and_learns(client: BanditClient, bandit: str) -> None:
    ready = client.ready()
    assert ready
    assert (ready.status, ready.detail) == ("ready", None)
    assert ready.trainer is not None
    assert client.learnz().bandits[bandit].findings == ()


def test_a_select_has_the_propensities_that_it_asks_for(client: BanditClient, bandit: str) -> None:
    places = client.select(bandit, [1.0, 0.0], k=2).propensities
    assert places is not None
    assert [0.0 < each < 1.0 for each in places] == [True, True]
    assert client.select(bandit, [1.0, 0.0]).all_propensities is None
    chosen = client.select(bandit, [1.0, 0.0], all_propensities=True)
    asked = SelectRequest(bandit, [1.0, 0.0], all_propensities=True)
    (batched,) = client.select_batch([asked])
    assert isinstance(batched, Selection)
    for one in (chosen, batched):
        assert one.all_propensities is not None
        assert [(each.id, each.index) for each in one.all_propensities] == [("x", 0), ("y", 1)]
        assert sum(each.propensity for each in one.all_propensities) == pytest.approx(1.0)
        served = one.all_propensities[one.action.index]
        assert served.propensity == pytest.approx(one.propensity)


def test_a_unit_is_erased(client: BanditClient, bandit: str) -> None:
    name = f"unit-{bandit}"
    requests = [SelectRequest(bandit, [1.0, 0.0], unit=name), SelectRequest(bandit, [0.0, 1.0])]
    hers, other = client.select_batch(requests)
    assert isinstance(hers, Selection)
    assert isinstance(other, Selection)
    later = client.select(bandit, [0.5, 0.5], unit=name)
    client.reward(hers.decision_id, 1.0)
    done = client.erase(unit=name, bandit=bandit)
    assert (done.decisions, done.samples, done.rebuilt, done.waiting) == (2, 0, (bandit,), ())
    with pytest.raises(Gone):
        client.reward(later.decision_id, 1.0)
    with pytest.raises(Gone):
        client.explain(bandit, hers.decision_id)
    assert client.reward(other.decision_id, 1.0).status == "applied"
    assert client.erase(decision_ids=[other.decision_id]).decisions == 1
    assert client.compact().is_done


def test_the_clock_is_shown_and_accepted(client: BanditClient) -> None:
    shown, accepted = client.clock(), client.accept_clock()
    assert 0.0 <= accepted.service - shown.service < 60.0
    assert abs(accepted.wall - accepted.service) < 1.0
    assert abs(accepted.offset_s) < 1.0
